"""A model that raises what a test wants, where the test wants it; and what its guests and the host say about it."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

from raw import LIVE, RawGuest

import hostd
from hcall import numbers
from hcall.errors import Status
from hostd.device import Device, Irq, Later, Property, call
from hostd.machine.file import DeviceSpec

NEEDS_RESET = 64
RAISED = [
    ZeroDivisionError("a secret"), KeyError(), StopIteration(), SystemExit(3), asyncio.CancelledError(),
    GeneratorExit(), KeyboardInterrupt(), BaseException("odd"),
]  # fmt: skip


class Clumsy(Device):
    """Raises what the test wants, where the test wants it."""

    compatible = "test,clumsy"
    rung = Irq()

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.wrong: dict[str, BaseException] = {}
        self.did: list[str] = []
        self.waiting: list[Later[int]] = []
        self.gate = threading.Event()

    def _do(self, what: str) -> None:
        self.did.append(what)
        if what in self.wrong:
            raise self.wrong[what]

    def reset(self) -> None:
        self._do("reset")

    def ready(self) -> None:
        self._do("ready")

    def tick(self) -> None:
        self._do("tick")

    def stop(self) -> None:
        self._do("stop")

    @call
    def go(self) -> int:
        self._do("go")
        return 1

    @call(early=True)
    def early(self) -> int:
        return 2

    @call
    def late(self, which: int) -> Later[int]:
        if which == len(self.waiting):
            self.waiting.append(Later())
        return self.waiting[which]

    @call
    def work(self) -> Later[bool]:
        return self.offload(self.gate.wait, 3)

    @call
    def ring(self, vector: int) -> None:
        self.raise_vector(vector)


class Shared(Clumsy):
    shared = True


class DoesNotStart(Clumsy):
    error: BaseException

    def start(self) -> None:
        raise self.error


class WithoutInit(Device):
    compatible = "test,without"

    def __init__(self) -> None:
        """It forgets the base's."""


class Untold(Clumsy):
    """Has a property that it never sets, and one that no message carries."""

    size = Property(int)
    parts = Property(tuple)

    def start(self) -> None:
        self.parts = ("x" * 300,)


CLUMSY, SHARED = (DeviceSpec("clumsy", "clumsy", model, {}) for model in (Clumsy, Shared))


def device(host: hostd.Host, path: str = "/clumsy") -> Clumsy:
    found = host.tree.find(path).device
    assert isinstance(found, Clumsy)
    return found


async def works(guest: RawGuest, handle: int, calls: dict[str, int]) -> bool:
    """Whether the device takes calls; if not, all are answered by IO_ERROR."""
    answers = [await guest.call(calls[name], handle) for name in ("go", "early")]
    assert answers == [(0, 1), (0, 2)] or all(status == Status.IO_ERROR and "log" in text for status, text in answers)
    return answers[0][0] == 0


async def negotiate(guest: RawGuest, handle: int) -> int:
    """Reset the device, and set it up again; the status byte then."""
    for status in (0, *LIVE):
        await guest.core(numbers.SET_STATUS, handle, status)
    return int(await guest.core(numbers.GET_STATUS, handle))


async def ask(host: hostd.Host, verb: str) -> Any:
    reader, writer = await asyncio.open_unix_connection(str(host.socket.with_name("control.sock")))
    writer.write(json.dumps({"do": verb}).encode() + b"\n")
    answer = json.loads(await reader.readline())
    writer.close()
    await writer.wait_closed()
    return answer["ok"]
