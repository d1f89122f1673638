"""What the methods of a class set on the object, in every way that Python has of setting an attribute."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from hcall.programs.members import attributes

WAYS = """
self.it = 1
self.it: int = 1
self.it, other.not_it = 1, 2
other.not_it, self.it = 1, 2
self.it = other.not_it = 1
self.it += 1
self.it += other.not_it
self.deep.not_it = self.it = 1
[self.it for self.it in (1, 2)]
with other as self.it: pass
""".strip().splitlines()


def made(body: str) -> Callable[..., Any]:
    """A method with this body."""
    space: dict[str, Any] = {}
    exec(f"def method(self, other=None):\n    {body}", space)
    method: Callable[..., Any] = space["method"]
    return method


@pytest.mark.parametrize("way", WAYS)
def test_each_way_to_set_an_attribute_is_found(way: str) -> None:
    for body in (way, f"def inner():\n        {way}\n    inner()"):
        assert attributes([made(body)]) == {"it"}
        assert attributes([made(body)], {"it", "more"}) == {"it"} and attributes([made(body)], {"more"}) == set()


@pytest.mark.parametrize(
    "body",
    ["other.it = self", "self.deep.it = 1", "other = self.it", "self.deep.it += 1", "other.it += self.it", "it = 1"],
)
def test_what_is_set_on_something_else_is_not(body: str) -> None:
    assert attributes([made(body)]) == set()


def test_an_attribute_behind_hundreds_of_others_is_found() -> None:
    body = "\n    ".join(f"other.a{n} = {n}" for n in range(300)) + "\n    self.it = 1"
    assert attributes([made(body)]) == attributes([made(body)], ["it"]) == {"it"}


def test_properties_and_wrapped_methods_are_looked_into_and_the_rest_is_left_alone() -> None:
    inner = made("self.it = 1")

    @functools.wraps(inner)
    def wrapped(*args: object) -> object:
        return inner(*args)

    for member in (property(inner), property(None, inner), property(None, None, inner), wrapped):
        assert attributes([member]) == {"it"}
    assert attributes([1, "text", None, int, staticmethod(len), lambda: 1]) == set()
