"""Classes of the user's own: named `module:Class` or `path/file.py:Class`, or offered by an installed package.

A file becomes a module of its own, read anew when it has changed; what lies beside it can be imported, after
everything that is installed.  Whatever is wrong with such code is told by file and line.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.metadata
import signal
import sys
import traceback
import types
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from ..text import named, suggest
from .mistakes import BadConfiguration

T = TypeVar("T")
_files: dict[Path, tuple[bytes, types.ModuleType]] = {}  # by their path: the text that was read, and what it became


class PluginError(BadConfiguration):
    """Code that cannot be loaded: one line for each mistake."""


class Mistakes(TypeError):
    """What is wrong with a class as it was declared: sentences, each with the member that it is about, or ""."""

    def __init__(self, owner: type, mistakes: Iterable[tuple[str, str]]) -> None:
        self.owner, self.mistakes = owner.__name__, list(mistakes)
        self.file = getattr(sys.modules.get(owner.__module__), "__file__", None)
        super().__init__("\n".join(text for _, text in self.mistakes))


def is_plugin(name: str) -> bool:
    """Whether *name* has the shape of a class, or file, of the user's own."""
    return ":" in name or name.endswith(".py")


def load(name: str, folder: Path, base: type[T]) -> type[T]:
    """The one class that *name* stands for; see `load_all`.  Raises PluginError."""
    found = load_all(name, folder, base)
    if len(found) > 1:
        names = [member.__name__ for member in found]
        raise PluginError([f"{name}: which class? it has {', '.join(names)}: write {name}:{names[0]}"])
    return found[0]


def load_all(name: str, folder: Path, base: type[T]) -> list[type[T]]:
    """The class *name*, or all that there are if it names none; each has to be a *base*.

    A file is relative to *folder*.  Raises PluginError.
    """
    place, colon, wanted = name.rpartition(":") if ":" in name else (name, "", "")
    module = _file(Path(folder, place), place) if place.endswith(".py") else _module(place)
    own = of(module, base)
    names = [member.__name__ for member in own]
    found = vars(module).get(wanted)
    if isinstance(found, type) and issubclass(found, base):
        return [found]
    if found is not None:
        raise PluginError([f"{place}: {wanted} is no {base.__name__}: class {wanted}({base.__name__}): ..."])
    if colon or not own:
        has = f"it has {', '.join(names)}" if names else f"it has no {base.__name__}"
        raise PluginError([f"{place}: no class {wanted!r}{suggest(wanted, names)}; {has}" if colon else
                           f"{place}: {has}: class Name({base.__name__}): ..."])  # fmt: skip
    return own


def of(module: types.ModuleType, base: type[T]) -> list[type[T]]:
    """The subclasses of *base* that *module* itself defines, in their order."""
    own = [
        member
        for member in vars(module).values()
        if isinstance(member, type) and issubclass(member, base) and member.__module__ == module.__name__
    ]
    return list(dict.fromkeys(own))  # one may have two names


def offered(group: str) -> dict[str, importlib.metadata.EntryPoint]:
    """What installed packages offer in the entry point group *group*, by name."""
    return {point.name: point for point in importlib.metadata.entry_points(group=group)}


def load_offered(point: importlib.metadata.EntryPoint, base: type[T]) -> type[T]:
    """The class of an entry point.  Raises PluginError."""
    return load("".join(point.value.partition("[")[0].split()), Path(), base)  # extras may stand behind it


def is_interrupted(error: BaseException) -> bool:
    """Whether *error* is the user's Ctrl-C: where that is no exception, as in a daemon, it is its author's doing."""
    return isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def _module(name: str) -> types.ModuleType:
    missing = PluginError([f"no module {name!r} is installed; a file is written as path/file.py:Class"])
    if not all(part.isidentifier() for part in name.split(".")):
        raise missing
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what it prints is no data of ours
            return importlib.import_module(name)
    except BaseException as error:  # whatever its author did, sys.exit() included
        if is_interrupted(error):
            raise
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise missing from None
        raise PluginError(_told(error)) from error


def _file(path: Path, shown: str) -> types.ModuleType:
    try:
        path = path.resolve()
        source = path.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:  # a null byte, a loop of symbolic links
        raise PluginError([f"{shown}: {getattr(error, 'strerror', None) or error}"]) from None
    if path in _files and _files[path][0] == source:
        return _files[path][1]
    module = types.ModuleType(str(path))
    module.__file__, module.__package__ = str(path), ""
    before = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module  # dataclasses look there
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        tree = ast.parse(source, path)
        if mixed_up := _mixed_up(tree, path.parent, shown):
            raise PluginError(mixed_up)
        with contextlib.redirect_stdout(sys.stderr):
            exec(compile(tree, path, "exec"), vars(module))
    except BaseException as error:
        del sys.modules[module.__name__]
        if before is not None:  # classes of it may be in use
            sys.modules[module.__name__] = before
        if isinstance(error, PluginError) or is_interrupted(error):
            raise
        raise PluginError(_told(error, str(path), shown)) from error
    _files[path] = source, module
    return module


def _mixed_up(tree: ast.Module, folder: Path, shown: str) -> list[str]:
    """What this file would import from another one's folder, though a file of that name is in its own *folder*."""
    folders = {known.parent for known in _files}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        else:
            continue
        for name in (name.partition(".")[0] for name in names):
            file, there = folder / f"{name}.py", getattr(sys.modules.get(name), "__file__", None)
            if there and file.is_file() and Path(there) != file and Path(there).parent in folders:
                found.append(f"{shown}:{node.lineno}: {name} is {there} already, not {file}: rename one")
    return found


def _told(error: BaseException, file: str | None = None, shown: str = "") -> list[str]:
    """What *error* says, a line for each mistake, with its place; *shown* is how *file* is called."""
    if isinstance(error, Mistakes) and error.file and Path(error.file).is_file():
        return _by_line(error, Path(error.file).read_bytes(), shown if error.file == file else error.file)
    if isinstance(error, SyntaxError) and error.filename:
        at = f"{shown if error.filename == file else error.filename}:{error.lineno or 1}"
        return [f"{at}: {error.msg}"]
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    frame = ([frame for frame in frames if frame.filename == file] or frames)[-1]
    at = f"{shown}:{frame.lineno}" if frame.filename == file else shown or f"{frame.filename}:{frame.lineno}"
    return [f"{at}: {' '.join(named(error).split())}"]


def _by_line(error: Mistakes, source: bytes, shown: str) -> list[str]:
    """The mistakes of a class, each with the line of its member."""
    lines = {"": 1}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef) and node.name == error.owner:
            lines[""] = node.lineno
            for member in node.body:
                if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef):
                    lines[member.name] = member.lineno
                    for inner in ast.walk(member):
                        if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
                            lines.setdefault(inner.attr, inner.lineno)
                for name in ast.walk(member) if isinstance(member, ast.Assign | ast.AnnAssign) else ():
                    if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store):
                        lines[name.id] = name.lineno
    told = [(lines.get(member, lines[""]), text) for member, text in error.mistakes]
    return [f"{shown}:{line}: {text}" for line, text in sorted(told, key=lambda each: each[0])]
