"""What all control protocols of PPP share: the option negotiation automaton of RFC 1661, section 4, without I/O.

The table is the RFC's own, in its notation; `Control` does what it says.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

from ..saved import Saved

RESTART_SECONDS: Final = 1.0  # RFC 1661, 4.6, has 3 for a slow modem
MAX_CONFIGURE: Final = 10
MAX_TERMINATE: Final = 2
MAX_FAILURE: Final = 5
MAX_REJECTED: Final = 64  # bytes of a rejected packet that go back: the answer has to fit any peer

Options: TypeAlias = dict[int, bytes]  # by type

_HEADER: Final = struct.Struct(">BBH")  # code, identifier, length of all


class Code(enum.IntEnum):
    """Codes of the packets (RFC 1661, 5)."""

    CONFIGURE_REQUEST = 1
    CONFIGURE_ACK = 2
    CONFIGURE_NAK = 3
    CONFIGURE_REJECT = 4
    TERMINATE_REQUEST = 5
    TERMINATE_ACK = 6
    CODE_REJECT = 7
    PROTOCOL_REJECT = 8  # from here on of LCP only
    ECHO_REQUEST = 9
    ECHO_REPLY = 10
    DISCARD_REQUEST = 11


class State(enum.IntEnum):
    """States of the automaton (RFC 1661, 4.2)."""

    INITIAL = 0
    STARTING = 1
    CLOSED = 2
    STOPPED = 3
    CLOSING = 4
    STOPPING = 5
    REQ_SENT = 6
    ACK_RCVD = 7
    ACK_SENT = 8
    OPENED = 9


class IllegalEvent(Exception):
    """The table has no such event in this state; nothing has changed."""


_TABLE: Final = """
         0        1          2          3               4      5      6          7          8          9
   Up    2        irc,scr/6  -          -               -      -      -          -          -          -
   Down  -        -          0          tls/1           0      1      1          1          1          tld/1
   Open  tls/1    1          irc,scr/6  3               5      5      6          7          8          9
   Close 0        tlf/0      2          2               4      4      irc,str/4  irc,str/4  irc,str/4  tld,irc,str/4
   TO+   -        -          -          -               str/4  str/5  scr/6      scr/6      scr/8      -
   TO-   -        -          -          -               tlf/2  tlf/3  tlf/3      tlf/3      tlf/3      -
   RCR+  -        -          sta/2      irc,scr,sca/8   4      5      sca/8      sca,tlu/9  sca/8      tld,scr,sca/8
   RCR-  -        -          sta/2      irc,scr,scn/6   4      5      scn/6      scn/7      scn/6      tld,scr,scn/6
   RCA   -        -          sta/2      sta/3           4      5      irc/7      scr/6      irc,tlu/9  tld,scr/6
   RCN   -        -          sta/2      sta/3           4      5      irc,scr/6  scr/6      irc,scr/8  tld,scr/6
   RTR   -        -          sta/2      sta/3           sta/4  sta/5  sta/6      sta/6      sta/6      tld,zrc,sta/5
   RTA   -        -          2          3               tlf/2  tlf/3  6          6          8          tld,scr/6
   RUC   -        -          scj/2      scj/3           scj/4  scj/5  scj/6      scj/7      scj/8      scj/9
   RXJ+  -        -          2          3               4      5      6          6          8          9
   RXJ-  -        -          tlf/2      tlf/3           tlf/2  tlf/3  tlf/3      tlf/3      tlf/3      tld,irc,str/5
   RXR   -        -          2          3               4      5      6          7          8          ser/9
