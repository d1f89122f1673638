"""One target with atheris, until its time is over or something breaks: `python -m fuzz.run NAME [--seconds N]`.

With a seed and a number of inputs it does the same each time (but for what Python's hash seed changes).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import atheris


def main() -> None:
    """The command; it ends the process."""
    with atheris.instrument_imports(include=["hcall", "hostd.backings.parts"]):
        from .targets import CORPUS, TARGETS

    parser = argparse.ArgumentParser("python -m fuzz.run", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", metavar="NAME", choices=TARGETS, help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="default: 60")
    parser.add_argument("--inputs", type=int, default=-1, help="end after so many; default: only by time")
    parser.add_argument("--seed", type=int, default=0, help="of chance; 0: by chance")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where what breaks it is written; else nowhere")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as found:
        where = given.keep or Path(found)
        argv = [
            sys.argv[0], f"-max_total_time={given.seconds}", f"-runs={given.inputs}", f"-seed={given.seed}",
            "-max_len=4096", "-timeout=20",
            f"-artifact_prefix={where}/", "-verbosity=0", "-print_final_stats=1", found, str(CORPUS / given.name),
        ]  # fmt: skip
        atheris.Setup(argv, TARGETS[given.name])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
