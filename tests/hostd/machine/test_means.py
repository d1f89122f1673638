"""What the process may have of its machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hostd.machine.means import memory

RAM = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def groups(root: Path, limits: dict[str, str]) -> Path:
    for name, limit in limits.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(limit + "\n")
    return root


@pytest.mark.parametrize(
    ("own", "limits", "most"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "4096"}, 4096),
        ("0::/a/b\n", {"a/b/memory.max": "4096", "a/memory.max": "8192"}, 4096),
        ("0::/\n", {"memory.max": "4096"}, 4096),
        ("0::/a\n", {}, RAM),
        ("3:cpu:/a\n2:memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "4096", "cpu/a/memory.max": "1"}, 4096),
        ("2:memory:/\n", {"memory/memory.limit_in_bytes": str((1 << 63) - 4096)}, RAM),
    ],
)
def test_the_least_of_all_groups_and_the_machine_counts(
    tmp_path: Path, own: str, limits: dict[str, str], most: int
) -> None:
    (tmp_path / "own").write_text(own)
    assert memory(groups(tmp_path / "groups", limits), tmp_path / "own") == most


def test_a_process_without_groups_has_the_machine(tmp_path: Path) -> None:
    assert memory(tmp_path, tmp_path / "none") == RAM
