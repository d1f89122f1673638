"""How many files a daemon may open."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import os, resource
from hcall.kernel import open_files
before = len(os.listdir("/proc/self/fd"))
open_files.raise_limit()
assert len(os.listdir("/proc/self/fd")) == before, "a descriptor is left"
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
print(open("/proc/self/status").read())
"""


def test_a_daemon_has_all_that_it_may_and_a_table_that_need_not_grow() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "protocol")},
        text=True, capture_output=True, check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 4096)),
    )  # fmt: skip
    limits, *status = done.stdout.splitlines()
    assert limits == "4096 4096"
    (size,) = [int(line.split()[1]) for line in status if line.startswith("FDSize:")]
    assert size >= 4096
