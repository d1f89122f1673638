"""`hostd demo --all`: a machine with every device; a guest uses each once, with its real backing.

What there is to see of a device, its evidence, is `guestd/commands/evidence/NAME.py`; the guest's half is
`guestd.commands.demo_all`.
"""

from __future__ import annotations

import json
import shutil
from typing import Any

from hcall.clock import SystemClock
from hcall.programs.command import Exit, Failure, print_json
from hcall.text import counted, shown

from .remote import ask
from .shipped import shipped
from .stage import Stage


def run_demo_all(as_json: bool) -> int:
    """Show every device; the exit code, which is 0 if all are as they should be."""
    clock = SystemClock()
    started = clock.time()
    with Stage(as_json) as stage:
        shown_all = _tell(stage)
        failed = [each["device"] for each in shown_all if not each["ok"]]
        seconds = clock.time() - started
        good = len(shown_all) - len(failed)
        stage.say("done", f"{seconds:.1f} s: {good} of {counted(len(shown_all), 'device')} as they should be")
        if as_json:
            print_json(shown_all)
        if failed:
            raise Failure(f"not as it should be: {', '.join(failed)}")
    return Exit.OK


def _tell(stage: Stage) -> list[dict[str, Any]]:
    """{device, class, evidence, ok} of each device of the machine."""
    machine = stage.folder / "all.toml"
    shutil.copy(shipped("machines/all.toml"), machine)
    host = stage.start_host(machine)
    classes = {node["name"]: shown(node["properties"]["compatible"]) for node in ask(str(stage.run), "ls")}
    guest = stage.start("guestd.commands.demo_all", str(stage.run / "guest.sock"), str(stage.folder))
    assert guest.stdout is not None
    said: dict[str, dict[str, Any]] = {}
    for line in guest.stdout:
        event = json.loads(line)
        for name in event["devices"]:
            said[name] = _say(stage, name, event["evidence"], event["ok"])
    stage.end(host, guest)
    for name in classes:
        if name not in said:
            said[name] = _say(stage, name, "nothing shows it", False)
    return [{"device": name, "class": classes[name], **said[name]} for name in classes]


def _say(stage: Stage, name: str, evidence: str, ok: bool) -> dict[str, Any]:
    stage.say(name, evidence, "bold cyan" if ok else "bold red")
    return {"evidence": evidence, "ok": ok}
