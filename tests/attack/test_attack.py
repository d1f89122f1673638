"""Each attack, briefly: nothing fails, everything is answered, and nothing is left.  `scripts/torture` does more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import pytest
import slow_files

from . import groups
from .canary import Waits
from .room import OTHER, SAME, load

ROOT: Final = Path(__file__).parents[2]
ATTACKS: Final = list(load().values())
SPUN: Final = ("acks of one session", "acks of many sessions", "connects", "killed guests", "net flood to all ports")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `scripts/torture --brief` tells of all of them, in one run: a daemon is used for more than one."""
    return _told(tmp_path_factory, [each.name for each in ATTACKS])


@pytest.fixture(scope="module")
def spun(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same of some, with a daemon and a quiet guest that look again before they sleep."""
    return _told(tmp_path_factory, SPUN, "--spin")


def _told(tmp_path_factory: pytest.TempPathFactory, names: Iterable[str], *options: str) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("attack") / "rows.json"
    done = subprocess.run(
        [sys.executable, "-m", "attack.torture", "--brief", *options, "--json", file, *(f"={name}" for name in names)],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT}/tests"}, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1) and not done.stderr, done.stderr
    found = json.loads(file.read_text())
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("name", [each.name for each in ATTACKS])
def test_nobody_else_is_hurt(report: dict[str, Any], name: str) -> None:
    if load()[name].memory and not groups.can_be():
        pytest.skip("no control group bounds memory here")
    if load()[name].slow and not slow_files.can_be():
        pytest.skip(f"{slow_files.MISSING}it cannot be mounted")
    (row,) = [row for row in report["rows"] if row["attack"] == name]
    assert not row["faults"] and not row["slow"], f"seed {report['seed']}: {row}"
    assert row["waits"]["calls"] > 10 and row["seen"]


@pytest.mark.parametrize("name", SPUN)
def test_nobody_else_is_hurt_by_who_makes_a_daemon_spin(spun: dict[str, Any], name: str) -> None:
    (row,) = [row for row in spun["rows"] if row["attack"] == name]
    assert not row["faults"] and not row["slow"], f"seed {spun['seed']}: {row}"
    assert row["waits"]["calls"] > 10 and row["seen"]


def test_what_does_not_hold_is_told() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "attack.faulty"],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT}/tests"}, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {row["attack"]: row for row in json.loads(done.stdout)}
    told = {name: " ".join([*row["faults"], *row["slow"]]) for name, row in rows.items()}
    expected = {
        "wrong": "seen by the attack", "stop_all": "took longer than 1 s", "leak": "descriptors: ",
        "log": "bytes of log", "trace": "ZeroDivisionError", "die": "the daemon is dead",
    }  # fmt: skip
    assert all(words in told[name] for name, words in expected.items()), told
    assert {name for name, row in rows.items() if row["holds"]} == {"nothing"} and told["nothing"] == ""


@pytest.mark.parametrize(
    ("p99", "worst", "other", "same"),
    [(0.004, 0.049, 0, 0), (0.006, 0.049, 1, 0), (0.006, 0.051, 2, 0), (0.3, 0.251, 2, 1)],
)
def test_who_waits_for_too_long_is_told(p99: float, worst: float, other: int, same: int) -> None:
    quiet, waits = Waits(9, 0.0001, 0.002, 0.003, 0), Waits(9, 0.0001, p99, worst, 0)
    assert (len(OTHER.slow(quiet, waits)), len(SAME.slow(quiet, waits))) == (other, same)
    assert not OTHER.slow(waits, waits)  # it is no slower than it was without
