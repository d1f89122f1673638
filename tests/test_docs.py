"""Every block of code in README and docs, as it stands: files written, sessions typed, Python run, machines checked.

A document is worked through from its top in one folder, which looks like a checkout:

- `console`: each line after `$ ` is run by one shell, and has to succeed; what is shown below it has to come, in that
  order, where `...` stands for anything and process ids may differ.  `console root` would change the system: bash only
  reads it.
- `python`, `toml`, `ini`: a block whose first line is `# NAME` is that file.  Other Python is run, every machine file
  is checked with `hostd check`.
- `text` is none of these: pictures, shapes.
"""

from __future__ import annotations

import configparser
import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHAPES = {"protocol.md"}  # shows messages in indented blocks, which test_protocol_doc.py compares
FILE = re.compile(r"# ([\w./-]+\.(?:py|toml|conf))\b")
PROGRAMS = re.compile(r"\b(?:nbdcopy|nbdinfo|socat|systemd-socket-activate|systemd-analyze)\b")
RUN_PYTHON = """\
import ast, asyncio, inspect, sys
work = eval(compile(sys.stdin.read(), sys.argv[1], "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), {"__name__": "__main__"})
if inspect.iscoroutine(work):
    asyncio.run(work)
"""


class Step(NamedTuple):
    """Something to do: what the shell is given, what it has to print, and where that stands."""

    shell: str
    shown: list[str]
    line: int


def steps(document: Path) -> Iterator[Step]:
    """What a document has one do."""
    for token in MarkdownIt().parse(document.read_text()):
        if token.type in ("fence", "code_block") and document.name not in SHAPES:
            line = (token.map or [0])[0] + 1
            assert token.info, f"{document.name}:{line}: a block without a language"
            yield from block(token.info, token.content, line)


def block(language: str, text: str, line: int) -> Iterator[Step]:
    """What to do with one block."""
    name = FILE.match(text)
    file = name[1] if name else "block.toml"
    if name is not None or language == "toml":
        yield Step(f"cat > {file} <<'END'\n{text}END", [], line)
    if name is not None and language == "python":
        yield Step(f"python -m py_compile {file}", [], line)
    if language == "console":
        yield from session(text, line)
    elif language == "console root":
        commands = "\n".join(step.shell for step in session(text, line))
        yield Step(f"bash -n <<'END'\n{commands}\nEND", [], line)
    elif language == "python":
        if name is None:
            yield Step(f"python -c {shlex.quote(RUN_PYTHON)} 'line {line}' <<'END'\n{text}END", [], line)
    elif language == "toml":
        yield Step(f"hostd check {file}", [], line)
    elif language == "ini":
        configparser.RawConfigParser(strict=False).read_string(text)
    else:
        assert language == "text", f"line {line}: a block of {language}"


def session(text: str, line: int) -> Iterator[Step]:
    """The commands of a session, each with the lines shown below it."""
    step: Step | None = None
    for number, each in enumerate(text.splitlines(), line + 1):
        if step is not None and step.shell.endswith("\\"):
            step = step._replace(shell=f"{step.shell}\n{each}")
        elif each.startswith("$ "):
            if step is not None:
                yield step
            step = Step(each[2:], [], number)
        else:
            assert step is not None, f"line {number}: a session begins with $"
            step.shown.append(each)
    if step is not None:
        yield step


def matches(shown: str, printed: str) -> bool:
    """Whether *printed* is what a document shows."""
    pattern = re.escape(shown.rstrip()).replace(r"\.\.\.", ".*")
    return re.fullmatch(re.sub(r"pid\\ \d+", r"pid \\d+", pattern), printed.rstrip()) is not None


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like this checkout after `scripts/test`, in which files may be made."""
    folder = tmp_path / "checkout"
    venv = folder / ".venv"
    venv.mkdir(parents=True)
    for entry in ROOT.iterdir():
        if entry.name == "scripts":
            shutil.copytree(entry, folder / entry.name)
        elif not entry.name.startswith((".git", ".venv")):
            (folder / entry.name).symlink_to(entry)
    for entry in Path(sys.prefix).iterdir():  # the environment of these tests, in which nothing may be installed anew
        if not entry.name.startswith(".installed"):
            (venv / entry.name).symlink_to(entry)
    (venv / ".installed-dev").touch()
    return folder


def work_through(todo: list[Step], checkout: Path) -> tuple[int, list[str]]:
    """Do all steps in one shell, to the first that fails: how many went well, and what each printed."""
    script = [f"echo; echo @@\n{step.shell}\nstatus=$?; [ $status = 0 ] || exit $status" for step in todo]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RUNTIME_DIRECTORY": str(checkout / "run"),
        "HOME": str(checkout),
        "NO_COLOR": "1",
        # `scripts/test` is in the README, and must not go round in a circle: it finds a few.
        "PYTEST_ADDOPTS": "--collect-only -q --ignore-glob=tests/*/* --ignore-glob=tests/test_[!h]*",
        "PYTEST_XDIST_AUTO_NUM_WORKERS": "0",
    }
    environment.pop("HOSTD_SOCKET", None)
    output = checkout.parent / "output"
    with output.open("wb") as file:
        shell = subprocess.Popen(
            ["bash", "-c", "\n".join([*script, "echo; echo @@"])], cwd=checkout, env=environment,
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
        try:
            shell.wait(120)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGTERM)  # hosts that are left running
            shell.wait()
    printed = re.split(r"^@@\n", output.read_text(), flags=re.M)[1:]
    return len(printed) - 1, printed


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_block_of_code_is_true(document: Path, checkout: Path) -> None:
    todo = list(steps(document))
    for program in {program for step in todo for program in PROGRAMS.findall(step.shell)}:
        if shutil.which(program) is None:
            pytest.skip(f"{document.name} uses {program}, which is not installed")
    done, printed = work_through(todo, checkout)
    for number, (step, text) in enumerate(zip(todo, printed, strict=False)):
        place = f"{document.name}:{step.line}: {step.shell.splitlines()[0]}"
        assert number < done, f"{place} failed:\n{text}"
        rest = iter(text.splitlines())
        for shown in step.shown:
            assert any(matches(shown, line) for line in rest), f"{place} does not print {shown!r}, but:\n{text}"
