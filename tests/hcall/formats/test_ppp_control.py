"""The option negotiation automaton against the table of RFC 1661, section 4.1, all of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcall.clock import ManualClock
from hcall.formats.ppp_control import (
    MAX_CONFIGURE,
    MAX_TERMINATE,
    RESTART_SECONDS,
    TRANSITIONS,
    Code,
    Control,
    IllegalEvent,
    Packet,
    State,
    decode_options,
    encode_options,
)

RFC_1661 = """
Up   |    2     irc,scr/6     -         -         -         -
Down |    -         -         0       tls/1       0         1
Open |  tls/1       1     irc,scr/6     3r        5r        5r
Close|    0       tlf/0       2         2         4         4
TO+  |    -         -         -         -       str/4     str/5
TO-  |    -         -         -         -       tlf/2     tlf/3
RCR+ |    -         -       sta/2 irc,scr,sca/8   4         5
RCR- |    -         -       sta/2 irc,scr,scn/6   4         5
RCA  |    -         -       sta/2     sta/3       4         5
RCN  |    -         -       sta/2     sta/3       4         5
RTR  |    -         -       sta/2     sta/3     sta/4     sta/5
RTA  |    -         -         2         3       tlf/2     tlf/3
RUC  |    -         -       scj/2     scj/3     scj/4     scj/5
RXJ+ |    -         -         2         3         4         5
RXJ- |    -         -       tlf/2     tlf/3     tlf/2     tlf/3
RXR  |    -         -         2         3         4         5

