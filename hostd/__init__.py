"""The host: a daemon that plays the hypervisor, and owns the devices.

async with hostd.serve("machine.toml") as host: ...     # guests attach at host.socket
"""

from .daemon import serve
from .host import Host
from .machine import Machine, MachineError

__all__ = ["Host", "Machine", "MachineError", "serve"]
