"""The terminal's half of `guestd shell`: a prompt with completion and history, or lines that somebody wrote down."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from hcall.errors import LinkLost
from hcall.programs.command import Exit, Failure, explain, say
from hcall.text import harmless

from ..clients.blocking import BlockingGuest
from .shell import Shell

_PROMPT: Final = "ok "
_HISTORY: Final = 1000  # lines


def run_shell(guest: BlockingGuest, lines: Sequence[str]) -> int:
    """Run *lines*, else what is typed at the terminal, else standard input; the exit code."""
    if not lines and sys.stdin.isatty() and sys.stdout.isatty():
        _talk(Shell(guest, sys.stdout))
    else:
        _run(Shell(guest, sys.stdout, lambda line: say("guestd", line)), lines or sys.stdin)
    return Exit.OK


def _run(shell: Shell, lines: Iterable[str]) -> None:
    """The first error ends it, and says where."""
    for number, line in enumerate(lines, 1):
        try:
            shell.run_line(line)
        except BrokenPipeError:
            raise
        except Exception as error:
            text, code = explain(error)
            raise Failure(f"line {number}: {text}", code) from error
        if shell.over:
            return


def _talk(shell: Shell) -> None:
    """An error is a line, and the prompt goes on; it ends with the session."""
    say("guestd", "`words` lists what can be said, `help` what it means; Ctrl-D leaves")
    with _line_editing(shell):
        while not shell.over:
            try:
                shell.run_line(input(_PROMPT))
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                print()
            except LinkLost:
                raise
            except Exception as error:
                print(harmless(explain(error)[0]), file=sys.stderr)  # it may be the host's


@contextlib.contextmanager
def _line_editing(shell: Shell) -> Iterator[None]:
    """Completion, and a history that is kept; a Python without readline has neither."""
    try:
        import readline
    except ImportError:
        yield
        return
    found: list[str] = []

    def complete(word: str, n: int) -> str | None:
        if n == 0:
            found[:] = shell.complete(readline.get_line_buffer()[: readline.get_begidx()], word)
        return found[n] if n < len(found) else None

    readline.set_completer(complete)
    readline.set_completer_delims(" \t")
    readline.parse_and_bind("bind ^I rl_complete" if "libedit" in (readline.__doc__ or "") else "tab: complete")
    readline.set_history_length(_HISTORY)
    with contextlib.suppress(OSError, RuntimeError):  # there is none yet, or no home
        readline.read_history_file(_history())
    try:
        yield
    finally:
        with contextlib.suppress(OSError, RuntimeError):  # it may not be written
            _history().parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(_history())


def _history() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state", "hostd", "shell_history")
