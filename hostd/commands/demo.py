"""The demo: a host process, a guest process, and a story on real data: probe, use, interrupt, hotplug, a cut link.

This half starts the host and the guest, acts on the host while the guest runs, and compares what came out. The guest's
half is `guestd.commands.demo`; the two talk by lines, so that each step of one follows a step of the other.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from pathlib import Path
from typing import IO, Any

from hcall.clock import SystemClock
from hcall.programs.command import Exit, Failure, print_json

from .remote import ask
from .shipped import shipped
from .stage import Stage


def run_demo(as_json: bool) -> int:
    """Tell the story; the exit code."""
    clock = SystemClock()
    started = clock.time()
    with Stage(as_json) as stage:
        facts = _tell(stage)
        facts["seconds"] = round(clock.time() - started, 2)
        moved = f"{facts['calls']} calls, {facts['bytes'] / 1e6:.1f} MB of disk"
        stage.say("done", f"{facts['seconds']} s: {moved}, {facts['resumed']} cut link, nothing lost")
    if as_json:
        print_json(facts)
    return Exit.OK


def _tell(stage: Stage) -> dict[str, Any]:
    """All of it; the facts.  Raises Failure where something is not as it should be."""
    machine = stage.folder / "demo.toml"
    shutil.copy(shipped("machines/demo.toml"), machine)
    archive, files = _archive(stage.folder)
    image = stage.folder / "disk.img"
    image.write_bytes(archive.ljust(len(archive) + -len(archive) % 512, b"\0").ljust(16 << 20, b"\0"))
    host = stage.start_host(machine)
    guest = stage.start("guestd.commands.demo", str(stage.run / "guest.sock"), str(len(archive)))
    assert guest.stdin is not None and guest.stdout is not None
    facts: dict[str, Any] = {"files": files, "archive_sha256": hashlib.sha256(archive).hexdigest()}
    for line in guest.stdout:
        event = json.loads(line)
        if "say" in event:
            stage.say(event["step"], event["say"])
        if "fact" in event:
            facts |= event["fact"]
        if "host" in event:
            _act(stage, event["host"], facts)
            _answer(guest.stdin)
    if guest.wait() == 0:
        _compare(stage, image, archive, facts)
    stage.end(host, guest)
    return facts


def _archive(folder: Path) -> tuple[bytes, dict[str, str]]:
    """Real files, the modules of Python's own `json`, `email` and `asyncio`, as a tar, and their checksums."""
    path, files = folder / "archive.tar", {}
    library = Path(json.__file__).parents[1]
    with tarfile.open(path, "w") as tar:
        for package in ("asyncio", "email", "json"):
            for file in sorted((library / package).glob("*.py")):
                name = f"{package}/{file.name}"
                tar.add(file, name)
                files[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return path.read_bytes(), files


def _act(stage: Stage, what: str, facts: dict[str, Any]) -> None:
    """What the guest asks the host's user to do."""
    run = str(stage.run)
    if what == "unplug":
        ask(run, "unplug", path="/rng")
        stage.say("host", "hostd unplug rng")
    elif what == "plug":
        ask(run, "plug", path="/rng", config={"model": "rng"})
        stage.say("host", "hostd plug rng rng")
    elif what == "status":
        (guest,) = ask(run, "status")["guests"]
        facts["calls"] = guest["calls"]


def _compare(stage: Stage, image: Path, archive: bytes, facts: dict[str, Any]) -> None:
    """The guest unpacked the archive, and wrote it back at another place of the disk: is all of it right?"""
    wrong = [name for name, digest in facts["files"].items() if facts["unpacked"].get(name) != digest]
    if wrong or len(facts["unpacked"]) != len(facts["files"]):
        raise Failure(f"the guest read {len(wrong)} files wrong: {', '.join(wrong[:5])}")
    with image.open("rb") as disk:
        disk.seek(facts["written_at"])
        digest = hashlib.sha256(disk.read(len(archive))).hexdigest()
    if digest != facts["archive_sha256"]:
        raise Failure(f"what the guest wrote back has sha256 {digest}, not {facts['archive_sha256']}")
    facts["bytes"] = 2 * len(archive)
    stage.say("compare", f"{len(facts['files'])} files unpacked by the guest: every sha256 equal")
    stage.say("compare", f"{len(archive)} bytes written back: sha256 {digest[:8]}... equal on the host")


def _answer(pipe: IO[str]) -> None:
    pipe.write("done\n")
    pipe.flush()
