"""docs/protocol.md against the code: the worked exchange byte for byte, and every table of numbers and limits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from raw import ADDRESS, PAGE, RawGuest, connected, lent, memfd, until

import hostd
from hcall import errors, messages, numbers, wire
from hcall.wire import Decoder
from hostd.calls.limits import Limits
from hostd.devices.net import Net
from hostd.guests import guests
from hostd.machine import host as host_module

TEXT = (Path(__file__).parents[1] / "docs" / "protocol.md").read_text()
RANDOM_BYTES = bytes.fromhex("9f 3a c5 61")  # what the rng gives in the document


def section(number: int) -> str:
    """The text of a section."""
    return re.split(r"^## (?=\d+\. )", TEXT, flags=re.M)[number]


def exchange() -> list[tuple[str, bytes]]:
    """The worked exchange: (direction, bytes)."""
    found = re.findall(r"^    ([<>]) ((?:[0-9a-f]{2} ?)+(?:\n      (?:[0-9a-f]{2} ?)+)*)$", section(16), re.M)
    return [(way, bytes.fromhex(data)) for way, data in found]


@pytest.mark.spec("R-2", "R-4", "I-1", "N-1")
async def test_the_worked_exchange_is_what_happens(tmp_path: Path) -> None:
    steps = exchange()
    assert len(steps) == 40 and [way for way, _ in steps].count(">") == 20
    machine = hostd.Machine.from_tables({"devices": {"rng": {"model": "rng"}, "net0": {"model": "net"}}}, tmp_path)
    async with hostd.serve(machine, tmp_path / "run", identity=hostd.Identity(epoch=1)) as host:
        card = host.tree.find("/net0").device
        assert isinstance(card, Net)
        with lent(memfd()) as fds:
            guests_there: list[RawGuest] = []
            with connected(host) as first, connected(host) as second:
                for way, data in steps:
                    if way == ">" and data[1] == messages.HELLO:
                        guests_there.append((first, second)[len(guests_there)])
                        guests_there[-1].send(data, fds)
                        for gone in guests_there[:-1]:
                            gone.close()
                    elif way == ">":
                        guests_there[-1].send(data)
                    else:
                        if data[1] == messages.IRQ:
                            card.set_link(up=False)
                        await compare(guests_there[-1], data)
        await until(host, lambda: not host.guests.by_token)


async def compare(guest: RawGuest, expected: bytes) -> None:
    """What the host says is *expected*, byte for byte, but for what is random."""
    said = await guest.receive()
    assert said is not None
    if isinstance(said[-1], bytes):
        said = (*said[:-1], RANDOM_BYTES)
    assert wire.encode(said) == expected and [said] == Decoder().feed(expected)


def test_the_exchange_lends_what_it_says() -> None:
    (hello,) = Decoder().feed(exchange()[0][1])
    assert hello == (messages.HELLO, "hcall", 1, 1, 0, "c-guest", bytes(range(16)), ((ADDRESS, PAGE),))


CORE = {
    name: value
    for name, value in vars(numbers).items()
    if isinstance(value, int) and value >= 16 and name.isupper() and name not in ("FIRST_CALL", "CLASS_SHIFT")
    and name not in ("FIRST_ASSIGNED_CLASS", "MAX_VECTORS") and not name.endswith("_LIMIT")
}  # fmt: skip


def test_every_core_call_has_its_row() -> None:
    rows = {name: int(number) for name, number in re.findall(r"^\| ([A-Z_]+) \| (\d+) \|", section(10), re.M)}
    assert rows == CORE


def test_every_status_has_its_row() -> None:
    rows = {name: int(number) for number, name in re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", section(13), re.M)}
    assert rows == {status.name: status.value for status in errors.Status}


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ("| one message | {:,} bytes |", wire.MAX_MESSAGE),
        ("| one str | {:,} bytes |", wire.MAX_TEXT),
        ("| one bytes | {:,} bytes |", wire.MAX_INLINE),
        ("| one array or map | {:,} elements, or pairs |", wire.MAX_ITEMS),
        ("within each other | {:,} levels;", wire.MAX_LEVELS),
        ("| token | bytes | exactly {:,}, random", messages.TOKEN_BYTES),
        ("| slots | int | 1 to {:,}:", messages.MAX_SLOTS),
        ("| a complete HELLO after connecting | within {:.0f} s |", guests.HELLO_SECONDS),
        ("| a message after its first byte | within {:.0f} s |", guests.MESSAGE_SECONDS),
        ("| a session without a link | {:.0f} s |", guests.RESUME_SECONDS),
        ("after {:.0f} s, or at 1 MiB, it cuts the link", guests.UNREAD_SECONDS),
        ("| the last bytes after END | {:.0f} s |", guests.CLOSE_SECONDS),
        ("| a call that a device has put off | {:.0f} s |", host_module.LATER_SECONDS),
        ("| a device that is about to be unplugged | {:.0f} s,", host_module.UNPLUG_SECONDS),
        ("those greater than *after*, at most {}:", numbers.POLL_LIMIT),
        ("parent: int], ...]`, at most {}:", numbers.CHANGES_LIMIT),
        ("| {0.slots}, {0.handles:,}, {0.regions}, 4 GiB; {0.guests:,};", Limits()),
    ],
    ids=lambda value: None if isinstance(value, str) else "",
)
def test_every_limit_stands_in_the_document(words: str, number: object) -> None:
    assert words.format(number) in TEXT


def test_every_section_is_in_the_list_at_the_top() -> None:
    headings = re.findall(r"^## (\d+)\. (.*)$", TEXT, re.M)
    listed = re.findall(r"\[(\d+)\. ([^\]]*)\]\(#", TEXT[: TEXT.index("## 1.")])
    assert listed == headings and [int(number) for number, _ in headings] == list(range(1, len(headings) + 1))
