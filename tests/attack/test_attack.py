"""Each attack, briefly: nothing fails, everything is answered, and nothing is left.  `scripts/torture` does more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from .room import load

ROOT: Final = Path(__file__).parents[2]
ATTACKS: Final = [each for each in load().values() if not each.awaits]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `scripts/torture --brief` tells of all of them, in one run: a daemon is used for more than one."""
    file = tmp_path_factory.mktemp("attack") / "rows.json"
    done = subprocess.run(
        [sys.executable, "-m", "attack.torture", "--brief", "--json", file, *(f"={each.name}" for each in ATTACKS)],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT}/tests"}, text=True, capture_output=True, check=False,
    )  # fmt: skip
    print(done.stdout, done.stderr)
    assert done.returncode in (0, 1) and not done.stderr, done.stderr
    found = json.loads(file.read_text())
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("name", [each.name for each in ATTACKS])
def test_nobody_else_is_hurt(report: dict[str, Any], name: str) -> None:
    (row,) = [row for row in report["rows"] if row["attack"] == name]
    assert not row["faults"] and not row["slow"], f"seed {report['seed']}: {row}"
    assert row["waits"]["calls"] > 10 and row["seen"]
