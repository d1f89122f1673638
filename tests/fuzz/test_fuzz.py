"""The kept corpus, and some thousand inputs that coverage leads, of each target."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from .targets import TARGETS, kept

ROOT: Final = Path(__file__).parents[2]


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_kept_breaks_nothing(name: str) -> None:
    files = kept(name)
    assert files
    for file in files:
        data = file.read_bytes()
        for end in {len(data), len(data) - 1, len(data) // 2, 0}:
            TARGETS[name](data[: max(0, end)])


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed: the extra `fuzz`")
@pytest.mark.parametrize("name", TARGETS)
def test_some_thousand_inputs_break_nothing(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fuzz.run", name, "--inputs", "3000", "--seed", "1", "--keep", tmp_path],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT}/tests", "PYTHONHASHSEED": "1"},
        text=True, capture_output=True, check=False,
    )  # fmt: skip
    broke = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert done.returncode == 0 and not broke, f"{broke}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    assert "number_of_executed_units" in done.stderr
