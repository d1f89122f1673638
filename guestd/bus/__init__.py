"""The bus core: which driver takes which device, and the steps between finding it and using it.

    Found ──known.match──▶ class of a driver
          ──OPEN────────▶ device.OpenDevice ──negotiate──▶ live ──▶ Driver(device), probe
                                                                └─▶ CLOSE, if a step fails: no other is concerned

Everything here is I/O-free and runs on either client: a client offers `device.Caller`, and the answers to its calls of
the core are looked at in `core`, since the host is another program.
"""

from .known import known_drivers, own_drivers

__all__ = ["known_drivers", "own_drivers"]
