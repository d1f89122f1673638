"""The threads of a device."""

from __future__ import annotations

import asyncio
import os
import threading

from hostd.model.workers import Workers


def _where() -> tuple[int, int]:
    return threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0)


async def test_a_worker_gives_way_to_the_loop_and_to_it_alone() -> None:
    workers, told = Workers("some"), asyncio.get_running_loop().create_future()
    here, before = _where()
    workers.submit(_where).then(told.set_result)
    thread, nice = await told
    workers.close()
    assert thread != here and nice == min(before + 10, 19) and _where() == (here, before)
