"""The commands' end of the control socket."""

from __future__ import annotations

import json
import socket
from typing import Any

from protocol import rendezvous
from protocol.command import Exit, Failure, no_host


def ask(named: str | None, do: str, **fields: Any) -> Any:
    """Have the host do something; its answer.  *named* is what the user gave with `--socket`.

    Raises Failure with the host's sentence and exit code.
    """
    path = rendezvous.find(named, rendezvous.CONTROL_SOCKET)
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(str(path))
        except OSError as error:
            raise no_host(path, error) from None
        try:
            sock.sendall(json.dumps({"do": do, **fields}).encode() + b"\n")
            with sock.makefile("rb") as lines:
                line = lines.readline()
        except ConnectionError:  # somebody handed the socket to a host that did not start
            line = b""
    if not line:
        raise Failure(f"the hostd at {path} hung up", Exit.NO_HOST)
    answer = json.loads(line)
    if "error" in answer:
        raise Failure(answer["error"], answer["code"])
    return answer["ok"]
