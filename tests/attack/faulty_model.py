"""A device that does what no device may."""

from __future__ import annotations

import asyncio
import os
import time

from hostd.device import Device, call


class Faulty(Device):
    """Each call is a fault of another kind."""

    compatible = "test,faulty"

    def start(self) -> None:
        self.leaked: list[int] = []

    @call
    def leak(self) -> None:
        self.leaked.append(os.dup(0))

    @call
    def stop_all(self) -> None:
        time.sleep(3.5)

    @call
    def log(self) -> None:
        os.write(2, b"x" * 70_000 + b"\n")

    @call
    def trace(self) -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 // 0)

    @call
    def die(self) -> None:
        os._exit(1)
