"""A host that lies: it speaks the wire as it should, but answers some calls as the test says."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from threading import Thread
from typing import Any, Final

from hcall import numbers
from hcall.errors import Status
from hcall.messages import FD_LANE, REPLY, VERSION, WELCOME, Welcome
from hcall.wire import Decoder, encode

ROOT, NODE, OPEN = 1, 2, 3  # the handles of its tree, which has one device, and of that
NOW: Final = 1000  # no handle is greater
READ, WRITE, FIRST_OWN = 0x10440001, 0x10440002, 0x10440010
NAME: Final = "thing"

Answer = Callable[..., Any]  # (handle, *args) -> the value; or for a device's call (areas, *args)


class FakeHost:
    """Serves one guest after the other, from a thread; *lies* by hypercall number, a value or a function."""

    def __init__(self, folder: Path, compatible: str, calls: Mapping[str, int], lies: Mapping[int, Any]) -> None:
        self.path = folder / "fake.sock"
        self._properties: dict[str, Any] = {}
        self._truth: dict[int, Any] = {
            numbers.FIRST: ROOT,
            numbers.CHILD: lambda node: NODE if node == ROOT else 0,
            numbers.NEXT: 0,
            numbers.PARENT: lambda node: ROOT if node == NODE else 0,
            numbers.FIND: NODE,
            numbers.INFO: lambda node: (NAME, (compatible,), (1, 2)) if node == NODE else ("", (), (0, 0)),
            numbers.NEXTPROP: "",
            numbers.CHANGES: lambda _, since: (NOW, None if since == 0 else ()),
            numbers.OPEN: (OPEN, dict(calls), {"rx_ready": 0}, {}),
            numbers.SET_STATUS: lambda _, status: status,
            numbers.GET_FEATURES: 0,
            numbers.LIST: Status.NO_SUCH_CALL,
        }
        self._lies = lies
        self.batches: list[list[tuple[Any, ...]]] = []  # what came at once: (number, *args) of each call
        self.mute = False  # takes HELLO, and says nothing
        self.welcome = Welcome(WELCOME, VERSION, FD_LANE, 1, 64, False)
        self._token = b""  # of the guest that came last
        self._answers: dict[int, bytes] = {}  # to it, by seq
        self.hellos: list[bytes] = []
        self.came: list[Any] = []  # messages, after those
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._sock = self._listener
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._sock, _ = self._listener.accept()
                with self._sock as sock, contextlib.suppress(ConnectionError):
                    self.hellos.append(sock.recv(65536))
                    token = Decoder().feed(self.hellos[-1])[0][6]  # type: ignore[index]  # a HELLO
                    if token != self._token:
                        self._token = token
                        self._answers.clear()
                    while self.mute and sock.recv(65536):
                        pass
                    sock.sendall(encode(self.welcome._replace(resumed=self.welcome.resumed or bool(self._answers))))
                    decoder = Decoder()
                    while data := sock.recv(65536):
                        messages: list[Any] = decoder.feed(data)
                        self.batches.append([(each[3], *each[5]) for each in messages if len(each) == 7])
                        for message in messages:
                            self.came.append(message)
                            sock.sendall(self._answer(message))

    def _answer(self, message: Any) -> bytes:
        if len(message) != 7:
            return b""  # ACK
        _, slot, seq, number, handle, args, areas = message
        if seq not in self._answers:  # else the guest came back, and asks again
            self._answers[seq] = self._told(slot, seq, number, handle, args, areas)
        return self._answers[seq]

    def _told(self, slot: int, seq: int, number: int, handle: int, args: Any, areas: Any) -> bytes:
        told = self._lies[number] if number in self._lies else self._truth.get(number)
        if callable(told):
            told = told(handle if number >> numbers.CLASS_SHIFT == 0 else areas, *args)
        if isinstance(told, Status):
            return encode((REPLY, slot, seq, told.value, "not here"))
        return bytes(told) if type(told) is bytearray else encode((REPLY, slot, seq, 0, told))  # bytes as they are

    def cut(self) -> None:
        """Hang up on the guest."""
        self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for sock in (self._listener, self._sock):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@contextlib.contextmanager
def lying(
    folder: Path, lies: Mapping[int, Any], compatible: str = "test,thing", calls: Mapping[str, int] | None = None
) -> Iterator[FakeHost]:
    """A host whose one device, /thing, has read and write, and *calls*."""
    host = FakeHost(folder, compatible, {"read": READ, "write": WRITE} | dict(calls or {}), lies)
    try:
        yield host
    finally:
        host.close()
