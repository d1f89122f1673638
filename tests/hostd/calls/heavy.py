"""A model that does not come to an end, wherever the test wants that."""

from __future__ import annotations

import asyncio
import time

from hostd.device import Config, Device, Later, call


class Heavy(Device):
    compatible = "test,heavy"
    spins = Config(str, "")  # the hook that does not end, once

    def _spin_in(self, hook: str) -> None:
        if self.spins == hook:
            self.spins = ""
            while True:
                pass

    def start(self) -> None:
        self._spin_in("start")

    def ready(self) -> None:
        self._spin_in("ready")

    def reset(self) -> None:
        self._spin_in("reset")

    def tick(self) -> None:
        self._spin_in("tick")

    def _called_back(self) -> None:
        self._spin_in("callback")

    @call
    def arm(self, hook: str) -> None:
        self.spins = hook
        if hook == "callback":
            asyncio.get_running_loop().call_soon(self._called_back)

    @call
    def loop(self) -> int:
        while True:
            pass

    @call
    def sleep(self) -> int:
        time.sleep(30)
        return 1

    @call
    def stubborn(self) -> int:
        while True:
            try:
                time.sleep(30)
            except Exception:
                continue

    @call
    def pump(self) -> Later[int]:
        """Busy for longer than a model may be, four seconds of the guard's, but in short steps: how many."""
        later: Later[int] = Later()
        self._task = asyncio.ensure_future(self._steps(later))
        return later

    async def _steps(self, later: Later[int]) -> None:
        steps, end = 0, time.monotonic() + 1.2
        while time.monotonic() < end:
            step_end = time.monotonic() + 0.01
            while time.monotonic() < step_end:
                pass
            await asyncio.sleep(0)
            steps += 1
        later.done(steps)

    @call
    def quick(self) -> int:
        return 1
