"""The learning switch, by itself: who gets a frame, who does not, and for how long it remembers."""

from __future__ import annotations

import gc
import weakref

import pytest

from hcall.clock import ManualClock
from hcall.formats.frames import pack_into, runs, split
from hostd.backings.parts.switch import AGE_SECONDS, MAX_ADDRESSES, Port, Switch

A, B, C = (bytes([2, 0, 0, 0, 0, n]) for n in (1, 2, 3))
EVERYBODY = b"\xff" * 6


class Lan:
    """A switch with ports that keep what they get."""

    def __init__(self, ports: int = 3) -> None:
        self.clock = ManualClock()
        self.switch = Switch(self.clock)
        self.got: list[list[bytes]] = [[] for _ in range(ports)]
        self.ports = [self._join(got) for got in self.got]

    def _join(self, got: list[bytes]) -> Port:
        def deliver(batch: bytes, count: int) -> None:
            frames = [bytes(frame) for frame in split(memoryview(batch))]
            assert len(frames) == count
            got.extend(frames)

        port = self.switch.join(deliver)
        port.up = True
        return port

    def send(self, port: int, *frames: bytes) -> list[list[bytes]]:
        """What each port gets of them."""
        for got in self.got:
            got.clear()
        view = memoryview(bytearray(1 << 20))
        size, _ = pack_into(view, frames)
        batch = bytes(view[:size])
        for _ in self.ports[port].send(batch, runs(batch)):
            pass
        return [list(got) for got in self.got]

    def who(self, port: int, frame: bytes) -> set[int]:
        """The ports that get it."""
        return {number for number, got in enumerate(self.send(port, frame)) if got}


def frame(destination: bytes, source: bytes, payload: bytes = b"") -> bytes:
    return destination + source + b"\x88\xb5" + payload


def test_an_unknown_address_is_flooded_and_a_known_one_is_not() -> None:
    lan = Lan()
    assert lan.who(0, frame(B, A)) == {1, 2}
    assert lan.who(1, frame(A, B)) == {0}
    assert lan.who(0, frame(B, A)) == {1}


@pytest.mark.parametrize("group", [EVERYBODY, bytes.fromhex("01005e000001"), bytes.fromhex("333300000001")])
def test_a_group_is_flooded_but_never_back_to_who_sent_it(group: bytes) -> None:
    lan = Lan()
    for port, source in enumerate((A, B, C)):
        assert lan.who(port, frame(group, source)) == {0, 1, 2} - {port}


def test_what_is_for_the_neighbour_only_goes_nowhere() -> None:
    lan = Lan()
    assert lan.who(0, frame(bytes.fromhex("0180c2000000"), A)) == set()  # spanning tree
    assert lan.who(0, frame(bytes.fromhex("0180c200000f"), A)) == set()
    assert lan.who(0, frame(bytes.fromhex("0180c2000010"), A)) == {1, 2}


def test_a_frame_to_its_own_side_goes_nowhere() -> None:
    lan = Lan()
    lan.send(0, frame(EVERYBODY, A))
    assert lan.who(0, frame(A, B)) == set()


def test_an_address_that_moves_is_followed() -> None:
    lan = Lan()
    lan.send(0, frame(EVERYBODY, A))
    lan.send(2, frame(EVERYBODY, A))
    assert lan.who(1, frame(A, B)) == {2}


def test_a_group_is_never_learnt_as_a_source() -> None:
    lan = Lan()
    lan.send(0, frame(B, EVERYBODY))
    assert lan.who(1, frame(EVERYBODY, B)) == {0, 2}


def test_an_address_is_forgotten_when_it_was_silent_for_so_long() -> None:
    lan = Lan()
    lan.send(0, frame(EVERYBODY, A))
    lan.clock.turn(AGE_SECONDS)
    assert lan.who(1, frame(A, B)) == {0}
    lan.send(0, frame(EVERYBODY, A))  # seen again: it begins anew
    lan.clock.turn(AGE_SECONDS)
    assert lan.who(1, frame(A, B)) == {0}
    lan.clock.turn(0.001)
    assert lan.who(1, frame(A, B)) == {0, 2}


def test_who_makes_up_addresses_forgets_its_own_and_not_those_of_others() -> None:
    lan = Lan()
    lan.send(1, frame(EVERYBODY, B))
    lan.send(0, frame(EVERYBODY, A))
    made_up = [frame(EVERYBODY, bytes([6, 0, 0, 0, n >> 8, n & 255])) for n in range(MAX_ADDRESSES * 3)]
    lan.send(0, *made_up)
    assert sum(len(port.seen) for port in lan.ports) <= MAX_ADDRESSES + 1
    assert lan.who(2, frame(B, C)) == {1}
    assert lan.who(2, frame(A, C)) == {0, 1}  # the oldest of its own
    assert lan.who(2, frame(made_up[-1][6:12], C)) == {0}


def test_a_batch_goes_where_each_of_its_frames_goes_in_order() -> None:
    lan = Lan()
    lan.send(1, frame(EVERYBODY, B))
    lan.send(2, frame(EVERYBODY, C))
    sent = [frame((B, C, EVERYBODY)[(n + n // 5) % 3], A, bytes([n])) for n in range(100)]
    got = lan.send(0, *sent)
    assert got[0] == []
    assert got[1] == [each for each in sent if each[:6] in (B, EVERYBODY)]
    assert got[2] == [each for each in sent if each[:6] in (C, EVERYBODY)]


def test_a_port_that_is_down_gets_nothing_and_sends_nothing_and_is_forgotten() -> None:
    lan = Lan()
    lan.send(1, frame(EVERYBODY, B))
    lan.ports[1].up = False
    assert lan.who(0, frame(B, A)) == {2}
    assert lan.who(1, frame(A, B)) == set()
    lan.ports[1].up = True
    assert lan.who(0, frame(B, A)) == {1, 2}


def test_a_port_that_has_left_is_gone() -> None:
    lan = Lan()
    lan.send(1, frame(EVERYBODY, B))
    lan.ports[1].leave()
    assert lan.who(0, frame(B, A)) == {2}
    assert lan.who(0, frame(EVERYBODY, A)) == {2}


def test_a_small_part_of_a_batch_does_not_keep_all_of_it() -> None:
    kept: list[bytes] = []
    switch = Switch(ManualClock())
    sender, receiver = switch.join(lambda batch, count: None), switch.join(lambda batch, count: kept.append(batch))
    sender.up = receiver.up = True
    view = memoryview(bytearray(1 << 20))
    size, _ = pack_into(view, [frame(EVERYBODY, A), frame(A, A, bytes(60_000))])
    batch = bytes(view[:size])
    for _ in sender.send(batch, runs(batch)):
        pass
    assert [len(each) for each in kept] == [18]
    assert type(kept[0]) is bytes  # a view would keep the batch alive


def test_a_switch_without_devices_is_gone() -> None:
    switch = Switch(ManualClock())
    port = switch.join(lambda batch, count: None)
    port.up = True
    there = weakref.ref(switch)
    port.leave()
    del switch, port
    gc.collect()
    assert there() is None
