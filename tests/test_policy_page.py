"""docs/policy.md, done for real: its machine is served by root, and each command is run by the user that it says."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from test_docs import ROOT, matches, session
from users import needs_root, run

import guestd.commands.cli
import hostd.commands.cli

PAGE = ROOT / "docs" / "policy.md"
#: By name: what it is, and what it does first, which changes nothing; else what it is to do itself.
PROGRAMS = {"guestd": (guestd.commands.cli.main, None), "hostd": (hostd.commands.cli.main, ["ls"])}
BLOCKS = [(token.info, token.content) for token in MarkdownIt().parse(PAGE.read_text()) if token.type == "fence"]
STEPS = [step for info, text in BLOCKS if info == "console root" for step in session(text, 0)]
AS_SOMEBODY = re.compile(r"setpriv --reuid=(\d+) --clear-groups (.*?)(\|\| true)?")


@pytest.fixture
def lab() -> Iterator[Path]:
    """The page's machine, served in a folder that everybody comes to."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    (folder / "lab.toml").write_text(next(text for info, text in BLOCKS if info == "toml"))
    run_dir = folder / "run"
    run_dir.mkdir(mode=0o755)
    command = [sys.executable, "-m", "hostd", "serve", "lab.toml", "--runtime-dir", "run", "--ready-fd", "1"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as host:
        try:
            assert host.stdout is not None and host.stdout.readline() == b"ready\n"
            yield run_dir
        finally:
            host.terminate()
            host.wait(10)
            shutil.rmtree(folder)


@needs_root
def test_two_users_get_what_the_page_shows(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTD_SOCKET", str(lab))
    monkeypatch.setenv("NO_COLOR", "1")
    done = 0
    for step in STEPS:
        if (told := AS_SOMEBODY.fullmatch(step.shell.strip())) is None:
            continue
        program, *arguments = shlex.split(told[2])
        main, first = PROGRAMS[program]
        code, said = run(int(told[1]), main, arguments, first or arguments)
        assert (code != 0) is bool(told[3]), f"{step.shell}: {code}\n{said}"
        lines = said.splitlines()
        assert len(lines) == len(step.shown), f"{step.shell}\n{said}"
        assert all(map(matches, step.shown, lines)), f"{step.shell}\n{said}"
        done += 1
    assert done == 10
