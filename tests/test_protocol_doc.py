"""docs/protocol.md against the code: the worked exchange byte for byte, and every table of numbers and limits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hcall import errors, messages, numbers, text, wire
from hcall.messages import Hello, Welcome
from hcall.session.host import HostSession
from hcall.wire import Decoder, encode

from hostd.calls.limits import Limits
from hostd.guests import guests
from hostd.guests.guest import Guest
from hostd.machine.models import load
from hostd.tree.tree import Tree

TEXT = (Path(__file__).parents[1] / "docs" / "protocol.md").read_text()


def exchange() -> list[tuple[str, bytes]]:
    """The worked exchange: (direction, bytes)."""
    section = TEXT[TEXT.index("## 13.") :]
    found = re.findall(r"^    ([<>]) ((?:[0-9a-f]{2} ?)+(?:\n      (?:[0-9a-f]{2} ?)+)*)$", section, re.M)
    return [(way, bytes.fromhex(data)) for way, data in found]


class Sink:
    """The link of a guest, as far as it matters here."""

    sent = b""

    def write(self, out: list[bytes]) -> None:
        self.sent += b"".join(out)
        out.clear()


def test_the_worked_exchange_is_what_happens() -> None:
    steps = exchange()
    assert len(steps) == 24 and [way for way, _ in steps] == [">", "<"] * 12
    session = HostSession()
    hello = session.greet(steps[0][1])
    assert hello == Hello(4, "hcall", 1, 1, 0, "c-guest", bytes(range(16)), ((0x40000000, 4096),))
    assert encode(Welcome(5, 1, 0, 1, 64, False)) == steps[1][1]
    tree = Tree(1)
    rng = load("rng", Path())()
    rng.start()
    tree.plug("rng", rng)
    guest = Guest(hello, session, 0, tree, Limits(), lambda *_: None)
    guest.link = link = Sink()  # type: ignore[assignment]
    for (_, call), (_, expected) in zip(steps[2::2], steps[3::2], strict=True):
        assert guest.receive(call) is None
        (reply,), (wanted,) = Decoder().feed(link.sent), Decoder().feed(expected)
        link.sent = b""
        assert isinstance(reply, tuple) and isinstance(wanted, tuple)
        if isinstance(wanted[4], bytes):  # what the rng gave
            assert reply[:4] == wanted[:4] and len(reply[4]) == len(wanted[4])
        elif wanted[4] == 4096:  # this guest lent no memory
            assert reply[3] == errors.Status.BAD_AREA
        else:
            assert reply == wanted


CORE = {
    name: value
    for name, value in vars(numbers).items()
    if isinstance(value, int) and value >= 16 and name.isupper() and not name.startswith(("FIRST_", "MAX_"))
    and name != "CLASS_SHIFT" and not name.endswith("_LIMIT")
}  # fmt: skip


def test_every_core_call_has_its_row() -> None:
    section = TEXT[TEXT.index("## 8.") : TEXT.index("## 9.")]
    rows = {name: int(number) for name, number in re.findall(r"^\| ([A-Z_]+) \| (\d+) \|", section, re.M)}
    assert rows == CORE


def test_every_status_has_its_row() -> None:
    section = TEXT[TEXT.index("## 11.") : TEXT.index("## 12.")]
    rows = {name: int(number) for number, name in re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", section, re.M)}
    assert rows == {status.name: status.value for status in errors.Status}


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ("| one message | {:,} bytes |", wire.MAX_MESSAGE),
        ("| one str | {:,} bytes |", text.MAX_TEXT),
        ("| one bytes | {:,} bytes |", wire.MAX_INLINE),
        ("| one array or map | {:,} elements, or pairs |", wire.MAX_ITEMS),
        ("| arrays in arrays | {:,} levels |", wire.MAX_LEVELS),
        ("| token | bytes | exactly {:,}, random", messages.TOKEN_BYTES),
        ("| slots | int | 1 to {:,}:", messages.MAX_SLOTS),
        ("| a complete HELLO after connecting | within {:.0f} s |", guests.HELLO_SECONDS),
        ("| a message after its first byte | within {:.0f} s |", guests.MESSAGE_SECONDS),
        ("| a session without a link | {:.0f} s |", guests.RESUME_SECONDS),
        ("after {:.0f} s, or at 1 MiB, it cuts the link", guests.UNREAD_SECONDS),
        ("for those greater than *after*, at most {}:", numbers.POLL_LIMIT),
        ("parent: int], ...]`, at most {}:", numbers.CHANGES_LIMIT),
        ("| {0.slots}, {0.handles:,}, {0.regions}, 4 GiB; {0.guests:,};", Limits()),
    ],
    ids=lambda value: None if isinstance(value, str) else "",
)
def test_every_limit_stands_in_the_document(words: str, number: object) -> None:
    assert words.format(number) in TEXT


@pytest.mark.parametrize("model", ["rng", "block", "console"])
def test_every_device_is_described(model: str) -> None:
    """All that is in its hypercall table, and its properties."""
    device = load(model, Path())
    section = TEXT[TEXT.index("## 10.") : TEXT.index("## 11.")]
    paragraph = section[section.index(f"**{model}**") :].split("\n**")[0]
    assert str(device.compatible) in paragraph and "0x{:X}:0x{:X}".format(*device.ids) in paragraph
    wanted = [handler.name for handler in device.handlers] + [*device.irqs]
    wanted += [name.replace("_", "-") for name in device.properties]
    wanted += [f"{name} {bit}" for name, bit in device.features.items()]
    missing = [name for name in wanted if name not in paragraph]
    assert not missing
