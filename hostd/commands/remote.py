"""The commands' end of the control socket."""

from __future__ import annotations

import contextlib
import json
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from hcall import rendezvous
from hcall.errors import NoHost
from hcall.programs.command import Exit, Failure, explain
from hcall.text import counted

PATIENCE_SECONDS: Final = 60.0  # for an answer: a reload may load models, and wait for guests and workers
_CHUNK: Final = 64 * 1024


def ask(named: str | None, do: str, *, patience: float = PATIENCE_SECONDS, **fields: Any) -> Any:
    """Have the host do something; its answer.  *named* is what the user gave with `--socket`.

    Raises Failure with the host's sentence and exit code, or if it has none within *patience* seconds.
    """
    with _asked(named, do, patience, fields) as (answer, *_):
        return answer


def follow(named: str | None, do: str, out: int, **fields: Any) -> Iterator[bytes]:
    """What comes after the answer, whole lines at a time, until the host hangs up, which is a Failure.

    Raises BrokenPipeError when nobody reads *out* any more, and as `ask`.
    """
    with _asked(named, do, PATIENCE_SECONDS, fields) as (_, came, sock, path):
        sock.settimeout(None)
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        poll.register(out, 0)  # errors only
        rest = came
        while True:
            lines, newline, rest = rest.rpartition(b"\n")
            yield lines + newline
            if any(fd == out for fd, _ in poll.poll()):
                raise BrokenPipeError
            more = _received(sock)
            if not more:
                break
            rest += more
        raise _hung_up(path)


@contextlib.contextmanager
def _asked(
    named: str | None, do: str, patience: float, fields: dict[str, Any]
) -> Iterator[tuple[Any, bytes, socket.socket, Path]]:
    """The answer, what came after it, and where more comes."""
    path = rendezvous.find(named, rendezvous.CONTROL_SOCKET)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(patience)
        try:
            sock.connect(str(path))
        except OSError as error:
            raise Failure(*explain(NoHost(error.errno, error.strerror, str(path)))) from None
        try:
            with contextlib.suppress(ConnectionError):  # somebody handed the socket to a host that did not start
                sock.sendall(json.dumps({"do": do, **fields}).encode() + b"\n")
            came = more = _received(sock)
            while more and b"\n" not in more:
                more = _received(sock)
                came += more
        except TimeoutError:
            raise Failure(f"the hostd at {path} did not answer within {patience:g} s", Exit.TIMEOUT) from None
        line, newline, rest = came.partition(b"\n")
        if not newline:
            raise _hung_up(path)
        answer = json.loads(line)
        if "error" in answer:
            raise Failure(answer["error"], answer["code"])
        yield answer["ok"], rest, sock, path


def _received(sock: socket.socket) -> bytes:
    """Some bytes; none if the host hung up.  Raises TimeoutError."""
    try:
        return sock.recv(_CHUNK)
    except ConnectionError:
        return b""


def _hung_up(path: Path) -> Failure:
    return Failure(f"the hostd at {path} hung up", Exit.NO_HOST)


def model_of(device: dict[str, Any]) -> str:
    """What a *device* is, as `ls` has it, and how often it was started in a process of its own."""
    model, process = device["model"] or "-", device["process"]
    if process is None:
        return model
    again = f", started {counted(process['starts'], 'time')}" if process["starts"] > 1 else ""
    return f"{model} (isolated{again})"
