"""Anything as JSON, in pieces."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcall.text import json_of

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=8)
KEYS = st.text() | st.integers() | st.booleans() | st.none()
VALUES: st.SearchStrategy[Any] = st.recursive(
    LEAVES, lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner), max_leaves=20
)


def as_json_has_it(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list | tuple):
        return [as_json_has_it(each) for each in value]
    if isinstance(value, dict):
        return {next(iter(json.loads(json.dumps({key: 0})))): as_json_has_it(each) for key, each in value.items()}
    return value


@given(VALUES)
def test_what_was_told_is_read_again(value: Any) -> None:
    assert json.loads("".join(json_of(value))) == as_json_has_it(value)


@pytest.mark.parametrize("value", [object(), {1j: 0}, [{"a": {1, 2}}]], ids=("an object", "a key", "a set"))
def test_what_json_has_not_is_an_error(value: object) -> None:
    with pytest.raises(TypeError):
        list(json_of(value))


def test_much_is_many_pieces_and_a_model_may_change_it_meanwhile() -> None:
    rows = [{"n": n} for n in range(1000)]
    pieces = json_of(rows)
    first = [next(pieces) for _ in range(10)]
    rows.clear()
    told = "".join([*first, *pieces])
    assert max(map(len, first)) < 10 and json.loads(told) == [{"n": n} for n in range(1000)]
