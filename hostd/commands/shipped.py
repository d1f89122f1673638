"""Files that come with the package: in an installed one in the folder `hostd`, in a checkout among the scripts."""

from __future__ import annotations

from pathlib import Path


def shipped(name: str) -> Path:
    """The file or folder *name*, such as `machines/demo.toml`."""
    packaged = Path(__file__).parents[1] / name
    return packaged if packaged.exists() else Path(__file__).parents[2] / "scripts" / name
