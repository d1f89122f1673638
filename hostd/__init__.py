"""The host: a daemon that plays the hypervisor, and owns the devices.

async with hostd.serve("machine.toml") as host: ...     # guests attach at host.socket
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .machine.file import Machine, MachineError
    from .machine.host import Host
    from .machine.identity import Identity
    from .service.serve import serve

__all__ = ["Host", "Identity", "Machine", "MachineError", "serve"]
_HOMES = {
    "Host": "machine.host", "Identity": "machine.identity", "Machine": "machine.file", "MachineError": "machine.file",
    "serve": "service.serve",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """A command that only asks a running host must not import all of one: 100 ms."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
