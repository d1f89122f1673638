"""The commands' end of the control socket."""

from __future__ import annotations

import json
import socket
from typing import Any, Final

from hcall import rendezvous
from hcall.errors import NoHost
from hcall.programs.command import Exit, Failure, explain

PATIENCE_SECONDS: Final = 60.0  # for an answer: a reload may load models, and wait for guests and workers


def ask(named: str | None, do: str, *, patience: float = PATIENCE_SECONDS, **fields: Any) -> Any:
    """Have the host do something; its answer.  *named* is what the user gave with `--socket`.

    Raises Failure with the host's sentence and exit code, or if it has none within *patience* seconds.
    """
    path = rendezvous.find(named, rendezvous.CONTROL_SOCKET)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(patience)
        try:
            sock.connect(str(path))
        except OSError as error:
            raise Failure(*explain(NoHost(error.errno, error.strerror, str(path)))) from None
        try:
            sock.sendall(json.dumps({"do": do, **fields}).encode() + b"\n")
            with sock.makefile("rb") as lines:
                line = lines.readline()
        except TimeoutError:
            raise Failure(f"the hostd at {path} did not answer within {patience:g} s", Exit.TIMEOUT) from None
        except ConnectionError:  # somebody handed the socket to a host that did not start
            line = b""
    if not line:
        raise Failure(f"the hostd at {path} hung up", Exit.NO_HOST)
    answer = json.loads(line)
    if "error" in answer:
        raise Failure(answer["error"], answer["code"])
    return answer["ok"]
