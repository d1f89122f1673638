"""The control socket: JSON lines.  `{"do": "ls"}` is answered by `{"ok": ...}`, or by `{"error": ..., "code": ...}`.
After `{"do": "trace"}` and its answer come lines without an end, and nothing more is read.  Who may ask for what is a
matter of roles (machine/roles.py); whoever has none is told so at once, and hung up on.

So a shell can script it: `echo '{"do": "unplug", "path": "/disk"}' | socat - UNIX:control.sock`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, TypeAlias

import msgspec

from hcall.clock import timeout
from hcall.errors import HcallError, NoMatch, NotAllowed
from hcall.programs.command import Exit, explain
from hcall.programs.mistakes import BadRequest
from hcall.programs.plugins import is_plugin
from hcall.text import json_of

from ..filters.reader import Reader
from ..lanes.socket.peer import Peer, peer
from ..machine.host import UNPLUG_SECONDS
from ..machine.reload import Running
from ..machine.roles import Role
from ..model.blame import Misbehaved
from ..tree.complaints import Complaints
from ..tree.node import Node
from .following import LOOK_SECONDS, follow
from .looking import described, devices, nodes, status
from .panel import act, actions_of

_LINE: Final = 64 * 1024
_REST: Final = 1 << 20  # bytes of a longer one that are read, so that its end finds the answer
Answer: TypeAlias = object
_Told: TypeAlias = tuple[bytes, Reader | None]  # the line of an answer, and who gets what follows
Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class _Plug(msgspec.Struct, forbid_unknown_fields=True):
    path: str
    config: dict[str, Any]  # as in the machine file
    words: dict[str, str] = {}  # more of it, as somebody typed it
    folder: str | None = None  # of the files in it; else the machine file's


class _Unplug(msgspec.Struct, forbid_unknown_fields=True):
    path: str
    surprise: bool = False
    timeout: Seconds = UNPLUG_SECONDS
    if_free: bool = False


class _Wait(msgspec.Struct, forbid_unknown_fields=True):
    device: str | None = None
    gone: str | None = None
    guest: str | None = None
    timeout: Seconds | None = None


class _Act(msgspec.Struct, forbid_unknown_fields=True):
    path: str
    action: str | None = None
    args: list[Any] = []
    timeout: float | None = None  # seconds that it may take; it goes on after that


class _Trace(msgspec.Struct, forbid_unknown_fields=True):
    device: str | None = None


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    pass


class Control:
    """Serves one host to whoever may open its control socket."""

    def __init__(self, served: Running) -> None:
        self._served = served
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._complaints = Complaints("the control socket", served.host.clock, by_time=True)

    async def listen(self, listener: socket.socket) -> None:
        """Answer at *listener*."""
        self._server = await asyncio.start_unix_server(self._client, sock=listener, limit=_LINE)

    async def close(self) -> None:
        """Hang up."""
        if self._server is not None:
            self._server.close()
        for client in list(self._clients):
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        self._complaints.settle(last=True)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            asks = _peer(writer)
            if self._served.host.machine.roles.of(asks) is None:
                writer.write(json.dumps(_error(*explain(_lacks(None, Role.LOOK, "ask")))).encode() + b"\n")
                return
            while line := await self._line(reader, writer):
                answer = asyncio.ensure_future(self._answer(line, asks))
                try:
                    while not await self._done(answer):
                        if _has_hung_up(writer):
                            return
                    text, reads = answer.result()
                finally:
                    answer.cancel()
                if reads is not None:
                    await self._follow(reads, text, writer, asks)
                    return
                writer.write(text + b"\n")
                await writer.drain()
        except ConnectionError:
            pass  # a client that went away
        except asyncio.CancelledError:
            pass  # the host is shutting down
        finally:
            self._clients.discard(task)
            writer.close()

    async def _line(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """The next request, or b"" if there is none any more.  Raises ConnectionError.

        One that is too long is refused, and the last; so much more of it is read that the client comes to its answer.
        """
        try:
            return await reader.readline()
        except ValueError:
            writer.write(json.dumps(_error(f"a request has {_LINE} bytes at most", Exit.USAGE)).encode() + b"\n")
            writer.write_eof()
            for _ in range(_REST // _LINE):
                if not await reader.read(_LINE):
                    break
            return b""

    async def _follow(self, reader: Reader, text: bytes, writer: asyncio.StreamWriter, asks: Peer) -> None:
        """Write *text*, and then what *reader* gets, until the client hangs up, or may not.  Raises ConnectionError."""
        host = self._served.host

        def ends() -> bool:
            return _has_hung_up(writer) or (host.machine.roles.of(asks) or 0) < _VERBS["trace"].needs(reader)

        leave = host.trace.follow(reader)
        try:
            writer.write(text + b"\n")
            await follow(reader, writer, ends, host.clock)
        finally:
            leave()

    async def _done(self, answer: asyncio.Future[_Told]) -> bool:
        """Whether *answer* is there, soon."""
        with contextlib.suppress(TimeoutError):
            async with timeout(self._served.host.clock, LOOK_SECONDS):
                await asyncio.wait({answer})
        return answer.done()

    async def _answer(self, line: bytes, asks: Peer) -> _Told:
        answer = await self._outcome(line, asks)
        reader = answer.get("ok")
        if isinstance(reader, Reader):
            answer = {"ok": {"device": reader.device}}
        else:
            reader = None
        try:
            pieces = await self._served.host.guests.chores.gather(json_of(answer))
            return "".join(pieces).encode(), reader
        except (TypeError, ValueError, RecursionError) as error:  # what a model has made up
            return json.dumps(_error(f"the answer is no JSON: {error}", Exit.FAILED)).encode(), None

    async def _outcome(self, line: bytes, asks: Peer) -> dict[str, object]:
        try:
            request = json.loads(line, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:  # of UTF-8, of JSON, or a number of more digits than int() takes
            return _error(str(error), Exit.USAGE)
        try:
            if not isinstance(request, dict) or request.get("do") not in list(_VERBS):
                return _error(f'a request is {{"do": VERB, ...}}, VERB one of {", ".join(_VERBS)}', Exit.USAGE)
            do = request.pop("do")
            kind, verb, needs = _VERBS[do]
            wanted: Any = msgspec.convert(request, kind)
            role, needed = self._served.host.machine.roles.of(asks), needs(wanted)
            if role is None or role < needed:
                raise _lacks(role, needed, do)
            return {"ok": await verb(self._served, wanted)}
        except msgspec.ValidationError as error:
            return _error(str(error), Exit.USAGE)
        except Exception as error:
            text, code = explain(error)
            if code == Exit.FAILED and not isinstance(error, HcallError | Misbehaved):  # the client's, or logged
                self._complaints.note("a request", error)
            return _error(text, code)


def _has_hung_up(writer: asyncio.StreamWriter) -> bool:
    """Whether the client is gone.  One that has only said all (`echo ... | socat`) still wants its answer."""
    poll = select.poll()
    poll.register(writer.get_extra_info("socket").fileno(), 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def _peer(writer: asyncio.StreamWriter) -> Peer:
    """Who asks."""
    with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as sock:  # uvloop's knows no options
        return peer(sock)


def _lacks(role: Role | None, needed: Role, do: str) -> NotAllowed:
    has = f"your role here is {role.word}" if role is not None else "you have no role here"
    return NotAllowed(f"{has}, and to {do} takes {needed.word}: [control.{needed.word}] of the machine file gives it")


def _refuse(word: str) -> None:
    raise BadRequest(f"{word} is no number that JSON has")


def _error(text: str, code: int) -> dict[str, object]:
    return {"error": text, "code": code}


async def _ls(at: Running, request: _Nothing) -> Answer:
    return await devices(at.host)


async def _tree(at: Running, request: _Nothing) -> Answer:
    return await nodes(at.host)


async def _status(at: Running, request: _Nothing) -> Answer:
    return await status(at.host)


async def _plug(at: Running, request: _Plug) -> Answer:
    folder = Path(request.folder) if request.folder is not None else None
    spec = at.host.read(request.path.strip("/"), request.config, request.words, folder)
    node = await at.host.bring(spec, "plug")
    return described(at.host, node, {})


async def _unplug(at: Running, request: _Unplug) -> Answer:
    return {"willing": await at.host.unplug(request.path, request.surprise, request.timeout, request.if_free)}


async def _reload(at: Running, request: _Nothing) -> Answer:
    return msgspec.to_builtins(await asyncio.shield(at.reloads.begin()))  # once begun, whoever asked


async def _act(at: Running, request: _Act) -> Answer:
    node = at.host.tree.find(request.path)
    if request.action is None:
        return [{"name": action.name, "signature": action.signature} for action in actions_of(node)]
    try:
        async with timeout(at.host.clock, request.timeout):
            return await act(node, request.action, request.args)
    except TimeoutError as error:
        if str(error):  # the model's own
            raise
        text = f"{node.path}: {request.action} has not ended within {request.timeout:g} s; it goes on"
        raise TimeoutError(text) from None


async def _trace(at: Running, request: _Trace) -> Answer:
    return Reader(at.host.tree.find(request.device).path if request.device is not None else None)


async def _wait(at: Running, request: _Wait) -> Answer:
    host = at.host

    def find(path: str) -> Node | None:
        try:
            return host.tree.find(path)
        except NoMatch:
            return None

    def holds() -> bool:
        node = find(request.device) if request.device is not None else None
        return (
            (request.device is None or (node is not None and not node.leaving))
            and (request.gone is None or find(request.gone) is None)
            and (request.guest is None or any(guest.name == request.guest for guest in host.guests.by_token.values()))
        )

    async with timeout(host.clock, request.timeout):
        await host.guests.wait_for(holds)
    return True


class _Verb(NamedTuple):
    request: type[Any]
    do: Callable[[Running, Any], Awaitable[Answer]]
    needs: Callable[[Any], Role]  # of whoever asks


def _looks(request: object) -> Role:
    return Role.LOOK


def _operates(request: object) -> Role:
    return Role.OPERATE


def _loads(request: _Plug) -> Role:
    """A setting may name a command or a file of the host's, and a model a file with code; a name alone does not."""
    model = request.config.get("model")
    plain = isinstance(model, str) and not is_plugin(model) and len(request.config) == 1 and not request.words
    return Role.OPERATE if plain else Role.LOAD


_VERBS: Final = {
    "ls": _Verb(_Nothing, _ls, _looks),
    "tree": _Verb(_Nothing, _tree, _looks),
    "status": _Verb(_Nothing, _status, _looks),
    "plug": _Verb(_Plug, _plug, _loads),
    "unplug": _Verb(_Unplug, _unplug, _operates),
    "act": _Verb(_Act, _act, _operates),
    "wait": _Verb(_Wait, _wait, _looks),
    "trace": _Verb(_Trace, _trace, _operates),
    "reload": _Verb(_Nothing, _reload, _operates),
}
