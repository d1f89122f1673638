"""What the programs say about themselves: help pages, mistyped words, and whether it all fits 80 columns."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import guestd
import guestd.commands.cli
import hostd
import hostd.commands.cli
from hcall.programs.command import run

PROGRAMS = {"hostd": hostd.commands.cli.app, "guestd": guestd.commands.cli.app}
COMMANDS = [(name, command) for name, program in PROGRAMS.items() for command in program if command[0] != "-"]


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What the command prints, which has to succeed."""
    assert run(PROGRAMS[words[0]], words[0], words[1:]) == 0
    out, error = capsys.readouterr()
    assert not error
    return out


def typed(*words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a command as a process, which has to succeed unless *options* say otherwise."""
    piped: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 60}
    return subprocess.run([sys.executable, "-m", *words], check=options.pop("check", True), **(piped | options))


@pytest.mark.parametrize(("name", "command"), [*COMMANDS, ("hostd", "--install-completion")])
def test_the_page_of_a_command(name: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every argument and option has a line with its name and what it means, in 80 columns without decoration."""
    page = said(capsys, name, command, "--help")
    assert page.startswith(f"Usage: {name} {command}")
    assert max(map(len, page.splitlines())) <= 80 and "\x1b" not in page
    program = PROGRAMS[name]
    with program.app_stack(program.parse_commands([command])[1]):
        for argument in program[command].assemble_argument_collection().filter_by(show=True):
            (line,) = re.findall(rf"^  (?:-\w, )?{re.escape(argument.name)}(?: .*)?$", page, re.MULTILINE)
            assert argument.parameter.help and argument.parameter.help.split()[0] in page[page.index(line) :]
    for noise in ("False", "()", "None", "default:", "--no-", "--empty-"):
        assert noise not in page


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_page_of_a_program(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    page = said(capsys, name, "--help")
    assert said(capsys, name) == said(capsys, name, "-h") == page
    listed = re.findall(r"^  ((?:-\w, )?[\w-]+)  +[A-Z].*", page, re.MULTILINE)
    assert listed == [command for program, command in COMMANDS if program == name] + [
        "-h, --help", "--version", "--install-completion", "--debug",
    ]  # fmt: skip
    assert max(map(len, page.splitlines())) <= 80
    for program, command in COMMANDS:
        assert program != name or "--debug" not in said(capsys, name, command, "--help")


def test_pages_say_what_is_typed(capsys: pytest.CaptureFixture[str]) -> None:
    """Capitals as they are meant, brackets around what may be left out, defaults that say something, examples."""
    assert said(capsys, "hostd", "serve", "--help").startswith("Usage: hostd serve [OPTIONS] MACHINE.toml\n")
    assert said(capsys, "guestd", "write", "--help").startswith("Usage: guestd write [OPTIONS] DEVICE [FILE]\n")
    assert "  -o, --output FILE " in said(capsys, "guestd", "read", "--help")
    assert "(default 5)" in said(capsys, "hostd", "unplug", "--help")
    assert "(default console)" in said(capsys, "guestd", "console", "--help")
    plug = said(capsys, "hostd", "plug", "--help")
    assert "PATH MODEL [KEY=VALUE...]\n" in plug and "\n    $ hostd plug disk2 block path=" in plug


@pytest.mark.parametrize("columns", [1, 50, 100, 500])
def test_a_page_is_as_wide_as_the_terminal_within_reason(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    widest = max(map(len, said(capsys, "guestd", "read", "--help").splitlines()))
    assert min(max(columns, 50), 100) - 20 <= widest <= min(max(columns, 50), 100)


@pytest.mark.parametrize(("variable", "bold"), [("LANG", True), ("NO_COLOR", False)])
def test_headings_are_bold_at_a_terminal(variable: str, bold: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    ours, theirs = pty.openpty()
    try:
        typed("hostd", "ls", "--help", stdout=theirs, env=environment | {"TERM": "xterm", variable: "C"})
        seen = os.read(ours, 65536).decode()
    finally:
        os.close(theirs)
        os.close(ours)
    assert ("\x1b[1mOptions:\x1b[m\r\n" in seen) is bold and ("\x1b" in seen) is bold


def test_a_narrow_terminal_costs_no_column_of_a_table() -> None:
    ours, theirs = pty.openpty()
    try:
        typed("hostd", "check", "block", stdout=theirs, env=os.environ | {"COLUMNS": "40"})
        seen = os.read(ours, 65536).decode()
    finally:
        os.close(theirs)
        os.close(ours)
    assert re.search(r"^discard\(at: int, length: int\) -> None +needs DISCARD", seen, re.MULTILINE)


def test_help_does_not_wait_for_what_it_does_not_need() -> None:
    script = "import sys, {0}.commands.cli as c; c.run(c.app, '{0}', ['--help']); print(*sys.modules)"
    for name in PROGRAMS:
        done = subprocess.run([sys.executable, "-c", script.format(name)], capture_output=True, check=True, timeout=20)
        loaded = set(done.stdout.decode().splitlines()[-1].split())
        assert not loaded & {"asyncio", "uvloop", "msgpack", "msgspec", "rich.table", "importlib.metadata"}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_version_is_the_package_s(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, name, "--version") == f"{name} {importlib.metadata.version('hostd')}\n"


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("hostd chek", 'Unknown command "chek": did you mean "check"? (see hostd --help)'),
        ("guestd raed", 'Unknown command "raed": did you mean "read"? (see guestd --help)'),
        ("hostd --hepl", 'Unknown command "--hepl": did you mean "--help"? (see hostd --help)'),
        ("hostd frobnicate", 'Unknown command "frobnicate" (see hostd --help)'),
        ("hostd ls --sokcet x", 'Unknown option "--sokcet": did you mean "--socket"? (see hostd ls --help)'),
        ("guestd read rng --ouptut=x", 'Unknown option "--ouptut": did you mean "--output"? (see guestd read --help)'),
        ("hostd ls --no-json", 'Unknown option "--no-json": did you mean "--json"? (see hostd ls --help)'),
        ("hostd ls -x", 'Unknown option "-x" (see hostd ls --help)'),
        ("hostd ls extra", 'Unexpected argument "extra" (see hostd ls --help)'),
        ("hostd wait --timeout", "--timeout needs a value (see hostd wait --help)"),
        ("hostd wait --timeout 1s", '--timeout is a number, not "1s" (see hostd wait --help)'),
        ("guestd read disk --count=4K", '--count is a whole number, not "4K" (see guestd read --help)'),
        ("guestd copy notes", "TARGET is missing (see guestd copy --help)"),
    ],
)
def test_a_mistyped_word_gets_one_line(line: str, answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, *words = line.split()
    assert run(PROGRAMS[name], name, words) == 2
    assert capsys.readouterr() == ("", f"{name}: {answer}\n")


def test_debug_shows_tracebacks_and_is_not_for_the_command_after_the_dashes(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text("[machine]\n")
    ask = ("hostd", "ls", "--socket", str(tmp_path))
    for words, traceback in ((ask, False), (("hostd", "--debug", *ask[1:]), True), ((*ask, "--debug"), True)):
        answer = typed(*words, check=False).stderr
        assert (b"Traceback" in answer) is traceback and b"no hostd answers" in answer
    assert typed("hostd", "run", "m.toml", "--", "echo", "--debug", cwd=tmp_path).stdout == b"--debug\n"


async def test_status_says_how_much_memory_and_how_long(host: hostd.Host) -> None:
    async with guestd.attach(host.socket, name="watcher", memory=3 << 20):
        done = await asyncio.to_thread(typed, "hostd", "status", "--socket", str(host.socket))
    assert re.search(rb"^watcher .* 3 MiB ", done.stdout, re.MULTILINE)
    assert re.search(rb"^uptime:   0:00:\d\d$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("words", [(), ("--all",)])
def test_the_demo_fits_80_columns(words: tuple[str, ...]) -> None:
    story = typed("hostd", "demo", *words, env=os.environ | {"TMPDIR": "/tmp"}).stdout.decode()
    assert story and max(map(len, story.splitlines())) <= 80
