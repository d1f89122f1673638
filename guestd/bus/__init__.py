"""The bus core: which driver takes which device, and the steps between finding it and using it."""

from .bus import known_drivers, own_drivers

__all__ = ["known_drivers", "own_drivers"]
