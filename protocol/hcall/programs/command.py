"""How all commands behave: exit codes, errors in one line that say what, where and what next, tables, JSON.

Data goes to stdout, everything else to stderr; colour only on a terminal, and never with NO_COLOR.
"""

from __future__ import annotations

import enum
import errno
import json
import os
import sys
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Final

from ..errors import Busy, HcallError, LinkLost, NoHost, NoMatch, StaleHandle
from ..text import json_of, nearest, reason, sentence, shown
from .mistakes import BadConfiguration, BadRequest, InUse

if TYPE_CHECKING:
    from cyclopts import App, CycloptsError
    from rich.console import Console


_WIDE: Final = 1000  # columns: nothing is cut or wrapped
_LAST: Final = 20  # columns that a table's last one has at least: a terminal with fewer breaks the lines
_NUMBERS: Final[dict[type | None, str]] = {int: "a whole number", float: "a number"}


class Exit(enum.IntEnum):
    """The exit codes of all commands, and what they mean."""

    meaning: str

    OK = 0, "All is well."
    FAILED = 1, "It failed; standard error says why."
    USAGE = 2, "The command line, or a value on it, is wrong."
    NO_HOST = 3, "No host answers at the socket, or it went away."
    NO_DEVICE = 4, "There is no such device, or no longer."
    BUSY = 5, "It is in use: try again when it is free."
    TIMEOUT = 6, "It did not happen in time."
    BAD_CONFIGURATION = 78, "A machine file or a model is wrong."  # EX_CONFIG of sysexits.h
    INTERRUPTED = 130, "It was interrupted, as by Ctrl-C."  # 128 + SIGINT, as shells have it

    def __new__(cls, code: int, meaning: str) -> Exit:
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member


class Failure(Exception):
    """Ends a command with *text* and the exit code *code*."""

    def __init__(self, text: str, code: int = Exit.FAILED) -> None:
        super().__init__(text)
        self.code = code


# The one place that knows what an error is to whoever typed a command; all others are FAILED.
_EXITS: Final[tuple[tuple[type[BaseException], Exit], ...]] = (
    (InUse, Exit.BUSY),
    (BadConfiguration, Exit.BAD_CONFIGURATION),
    (BadRequest, Exit.USAGE),
    (NoHost, Exit.NO_HOST),
    (LinkLost, Exit.NO_HOST),
    (NoMatch, Exit.NO_DEVICE),
    (StaleHandle, Exit.NO_DEVICE),
    (Busy, Exit.BUSY),
    (TimeoutError, Exit.TIMEOUT),
)


def explain(error: BaseException) -> tuple[str, int]:
    """What to tell the user about *error*, and the exit code."""
    if isinstance(error, Failure):
        return str(error), error.code
    code = next((code for kind, code in _EXITS if isinstance(error, kind)), Exit.FAILED)
    return _sentence(error, code), code


def _sentence(error: BaseException, code: int) -> str:
    if isinstance(error, NoHost):
        if error.errno in (errno.EACCES, errno.EPERM):
            return f"you may not connect to {error.filename}: it is another user's; name yours with --socket"
        start = "start one with `hostd serve MACHINE.toml`, or name it with --socket"
        return f"no hostd answers at {error.filename}: {start}"
    if isinstance(error, TimeoutError):
        return reason(error) or sentence(error) or "timed out"
    if isinstance(error, HcallError) and code == Exit.FAILED:
        return f"{sentence(error)} ({error.status.name})".lstrip()
    if isinstance(error, OSError) and reason(error):
        return f"{f'{error.filename}: ' if error.filename else ''}{reason(error)}"
    return sentence(error) or type(error).__name__


def run(app: App, program: str, arguments: Sequence[str]) -> int:
    """Run the command line; the exit code.  `--debug` anywhere before `--` shows tracebacks."""
    from cyclopts import CycloptsError

    _open_standard_streams()
    words = list(arguments)
    end = words.index("--") if "--" in words else len(words)
    debug = "--debug" in words[:end]
    words = [word for n, word in enumerate(words) if n >= end or word != "--debug"]
    try:
        code = app(words, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
        return code if isinstance(code, int) else Exit.OK
    except CycloptsError as error:
        command = " ".join([program, *(error.command_chain or ())])
        say(program, f"{_mistake(app, program, error)} (see {command} --help)")
        return Exit.USAGE
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:  # of `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except Exception as error:
        if debug:
            raise
        text, code = explain(error)
        for line in text.splitlines():
            say(program, shown(line))  # the peer's, perhaps
        return code


def _mistake(app: App, program: str, error: CycloptsError) -> str:
    """What is wrong with the command line, in one line."""
    from cyclopts import (
        CoercionError,
        MissingArgumentError,
        UnknownCommandError,
        UnknownOptionError,
        UnusedCliTokensError,
    )

    word = error.unused_tokens[0] if error.unused_tokens else ""
    if isinstance(error, MissingArgumentError) and error.argument:
        return f"{error.keyword} needs a value" if error.keyword else f"{error.argument.name} is missing"
    if isinstance(error, CoercionError) and error.token and error.target_type in _NUMBERS:
        return f'{error.token.keyword} is {_NUMBERS[error.target_type]}, not "{error.token.value}"'
    if isinstance(error, UnknownCommandError):
        near = nearest(word, app)
        if word.startswith("-") and not near:
            return f'"{word}" is no option of {program}: those of a command come after it'
        return f'Unknown command "{word}"{_or(near)}'
    if isinstance(error, UnknownOptionError):
        word = error.token.keyword or error.token.value
        options = chain.from_iterable(argument.names for argument in error.argument_collection)
        return f'Unknown option "{word}"{_or(nearest(word, options))}'
    if isinstance(error, UnusedCliTokensError):
        return f'Unexpected argument "{word}"'
    return " ".join(str(error).split()).removesuffix(".")


def _or(word: str | None) -> str:
    return f': did you mean "{word}"?' if word else ""


def _open_standard_streams() -> None:
    """A stream that the caller closed is the null device: nothing else may get its number."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != fd:
                os.dup2(null, fd)
                os.close(null)
            setattr(sys, name, os.fdopen(fd, mode))


def say(program: str, line: str) -> None:
    """A line for the user, not data."""
    print(f"{program}: {line}", file=sys.stderr)


def heading(text: str) -> str:
    """*text* for standard output: bold at a terminal."""
    plain = not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain else f"\x1b[1m{text}\x1b[m"


def console() -> Console:
    """Where output goes: plain and as wide as need be when it is not a terminal."""
    from rich.console import Console

    class Output(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # which is no failure, see `run`; rich would exit with 1

    return Output(highlight=False, width=None if sys.stdout.isatty() else _WIDE)


def print_json(value: object) -> None:
    """One JSON document; see `json_of`."""
    text = json.dumps(json.loads("".join(json_of(value))), indent=2, ensure_ascii=False)
    print(text.encode(errors="backslashreplace").decode())  # half a surrogate pair, of a file's name: \\udcff


def print_table(headings: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Aligned columns; the last one is wrapped at a terminal."""
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    out = console()
    cells = [list(headings), *([shown(str(cell)) for cell in row] for row in rows)]
    *others, _ = zip(*cells, strict=True)
    out.width = max(out.width, sum(max(map(cell_len, column)) + 2 for column in others) + _LAST)
    table = Table(*cells[0], box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in table.columns:
        column.overflow = "fold"
        column.no_wrap = not out.is_terminal or column is not table.columns[-1]
    for row in cells[1:]:
        table.add_row(*map(Text, row))
    with out.capture() as capture:
        out.print(table)
    for line in capture.get().splitlines():
        print(line.rstrip())
