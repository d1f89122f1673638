"""Driver of the system manager."""

import contextlib
from collections import deque
from collections.abc import Iterator

from guestd.stream import Op, StreamDriver
from hcall.errors import Busy, IoError, LinkLost, NotAllowed
from hcall.formats.sysmgmt import (
    Attribute,
    Body,
    Command,
    Event,
    Operation,
    Reason,
    Request,
    RequestError,
    Response,
    Service,
    SetAttr,
    SetNextOp,
    encode,
    messages,
)


class SysmanDriver(StreamDriver):
    """It is told all events from `probe` on.  One thing at a time: `event`, `shutdown` or `reboot`."""

    compatible = ("hostd,sysman",)
    ids = ((0x1AF4, 0x10F3),)
    set_led = Op[[str, str], None]()  # power, status or disk; off, on or blink
    get_time = Op[[], float]()  # seconds since 1970

    async def probe(self) -> None:
        await super().probe()
        self._came = bytearray()
        self._kept_events: deque[Event] = deque()  # that came while a guest wanted to end
        self._waits = False
        self._tag = 0  # of the last request
        self._silent = False  # it is told of nothing: it wants to end, or has wanted to
        await self.listen(Attribute.ALL)

    async def listen(self, attributes: int) -> None:
        """Be told these events, see `Attribute`, and no others."""
        self._attributes, self._silent = attributes, False
        await self.write_message(encode(SetAttr(attributes)))

    async def event(self) -> Event | Command:
        """The next event; or a Command: the host wants this guest to end, which `respond` answers.

        Errors: NotAllowed if something that was sent before had no effect.
        """
        with self._alone():
            if self._silent:
                await self.listen(self._attributes)
            if self._kept_events:
                return self._kept_events.popleft()
            while True:
                _, body = await self._message()
                if isinstance(body, Event | Command):
                    return body
                self._raise_if_refused(body)

    async def attend(self) -> None:
        """End this guest when the host wants it to."""
        while True:
            if isinstance(await self.event(), Command):
                await self.respond()

    async def respond(self, ready: bool = True) -> None:
        """Answer a Command: if this guest is *ready*, its session ends."""
        await self.write_message(encode(Response(0 if ready else 1)))

    async def shutdown(self) -> None:
        """End this guest: returns when its session is over.  Errors: NotAllowed if the host refuses."""
        with self._alone():
            await self._leave(Operation.SHUTDOWN)

    async def reboot(self) -> None:
        """The same, and tell the host's side that this guest wants to be started again."""
        with self._alone():
            await self._leave(Operation.REBOOT)

    async def _leave(self, operation: Operation) -> None:
        self._silent = True
        await self.write_message(encode(SetAttr(Attribute.NONE)))  # as Linux does
        self._tag += 1
        await self.write_message(encode(SetNextOp(operation), self._tag) + encode(Request(), self._tag))
        while True:
            tag, body = await self._message()
            if isinstance(body, Event):
                self._kept_events.append(body)
            elif isinstance(body, Command):
                break
            elif tag == self._tag:
                await self.listen(self._attributes)
                self._raise_if_refused(body)
        try:
            await self.write_message(encode(Response(0), tag))
            while True:
                _, body = await self._message()
                if isinstance(body, RequestError) and body.service == Service.RESPONSE:  # not of what was given up
                    self._raise_if_refused(body)
        except LinkLost:
            return

    def _raise_if_refused(self, body: Body) -> None:
        if isinstance(body, RequestError):
            reason = Reason(body.reason).name if body.reason in list(Reason) else body.reason
            raise NotAllowed(f"{self.dev.name} refuses service {body.service}: {reason}")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else takes what comes meanwhile.  Errors: Busy."""
        if self._waits:
            raise Busy(f"somebody waits for {self.dev.name} already")
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    async def _message(self) -> tuple[int, Body]:
        """Tag and body of the next message that can be understood."""
        while True:
            try:
                for message in messages(self._came):
                    with contextlib.suppress(ValueError):  # a service of later times
                        return message.tag, message.body()
            except ValueError as error:
                raise IoError(f"{self.dev.name} says what is no message: {error}") from None
            data = await self.read_some()
            if not data:
                raise IoError(f"{self.dev.name} hung up: what it was told was no message")
            self._came += data
