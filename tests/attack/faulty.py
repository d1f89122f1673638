"""Attacks that have a device do what no device may: what is told of each, as JSON, so that a test sees that it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from .enemy import Enemy, Fault
from .room import Attack, Theatre
from .table import as_json

_MACHINE: Final = f'[devices.faulty]\nmodel = "{Path(__file__).with_name("faulty_model.py")}:Faulty"\n'


def _doing(name: str) -> Attack:
    async def run(enemy: Enemy) -> None:
        guest = await enemy.guest()
        handle, calls = await guest.open("/faulty")
        await guest.ask(calls[name], handle)
        guest.close()

    return Attack(name, run, _MACHINE)


async def _nothing(enemy: Enemy) -> None:
    enemy.seen["nothing"] += 1


async def _wrong(enemy: Enemy) -> None:
    raise Fault("seen by the attack")


def main() -> None:
    """One after the other."""
    theatre = Theatre(0, True, 0.1, 1.0)
    attacks = [Attack("nothing", _nothing, _MACHINE), Attack("wrong", _wrong, _MACHINE)]
    attacks += [_doing(name) for name in ("stop_all", "leak", "log", "trace", "die")]
    try:
        print(json.dumps([as_json(theatre.play(each, False)) for each in attacks]))
    finally:
        theatre.close()


if __name__ == "__main__":
    main()
