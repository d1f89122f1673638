"""Every shipped model: one that was saved goes on alike in another device, and a reset leaves nothing of a guest."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shipped_uses import LOOKS, MODELS, Model, Use

import hostd.devices

RUNS = settings(max_examples=30)
Done: TypeAlias = list[tuple[str, Any]]


def test_all_models_are_there() -> None:
    shipped = {path.stem for folder in hostd.devices.__path__ for path in Path(folder).glob("[a-z]*.py")}
    assert {name.partition(" ")[0] for name in MODELS} == shipped


@contextlib.contextmanager
def pair(model: Model, folder: Path) -> Iterator[tuple[Use, Use]]:
    """Two devices in the same condition."""
    uses: list[Use] = []
    try:
        for name in ("one", "other"):
            (folder / name).mkdir()
            uses.append(Use(model.make(folder / name)))
            model.begin(uses[-1])
        yield uses[0], uses[1]
    finally:
        for use in uses:
            use.stop()


def steps_of(model: Model, by_guest: bool = False) -> st.SearchStrategy[Done]:
    """What can be done, or what a guest can do and a reset undoes."""
    those = [
        st.tuples(st.just(name), each.values) for name, each in model.steps.items() if not (by_guest and each.stays)
    ]
    return st.lists(st.one_of(those), max_size=12)


def run(scenario: Callable[[Path], Coroutine[Any, Any, None]]) -> None:
    """In a folder in memory, where most files answer at once."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, asyncio.Runner() as runner:
        runner.run(scenario(Path(folder)))


def not_odd(what: str, value: object, is_pair: bool) -> bool:
    return what not in ("read", "write") or isinstance(value, tuple) == is_pair


async def do_alike(one: Use, other: Use, done: Done, name: str) -> None:
    """Do all that, and then look at everything."""
    model = MODELS[name]
    is_pair = name in ("block", "folder")  # a read is of a place
    looks = [(what, value) for what, value in LOOKS if what in model.steps and not_odd(what, value, is_pair)]
    for each in done + looks:
        assert await one.did(each, model.steps) == await other.did(each, model.steps)


@pytest.mark.parametrize("name", MODELS)
@RUNS
@given(data=st.data())
def test_one_that_was_saved_goes_on_as_if_nothing_had_been(name: str, data: st.DataObject) -> None:
    model = MODELS[name]
    before, after = data.draw(steps_of(model)), data.draw(steps_of(model))

    async def scenario(folder: Path) -> None:
        with pair(model, folder) as (stays, goes):
            endpoint = getattr(goes.device, "endpoint", None)
            for each in before:
                assert await stays.did(each, model.steps) == await goes.did(each, model.steps)
            goes.go_on()
            assert getattr(goes.device, "endpoint", None) == endpoint
            await do_alike(stays, goes, after, name)

    run(scenario)


@pytest.mark.parametrize("name", MODELS)
@RUNS
@given(data=st.data())
def test_after_a_reset_a_device_is_as_new(name: str, data: st.DataObject) -> None:
    model = MODELS[name]
    before, after = data.draw(steps_of(model, by_guest=True)), data.draw(steps_of(model))

    async def scenario(folder: Path) -> None:
        with pair(model, folder) as (fresh, used):
            for each in before:
                await used.did(each, model.steps)
            for use in (fresh, used):
                use.reset()
                model.begin(use)
            await do_alike(fresh, used, after, name)

    run(scenario)
