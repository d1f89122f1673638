"""Order between two processes that share memory."""

from __future__ import annotations

import threading
from typing import Final

_lock: Final = threading.Lock()


def fence() -> None:
    """What was stored before is there for the other end before anything is loaded after this.

    Stores become visible in their order on x86 by themselves, and loads are made in theirs; a load overtakes a store
    (Intel SDM 3A, 9.2.3.4), but for a locked instruction between them, as taking a lock has.
    """
    with _lock:
        pass
