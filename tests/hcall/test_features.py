"""Feature negotiation: every sequence of up to five steps ends where a small model of virtio 1.2, 3.1.1 says."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from copy import copy
from typing import Final, NamedTuple, TypeAlias

import msgpack
import pytest

from hcall.errors import BadArgument, HcallError, NotAllowed
from hcall.features import DeviceStatus, Negotiation

OFFERED: Final = 0b1011 | 1 << 63
ORDER: Final = ("ACKNOWLEDGE", "DRIVER", "FEATURES_OK", "DRIVER_OK")


class Model(NamedTuple):
    """How many steps were taken, whether the driver gave up, and what it accepted."""

    taken: int = 0
    failed: bool = False
    accepted: int = 0

    @property
    def status(self) -> int:
        return sum(DeviceStatus[name] for name in ORDER[: self.taken]) + 128 * self.failed


Outcome: TypeAlias = Model | type[HcallError]
Step: TypeAlias = tuple[Callable[[Model], Outcome], Callable[[Negotiation], object]]


def adding(*names: str) -> Step:
    """Write the byte as it is with some bits more."""

    def expected(model: Model) -> Outcome:
        have = {*ORDER[: model.taken], *names} - {"FAILED"}
        taken = len(have)
        if have != {*ORDER[:taken]}:
            return NotAllowed
        if taken > 2 and model.accepted & ~OFFERED:
            if taken > 3:
                return NotAllowed
            taken = 2
        return model._replace(taken=taken, failed=model.failed or "FAILED" in names)

    bits = sum(DeviceStatus[name] for name in names)
    return expected, lambda negotiation: negotiation.write(negotiation.status | bits)


def writing_only(status: int) -> Step:
    """Write a byte that has no step's bit but this one, or one that does not exist."""

    def expected(model: Model) -> Outcome:
        if model.status & ~status or status not in (1, 2, 4, 8, 128):
            return BadArgument
        if model.status == status:
            return model
        return {1: model._replace(taken=1), 128: model._replace(failed=True)}.get(status, NotAllowed)

    return expected, lambda negotiation: negotiation.write(status)


def accepting(features: int) -> Step:
    def expected(model: Model) -> Outcome:
        if not 0 <= features < 1 << 64:
            return BadArgument
        return model._replace(accepted=features) if model.taken == 2 else NotAllowed

    return expected, lambda negotiation: negotiation.accept(features)


MOVES: Final[list[Step]] = [
    adding("ACKNOWLEDGE"), adding("DRIVER"), adding("FEATURES_OK"), adding("DRIVER_OK"), adding("FAILED"),
    adding("FEATURES_OK", "DRIVER_OK"), adding("ACKNOWLEDGE", "DRIVER"),
    writing_only(1), writing_only(2),
    accepting(0b0010), accepting(0b0110),
    (lambda model: Model(), Negotiation.reset),
]  # fmt: skip
RARE: Final[list[Step]] = [
    *map(writing_only, (4, 8, 16, 32, 64, 128, 256, -1, 1 << 64)),
    *map(accepting, (0, OFFERED, 1 << 62, (1 << 64) - 1, 1 << 64, -1)),
]


def shown(negotiation: Negotiation) -> tuple[int, int, int]:
    return negotiation.status, negotiation.accepted, negotiation.offered


def take(step: Step, model: Model, negotiation: Negotiation) -> Model:
    """One step on both, which must agree; the model after it."""
    expected, move = step
    outcome, before = expected(model), shown(negotiation)
    try:
        written = move(negotiation)
    except HcallError as error:
        assert type(error) is outcome
        assert shown(negotiation) == before
        return model
    assert isinstance(outcome, Model)
    assert shown(negotiation) == (outcome.status, outcome.accepted, OFFERED)
    assert written in (None, outcome.status)
    assert negotiation.live == (outcome.taken == 4 and not outcome.failed)
    return outcome


def walk(model: Model, negotiation: Negotiation, steps: int) -> int:
    """All sequences of *steps* steps from here; how often a driver went live."""
    live = 0
    for step in MOVES:
        then = copy(negotiation)
        after = take(step, model, then)
        live += then.live and not negotiation.live
        if steps > 1:
            live += walk(after, then, steps - 1)
    return live


def test_every_sequence_of_steps_ends_where_the_model_says() -> None:
    assert walk(Model(), Negotiation(OFFERED), 5) > 100


@pytest.mark.parametrize("before", range(5))
@pytest.mark.parametrize("failed", [False, True])
def test_from_every_state_every_rare_step_does_what_the_model_says(before: int, failed: bool) -> None:
    for step in [*RARE, *MOVES]:
        model, negotiation = Model(), Negotiation(OFFERED)
        for name in ORDER[:before] + ("FAILED",) * failed:
            model = take(adding(name), model, negotiation)
        take(step, model, negotiation)


def test_that_the_device_needs_a_reset_is_kept_until_the_reset() -> None:
    negotiation = Negotiation(OFFERED)
    negotiation.write(1)
    negotiation.status |= DeviceStatus.NEEDS_RESET
    assert negotiation.write(1 | 2) == 1 | 2 | 64
    assert negotiation.write(1 | 2 | 128) == 1 | 2 | 64 | 128
    negotiation.reset()
    assert negotiation.status == 0 and negotiation.write(1) == 1


# In another life of the host.


def restored(old: Negotiation) -> Negotiation:
    new = Negotiation(OFFERED)
    new.restore(msgpack.unpackb(msgpack.packb(old.save())))
    return new


@pytest.mark.parametrize("length", range(4))
def test_a_restored_negotiation_goes_on_as_the_model_says(length: int) -> None:
    for steps in itertools.product(MOVES, repeat=length):
        model, old = Model(), Negotiation(OFFERED)
        for step in steps:
            model = take(step, model, old)
        new = restored(old)
        assert shown(new) == shown(old) and new.live == old.live
        for step in [*RARE, *MOVES]:
            take(step, model, copy(new))


def test_a_device_that_needed_a_reset_needs_it_still() -> None:
    old = Negotiation(OFFERED)
    old.write(1)
    old.break_down()
    assert restored(old).status == 1 | 64


def test_a_negotiation_of_another_version_is_refused() -> None:
    negotiation = Negotiation(OFFERED)
    with pytest.raises(ValueError, match="another version"):
        negotiation.restore(negotiation.save() | {"version": 0})
