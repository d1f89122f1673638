"""A job of 100 kB is printed: the one new file in the spool has every byte of it."""

import hashlib
from pathlib import Path

from guestd import AsyncGuest

_JOB = b"%!PS\n" + bytes(range(256)) * 400


async def show(guest: AsyncGuest, folder: Path) -> str:
    """Raises AssertionError where the spool has anything else."""
    spool = folder / "spool"
    before = set(spool.iterdir())
    await guest["printer"].print_job(_JOB)
    status = await guest["printer"].status()
    assert status == 0x18, f"status {status:#x}"
    (job,) = set(spool.iterdir()) - before
    digest = hashlib.sha256(job.read_bytes()).hexdigest()
    assert digest == hashlib.sha256(_JOB).hexdigest(), f"{job} is another job"
    return f"{len(_JOB)} bytes in spool/{job.name}, sha256 {digest[:12]}..., status 0x18"