"""


def _parse(table: str) -> dict[tuple[State, str], tuple[tuple[str, ...], State]]:
    transitions = {}
    for line in table.strip().splitlines()[1:]:
        event, *cells = line.split()
        for state, cell in zip(State, cells, strict=True):
            if cell != "-":
                *actions, following = cell.replace("/", ",").split(",")
                transitions[state, event] = tuple(actions), State(int(following))
    return transitions


TRANSITIONS: Final = _parse(_TABLE)  # (state, event): actions, the next state
_TIMED: Final = frozenset(state for state, event in TRANSITIONS if event == "TO+")


class Packet(NamedTuple):
    """A packet of a control protocol."""

    code: int
    ident: int
    data: bytes

    def encode(self) -> bytes:
        """As it goes into a frame."""
        return _HEADER.pack(self.code, self.ident, _HEADER.size + len(self.data)) + self.data

    @classmethod
    def decode(cls, raw: bytes) -> Packet | None:
        """The packet in *raw*, which may be padded; None if there is none."""
        if len(raw) < _HEADER.size:
            return None
        code, ident, length = _HEADER.unpack_from(raw)
        return cls(code, ident, raw[_HEADER.size : length]) if _HEADER.size <= length <= len(raw) else None


def encode_options(options: Options) -> bytes:
    """Type, length, value of each."""
    return b"".join(bytes((kind, 2 + len(value))) + value for kind, value in options.items())


def decode_options(data: bytes) -> Options | None:
    """None for what is no list of options, or has one of them twice."""
    options: Options = {}
    while data:
        if len(data) < 2 or not 2 <= data[1] <= len(data) or data[0] in options:
            return None
        options[data[0]], data = data[2 : data[1]], data[data[1] :]
    return options


class Control:
    """One end of a control protocol.  A protocol is a subclass, which says what it wants and what it takes."""

    protocol: int
    codes: frozenset[int] = frozenset(range(Code.CONFIGURE_REQUEST, Code.PROTOCOL_REJECT))

    def __init__(self, send: Callable[[int, bytes], None], time: Callable[[], float]) -> None:
        """*send*(protocol, packet) takes what goes out, *time*() gives seconds."""
        self._send, self._time = send, time
        self.state = State.INITIAL
        self.deadline: float | None = None  # when `expire` is due
        self._restarts = 0  # requests that may still be sent
        self._naks = 0  # in a row
        self._ident = 0
        self._asked: Packet | None = None  # the last Configure-Request, until it is answered
        self._received = self._answer = Packet(0, 0, b"")
        self._actions: dict[str, Callable[[], None]] = {
            "tlu": self.layer_up, "tld": self.layer_down, "tls": self.layer_started, "tlf": self.layer_finished,
            "irc": self._initialize_restart_count, "zrc": self._zero_restart_count,
            "scr": self._send_request, "sca": self._send_ack, "scn": self._send_answer,
            "str": self._send_terminate, "sta": self._send_terminate_ack, "scj": self._send_code_reject,
            "ser": self.send_echo_reply,
        }  # fmt: skip

    def save(self) -> Saved:
        """What `restore` needs; the deadline as what is left of it."""
        left = None if self.deadline is None else self.deadline - self._time()
        return {
            "state": int(self.state), "left": left, "restarts": self._restarts, "naks": self._naks,
            "ident": self._ident, "asked": None if self._asked is None else list(self._asked),
        }  # fmt: skip

    def restore(self, saved: Saved) -> None:
        """Go on where *saved* was taken."""
        self.state = State(saved["state"])
        self.deadline = None if saved["left"] is None else self._time() + saved["left"]
        self._restarts, self._naks, self._ident = saved["restarts"], saved["naks"], saved["ident"]
        self._asked = None if saved["asked"] is None else Packet(*saved["asked"])

    # What a protocol says.

    def wanted(self) -> Options:
        """What this end asks for."""
        return {}

    def judge(self, kind: int, value: bytes) -> bytes | None:
        """What this end says to an option of the peer: *value* itself, another one that it would take, None: reject."""
        return None

    def missing(self) -> Options:
        """What the peer has to ask for, with the values for it."""
        return {}

    def accept(self, options: Options) -> None:
        """The peer's options were acknowledged."""

    def nak(self, kind: int, value: bytes) -> None:
        """The peer would take *value* for an option of this end."""

    def reject(self, kind: int) -> None:
        """The peer takes no such option."""

    def layer_up(self) -> None:
        """tlu: it is open."""

    def layer_down(self) -> None:
        """tld: it is open no more."""

    def layer_started(self) -> None:
        """tls: it needs the layer below."""

    def layer_finished(self) -> None:
        """tlf: it needs the layer below no more."""

    def received_more(self, packet: Packet) -> None:
        """A packet with one of the `codes` that only this protocol has."""

    def send_echo_reply(self) -> None:
        """ser: answer what was received, if it is an Echo-Request."""

    # Events.

    def event(self, name: str) -> None:
        """Apply an event of the table.  Raises IllegalEvent."""
        if (self.state, name) not in TRANSITIONS:
            raise IllegalEvent(f"{name} in state {self.state.name}")
        actions, self.state = TRANSITIONS[self.state, name]
        if self.state not in _TIMED:
            self.deadline = None
        for action in actions:
            self._actions[action]()

    def expire(self) -> None:
        """Look whether the deadline has passed."""
        if self.deadline is not None and self._time() >= self.deadline:
            self._start_timer()
            self.event("TO+" if self._restarts > 0 else "TO-")

    def receive(self, raw: bytes) -> None:
        """A packet of this protocol; what is damaged, or answers nothing, is dropped (RFC 1661, 5)."""
        packet = Packet.decode(raw)
        if packet is None or self.state in (State.INITIAL, State.STARTING):
            return
        self._received = packet
        if packet.code not in self.codes:
            self.event("RUC")
        elif packet.code == Code.CONFIGURE_REQUEST:
            self._receive_request(packet)
        elif packet.code in (Code.CONFIGURE_ACK, Code.CONFIGURE_NAK, Code.CONFIGURE_REJECT):
            self._receive_answer(packet)
        elif packet.code == Code.TERMINATE_REQUEST:
            self.event("RTR")
        elif packet.code == Code.TERMINATE_ACK:
            self.event("RTA")
        elif packet.code == Code.CODE_REJECT:
            self.event("RXJ-" if 0 < int.from_bytes(packet.data[:1]) <= Code.CODE_REJECT else "RXJ+")
        else:
            self.received_more(packet)

    def packet(self, code: Code, data: bytes) -> Packet:
        """A packet with an identifier of its own."""
        self._ident = (self._ident + 1) % 256
        return Packet(code, self._ident, data)

    def _receive_request(self, request: Packet) -> None:
        """What is unknown is rejected; if nothing is, what is unwelcome or missing gets a Nak; else all gets an Ack."""
        options = decode_options(request.data)
        if options is None:
            return
        rejected, naked = {}, {}
        for kind, value in options.items():
            verdict = self.judge(kind, value)
            if verdict is None or (verdict != value and self._naks >= MAX_FAILURE):
                rejected[kind] = value
            elif verdict != value:
                naked[kind] = verdict
        if self._naks < MAX_FAILURE:
            naked |= {kind: value for kind, value in self.missing().items() if kind not in options}
        if rejected:
            self._answer = Packet(Code.CONFIGURE_REJECT, request.ident, encode_options(rejected))
        elif naked:
            self._answer = Packet(Code.CONFIGURE_NAK, request.ident, encode_options(naked))
        else:
            self._answer = Packet(Code.CONFIGURE_ACK, request.ident, request.data)
        self.event("RCR-" if rejected or naked else "RCR+")

    def _receive_answer(self, answer: Packet) -> None:
        """An answer to the last Configure-Request, which gets one: line noise may have doubled it."""
        event = "RCA" if answer.code == Code.CONFIGURE_ACK else "RCN"
        if self.state in (State.CLOSED, State.STOPPED):
            self.event(event)
            return
        options = decode_options(answer.data)
        if self._asked is None or answer.ident != self._asked.ident or options is None:
            return
        asked = decode_options(self._asked.data) or {}
        if answer.code == Code.CONFIGURE_ACK and answer.data != self._asked.data:
            return
        if answer.code == Code.CONFIGURE_REJECT and not options.items() <= asked.items():
            return
        for kind, value in options.items():
            if answer.code == Code.CONFIGURE_NAK:
                self.nak(kind, value)
            elif answer.code == Code.CONFIGURE_REJECT:
                self.reject(kind)
        self._asked = None
        self.event(event)

    # Actions.

    def _start_timer(self) -> None:
        self.deadline = self._time() + RESTART_SECONDS

    def _initialize_restart_count(self) -> None:
        self._restarts = MAX_TERMINATE if self.state in (State.CLOSING, State.STOPPING) else MAX_CONFIGURE

    def _zero_restart_count(self) -> None:
        self._restarts = 0
        self._start_timer()

    def _send_request(self) -> None:
        self._restarts -= 1
        self._start_timer()
        self._asked = self.packet(Code.CONFIGURE_REQUEST, encode_options(self.wanted()))
        self._send(self.protocol, self._asked.encode())

    def _send_ack(self) -> None:
        self._naks = 0
        self._send_answer()
        self.accept(decode_options(self._answer.data) or {})

    def _send_answer(self) -> None:
        self._naks += self._answer.code == Code.CONFIGURE_NAK
        self._send(self.protocol, self._answer.encode())

    def _send_terminate(self) -> None:
        self._restarts -= 1
        self._start_timer()
        self._send(self.protocol, self.packet(Code.TERMINATE_REQUEST, b"").encode())

    def _send_terminate_ack(self) -> None:
        self._send(self.protocol, Packet(Code.TERMINATE_ACK, self._received.ident, b"").encode())

    def _send_code_reject(self) -> None:
        self._send(self.protocol, self.packet(Code.CODE_REJECT, self._received.encode()[:MAX_REJECTED]).encode())
