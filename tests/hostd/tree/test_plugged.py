"""A device in its place: what a guest may call, and what is kept of what it can ask for."""

from __future__ import annotations

import itertools

from raw import plugged

from hostd.device import Device, Feature, call
from hostd.tree.plugged import Plugged


class Many(Device):
    """Two calls need a feature each; ten features are of no consequence for any call."""

    compatible = "test,many"
    A, B = Feature(0), Feature(1)

    @call
    def plain(self) -> None: ...

    @call(needs=A)
    def with_a(self) -> None: ...

    @call(needs=B)
    def with_b(self) -> None: ...

    @call(early=True)
    def soon(self) -> None: ...


def names(many: Plugged, accepted: int | None) -> set[str]:
    return {many.names[number] for number in many.tables.of(accepted)}


def test_there_is_a_call_if_its_feature_was_accepted() -> None:
    many = plugged(Many())
    assert names(many, None) == {"soon"}
    for accepted, there in ((0, set()), (1, {"with_a"}), (2, {"with_b"}), (3, {"with_a", "with_b"})):
        assert names(many, accepted) == {"plain", "soon"} | there


def test_features_that_no_call_needs_make_no_other_table() -> None:
    many = plugged(Many())
    tables = {id(many.tables.of(accepted)) for accepted in range(1 << 12)}
    tables |= {id(many.tables.of(accepted | 1 << 63)) for accepted in range(1 << 12)}
    assert len(tables) == 4


def test_what_is_kept_is_bounded_whatever_a_guest_accepts() -> None:
    members = {f"F{n}": Feature(n) for n in range(16)}
    calls = {f"call{n}": call(needs=members[f"F{n}"])(_nothing(n)) for n in range(16)}
    many = plugged(type("All", (Device,), {"compatible": "test,all", **members, **calls})())  # type: ignore[arg-type]
    first = many.tables.of(1)
    kept = [many.tables.of(accepted) for accepted in range(2, 1000)]
    assert len({id(table) for table in kept}) == 998 and many.tables.of(999) is kept[-1]
    assert many.tables.of(1) is not first
    assert all(len(table) == accepted.bit_count() for accepted, table in zip(itertools.count(2), kept, strict=False))


def _nothing(number: int) -> object:
    def nothing(self: Device) -> None: ...

    nothing.__name__ = f"call{number}"
    return nothing
