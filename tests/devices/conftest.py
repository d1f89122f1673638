"""What the tests of devices share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(params=["tmp_path", "/dev/shm"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """On a filesystem whose reads can be told not to wait for the disk, and on tmpfs, which has no such flag."""
    if request.param == "tmp_path":
        yield tmp_path
    else:
        with tempfile.TemporaryDirectory(dir=request.param) as name:
            yield Path(name)