Up   |    -         -         -           -
Down |    1         1         1         tld/1
Open |    6         7         8           9r
Close|irc,str/4 irc,str/4 irc,str/4 tld,irc,str/4
TO+  |  scr/6     scr/6     scr/8         -
TO-  | tlf/3p    tlf/3p    tlf/3p         -
RCR+ |  sca/8   sca,tlu/9   sca/8   tld,scr,sca/8
RCR- |  scn/6     scn/7     scn/6   tld,scr,scn/6
RCA  |  irc/7     scr/6x  irc,tlu/9   tld,scr/6x
RCN  |irc,scr/6   scr/6x  irc,scr/8   tld,scr/6x
RTR  |  sta/6     sta/6     sta/6   tld,zrc,sta/5
RTA  |    6         6         8     tld,scr/6
RUC  |  scj/6     scj/7     scj/8       scj/9
RXJ+ |    6         6         8           9
RXJ- |  tlf/3     tlf/3     tlf/3   tld,irc,str/5
RXR  |    6         7         8         ser/9
"""
ROWS: dict[str, list[str]] = {}
for each in filter(None, RFC_1661.splitlines()):
    ROWS.setdefault(each.partition("|")[0].strip(), []).extend(each.partition("|")[2].split())
CELLS = [(State(number), event, cell) for event, row in ROWS.items() for number, cell in enumerate(row)]

REQUEST, UNWELCOME = Packet(1, 7, b""), Packet(1, 7, b"\x63\x02")  # without options, and with an unknown one
PACKETS = {
    "RCR+": REQUEST, "RCR-": UNWELCOME, "RTR": Packet(5, 8, b""), "RTA": Packet(6, 9, b""),
    "RUC": Packet(99, 1, b"what"), "RXJ+": Packet(7, 1, Packet(9, 1, b"").encode()),
    "RXJ-": Packet(7, 1, REQUEST.encode()), "RXR": Packet(9, 1, bytes(4)),
}  # fmt: skip
SENDS = {1: "scr", 2: "sca", 3: "scn", 4: "scn", 5: "str", 6: "sta", 7: "scj", 10: "ser"}
PATHS: dict[State, list[str]] = {
    State.INITIAL: [], State.STARTING: ["Open"], State.CLOSED: ["Up"], State.STOPPED: ["Up", "Open", "TO-"],
    State.CLOSING: ["Up", "Open", "Close"], State.STOPPING: ["Up", "Open", "RCR+", "RCA", "RTR"],
    State.REQ_SENT: ["Up", "Open"], State.ACK_RCVD: ["Up", "Open", "RCA"], State.ACK_SENT: ["Up", "Open", "RCR+"],
    State.OPENED: ["Up", "Open", "RCR+", "RCA"],
}  # fmt: skip


class Recorded(Control):
    """Writes down what it does, in the names of the RFC."""

    protocol = 0xC021
    codes = frozenset(Code)

    def __init__(self, clock: ManualClock) -> None:
        self.did: list[str] = []
        self.sent: list[Packet] = []
        super().__init__(self._sent, clock.time)

    def _sent(self, protocol: int, raw: bytes) -> None:
        packet = Packet.decode(raw)
        assert protocol == self.protocol and packet is not None
        self.sent.append(packet)
        self.did.append(SENDS[packet.code])

    def layer_up(self) -> None:
        self.did.append("tlu")

    def layer_down(self) -> None:
        self.did.append("tld")

    def layer_started(self) -> None:
        self.did.append("tls")

    def layer_finished(self) -> None:
        self.did.append("tlf")

    def received_more(self, packet: Packet) -> None:
        self.event("RXR")

    def send_echo_reply(self) -> None:
        self.did.append("ser")

    def happen(self, event: str) -> None:
        """An event, as the packet that is it where there is one."""
        if event in PACKETS:
            self.receive(PACKETS[event].encode())
        else:
            self.event(event)


def at(state: State, clock: ManualClock | None = None) -> Recorded:
    control = Recorded(clock or ManualClock())
    for event in PATHS[state]:
        control.happen(event)
    assert control.state is state
    control.did.clear()
    control.sent.clear()
    return control


@pytest.mark.parametrize(("state", "event", "cell"), CELLS, ids=lambda value: str(getattr(value, "name", value)))
def test_every_cell_of_the_table(state: State, event: str, cell: str) -> None:
    control = at(state)
    if cell == "-":
        before = control.deadline
        with pytest.raises(IllegalEvent, match=state.name):
            control.event(event)
        assert control.state is state and not control.did and control.deadline == before
        if event in PACKETS:
            control.receive(PACKETS[event].encode())  # there is no line: nothing can have come
            assert control.state is state and not control.did
        return
    *actions, following = cell.rstrip("rpx").replace("/", ",").split(",")
    control.happen(event)
    assert control.state == int(following)
    assert control.did == [action for action in actions if action not in ("irc", "zrc")]
    timed = ROWS["TO+"][control.state] != "-"  # RFC 1661, 4.1: where the restart timer runs
    assert (control.deadline is not None) == timed


def test_the_table_has_no_more_than_the_rfc() -> None:
    assert len(TRANSITIONS) == sum(cell != "-" for _, _, cell in CELLS)


def run_out(control: Recorded, clock: ManualClock) -> None:
    while control.deadline is not None:
        clock.turn(RESTART_SECONDS - 0.01)
        count = len(control.did)
        control.expire()
        assert len(control.did) == count  # not yet
        clock.turn(0.01)
        control.expire()


def test_a_peer_that_is_silent_is_asked_ten_times() -> None:
    clock = ManualClock()
    control = Recorded(clock)
    control.event("Up")
    control.event("Open")
    run_out(control, clock)
    assert control.did == ["scr"] * MAX_CONFIGURE + ["tlf"] and control.state is State.STOPPED
    assert len({packet.ident for packet in control.sent}) == MAX_CONFIGURE
    assert clock.time() == pytest.approx(MAX_CONFIGURE * RESTART_SECONDS)


def test_an_answer_makes_the_count_start_anew() -> None:
    clock = ManualClock()
    control = at(State.REQ_SENT, clock)
    for _ in range(MAX_CONFIGURE - 2):
        clock.turn(RESTART_SECONDS)
        control.expire()
    control.receive(Packet(Code.CONFIGURE_ACK, control.sent[-1].ident, b"").encode())
    assert control.state is State.ACK_RCVD
    control.did.clear()
    run_out(control, clock)
    assert control.did == ["scr"] * MAX_CONFIGURE + ["tlf"]


def test_a_good_bye_that_nobody_hears_is_said_twice() -> None:
    clock = ManualClock()
    control = at(State.OPENED, clock)
    control.event("Close")
    run_out(control, clock)
    assert control.did == ["tld"] + ["str"] * MAX_TERMINATE + ["tlf"] and control.state is State.CLOSED


def test_one_that_heard_the_good_bye_pauses_once_and_says_nothing() -> None:
    clock = ManualClock()
    control = at(State.OPENED, clock)
    control.happen("RTR")
    run_out(control, clock)
    assert control.did == ["tld", "sta", "tlf"] and control.state is State.STOPPED
    assert clock.time() == RESTART_SECONDS


@pytest.mark.parametrize("code", [Code.CONFIGURE_ACK, Code.CONFIGURE_NAK, Code.CONFIGURE_REJECT])
def test_an_answer_counts_once_and_only_for_the_last_request(code: Code) -> None:
    control = at(State.REQ_SENT)
    control.event("TO+")
    (request,) = control.sent
    control.receive(Packet(code, request.ident - 1, b"").encode())
    assert control.state is State.REQ_SENT and len(control.sent) == 1
    control.receive(Packet(code, request.ident, b"").encode())
    state, sent = control.state, len(control.sent)
    control.receive(Packet(code, request.ident, b"").encode())
    assert (control.state, len(control.sent)) == (state, sent)


def test_an_ack_of_something_else_and_a_reject_of_what_was_not_asked_are_dropped() -> None:
    control = at(State.REQ_SENT)
    control.event("TO+")
    (request,) = control.sent
    control.receive(Packet(Code.CONFIGURE_ACK, request.ident, b"\x01\x04\x05\xdc").encode())
    control.receive(Packet(Code.CONFIGURE_REJECT, request.ident, b"\x01\x04\x05\xdc").encode())
    control.receive(Packet(Code.CONFIGURE_NAK, request.ident, b"\x01\x01").encode())
    assert control.state is State.REQ_SENT and control.sent == [request]


@pytest.mark.parametrize("raw", ["", "010100", "01010003", "01010005", "0101ffff", "010100060503"])
def test_a_packet_whose_lengths_are_wrong_is_dropped(raw: str) -> None:
    control = at(State.REQ_SENT)
    control.receive(bytes.fromhex(raw))
    assert control.state is State.REQ_SENT and not control.did


def test_padding_is_not_read() -> None:
    control = at(State.REQ_SENT)
    control.receive(REQUEST.encode() + b"\x05\x03 padding")
    assert control.did == ["sca"] and control.sent == [Packet(Code.CONFIGURE_ACK, 7, b"")]


@pytest.mark.parametrize("data", [b"\x01", b"\x01\x00", b"\x01\x01", b"\x01\x05\x00", b"\x01\x02\x01\x02"])
def test_what_is_no_list_of_options(data: bytes) -> None:
    assert decode_options(data) is None


@given(st.dictionaries(st.integers(0, 255), st.binary(max_size=253), max_size=5))
def test_options_there_and_back(options: dict[int, bytes]) -> None:
    assert decode_options(encode_options(options)) == options
