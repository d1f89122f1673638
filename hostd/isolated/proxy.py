"""In the place of a device whose model runs in a process of its own: each of its calls is answered by that."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from ..device import Config, Data, Device, Later, Room, Saved
from ..model.areas import InlineRoom
from ..model.handlers import Handler
from ..model.site import Site
from ..model.state import States
from .process import Above, Process, Recipe

_KEY: Final = "_Isolated__process"  # a name that no model takes


class Isolated(Device, extends=("stand", "renew", "close")):
    """Has the declarations of a model, and nothing of its code."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.__process: Process
        self.__told: tuple[Any, ...] = ()  # that the process knows of the site
        self.__heard: _Heard
        for handler in self.declares.handlers:
            vars(self)[handler.name] = functools.partial(self.__call, handler)
        for action in self.declares.actions:
            vars(self)[action.name] = functools.partial(self.__act, action)

    def stand(self, site: Site) -> None:
        """It has this site.  For the host."""
        super().stand(site)
        self.__heard = _Heard(self)
        self.__process.stand(self.__heard, site.clock, site.random(32))

    def start(self) -> None:
        self.__process.start()

    def ready(self) -> None:
        self.__tell("ready")

    def tick(self) -> None:
        if self.__process.pid is not None:  # else it is failed, or about to be
            self.__tell("tick")

    def renew(self, used: bool) -> None:
        """The process knows how far it was used.  For the host."""
        self.__tell("reset")

    def save(self) -> Saved:
        """The process, as what stands behind the device, says it all."""
        return {}

    def load(self, saved: Saved) -> None:
        """It began where it was saved."""

    def close(self) -> None:
        """End the process.  For the host."""
        super().close()
        self.__process.close()

    def __tell(self, *message: Any) -> None:
        self.__tell_site()
        self.__process.tell(*message)

    def __tell_site(self) -> None:
        """It knows who has the device before it is called."""
        now = self.site.in_use, self.site.ender().guests, self.__process.starts
        if now != self.__told:
            self.__told = now
            self.__heard.guests.update(now[1])
            self.__process.tell("site", *now[:2])

    def __call(self, handler: Handler, *args: Any) -> Later[Any]:
        room: Any = None
        data: Any = None
        taken = len(handler.areas)
        for area, kind in zip(args, handler.areas, strict=False):
            if kind is Room:
                room = area
            elif kind is Data:
                data = self.__process.lent.named(area)
        self.__tell_site()
        ask = functools.partial(self.__process.ask, "call", handler.number, args[taken:], waits=handler.waits)
        if room is None:
            return ask(None, data)
        if isinstance(room, InlineRoom):
            return ask(room.nbytes, data, filled=room.put)
        return ask(self.__process.lent.named(room), data)

    def __act(self, action: Handler, *args: Any) -> Later[Any]:
        self.__tell_site()
        return self.__process.ask("act", action.name, args)


class _Heard(Above):
    """What the process says of the device."""

    def __init__(self, device: Isolated) -> None:
        self._device = device
        self.guests: set[int] = set()  # that have had it, and may be there

    def shows(self, offered: int, shown: Mapping[str, Any]) -> None:
        self._device.offered = offered
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in shown.items()}
        vars(self._device).update(values)
        self._device.site.shown()

    def raised(self, vector: int) -> None:
        self._device.site.signal(vector)

    def ended(self, guests: Sequence[int], text: str) -> None:
        self._device.ender(guests)(text)

    def failed(self) -> None:
        self._device.site.fail()

    def news(self) -> tuple[float, list[int]]:
        ended = [guest for guest in self.guests if self._device.ender([guest]).is_idle]
        self.guests.difference_update(ended)
        return self._device.guest_clock.time(), ended


def isolated(model: type[Device], recipe: Recipe) -> Isolated:
    """A device of *model*, which runs elsewhere."""
    return _stand_in(model)(**{_KEY: Process(recipe)})


def process_of(device: Device | None) -> Process | None:
    """The process that *device* is in, if it has one of its own."""
    process = vars(device).get(_KEY) if device is not None else None
    return process if isinstance(process, Process) else None


def _stand_in(model: type[Device]) -> type[Isolated]:
    about = {"compatible": model.compatible, "ids": model.ids, "class_code": model.class_code,
             "shared": model.shared, "__doc__": model.__doc__}  # fmt: skip
    made: Any = type(model.__name__, (Isolated,), about)
    key: Config[Any] = Config(Process)
    made.declares = dataclasses.replace(model.declares, keys={_KEY: key}, states=States())
    return cast(type[Isolated], made)
