"""Stand-ins for drivers: for one that is not bound yet, and for one whose calls return instead of being awaited."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import reduce
from typing import Any, Protocol

from ..driver import BoundSignal, Driver
from ..probers import absolute


class Binder(Protocol):
    """A guest that binds."""

    drivers: dict[str, Driver]  # bound, by path

    def bind(self, path: str) -> Awaitable[Driver]:
        """The driver of the device at *path*."""


class Unbound:
    """Stands in for a driver, or a part of it such as a signal: whatever is called on it binds the driver first."""

    def __init__(self, guest: Binder, path: str, *names: str) -> None:
        self._guest, self._path, self._names = guest, path, names

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        driver = self._guest.drivers.get(absolute(self._path))
        if driver is not None:  # bound since
            return getattr(reduce(getattr, self._names, driver), name)
        return Unbound(self._guest, self._path, *self._names, name)

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        driver = await self._guest.bind(self._path)
        member: Any = reduce(getattr, self._names, driver)
        return await member(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<{'.'.join((self._path, *self._names))} is not bound: await guest.bind({self._path!r})>"


class Returning:
    """A driver, or a signal of it, whose calls return their results instead of being awaited: *run* waits for them."""

    def __init__(self, run: Callable[[Awaitable[Any]], Any], driver: Driver | BoundSignal) -> None:
        self._run, self._driver = run, driver

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._driver, name)
        if isinstance(member, BoundSignal):
            return Returning(self._run, member)
        if not callable(member):
            return member
        run = self._run

        def call(*args: Any, **kwargs: Any) -> Any:
            result = member(*args, **kwargs)
            return run(result) if hasattr(result, "__await__") else result

        self.__dict__[name] = call  # found before `__getattr__` from now on
        return call
