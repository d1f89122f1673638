#!/usr/bin/env python3
"""Record what Linux's own drivers report of keyboards and mice: evdev records, and what was done to get them.

    dpkg -x linux-image-*.deb KERNEL    # a distribution's kernel, not a cloud one: it has no input drivers
    record.py KERNEL INTO

Boots that kernel in QEMU twice, with a PS/2 keyboard and mouse (i8042, atkbd, psmouse) and with USB ones (xhci,
usbhid).  Types and points there through QMP in a person's rhythm, and keeps in the folder INTO of each device

    NAME.evdev    the bytes that /dev/input/eventN gave
    NAME.json     what was injected, in its order: [name, value], a key's or button's being 1 down and 0 up

Needs Debian's qemu-system-x86, busybox-static, cpio and kmod.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import math
import random
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias

Done: TypeAlias = list[tuple[str, int]]

DRIVERS = ["evdev", "psmouse", "xhci_pci", "usbhid", "hid_generic"]  # those that are built in need no loading
INIT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
stty -F /dev/ttyS0 raw -echo
exec 3<>/dev/ttyS0
for module in $(cat /modules); do insmod "$module"; done
until grep -q 'Name=.*[Kk]eyboard' /proc/bus/input/devices && grep -q 'Name=.*[Mm]ouse' /proc/bus/input/devices; do
    sleep 0.1
done
sleep 1    # until they have their nodes
mkdir /recorded
for node in /dev/input/event*; do
    cat "$node" >"/recorded/${node##*/}" &
done
uname -r >/recorded/kernel
cat /proc/bus/input/devices >/recorded/devices
sleep 1    # until each node is open
echo ready >&3
read -r _ <&3
tar -c -C /recorded . | base64 >&3
echo done >&3
read -r _ <&3    # QEMU ends here
"""

MACHINES = {
    "ps2": ["-machine", "pc"],
    "usb": ["-machine", "q35,i8042=off", "-device", "qemu-xhci", "-device", "usb-kbd", "-device", "usb-mouse"],
}
TEXTS = {
    "ps2": ["Devices come and go, and links are cut, ", 'from a script: 24 bytes a record, "as Linux has them".\n'],
    "usb": ["No root, no hardware, no kernel module & ", "no VM. It's all ordinary processes; who'd miss 1 edge?\n"],
}

# Keys: QMP's names (qapi/ui.json) and evdev's (linux/input-event-codes.h).
QCODES = {
    "KEY_LEFTSHIFT": "shift", "KEY_RIGHTSHIFT": "shift_r", "KEY_LEFTCTRL": "ctrl", "KEY_CAPSLOCK": "caps_lock",
    "KEY_BACKSPACE": "backspace", "KEY_ENTER": "ret", "KEY_SPACE": "spc", "KEY_DOT": "dot", "KEY_COMMA": "comma",
    "KEY_SLASH": "slash", "KEY_APOSTROPHE": "apostrophe", "KEY_SEMICOLON": "semicolon", "KEY_LEFT": "left",
    "KEY_END": "end",
}  # fmt: skip
UNSHIFTED = {" ": "SPACE", "\n": "ENTER", ".": "DOT", ",": "COMMA", "'": "APOSTROPHE", ";": "SEMICOLON"}
SHIFTED = {":": "SEMICOLON", '"': "APOSTROPHE", "?": "SLASH", "&": "7"}
BUTTONS = {"BTN_LEFT": "left", "BTN_RIGHT": "right", "BTN_MIDDLE": "middle", "BTN_SIDE": "side", "BTN_EXTRA": "extra"}
AXES = {"REL_X": "x", "REL_Y": "y"}


class Act(NamedTuple):
    """Something that a person does, after so many seconds."""

    at: float
    name: str
    value: int

    def inputs(self) -> list[dict[str, Any]]:
        """The events of QMP."""
        if self.name in AXES:
            return [{"type": "rel", "data": {"axis": AXES[self.name], "value": self.value}}]
        if self.name == "REL_WHEEL":
            way = "wheel-up" if self.value > 0 else "wheel-down"
            return [{"type": "btn", "data": {"button": way, "down": down}} for down in (True, False)]
        if self.name in BUTTONS:
            return [{"type": "btn", "data": {"button": BUTTONS[self.name], "down": bool(self.value)}}]
        qcode = QCODES.get(self.name, self.name.removeprefix("KEY_").lower())
        return [{"type": "key", "data": {"key": {"type": "qcode", "data": qcode}, "down": bool(self.value)}}]


class Person:
    """Plans acts, as somebody types and points."""

    def __init__(self, seed: int, typematic: bool) -> None:
        self.random = random.Random(seed)
        self.typematic = typematic  # the keyboard repeats by itself, as PS/2 ones do; of others Linux does it
        self.acts: list[Act] = []
        self.now = 0.0

    def act(self, name: str, value: int, wait: float = 0.0) -> None:
        self.acts.append(Act(self.now, name, value))
        self.now += wait

    def write(self, text: str) -> None:
        """Type at about eight keys a second; often a key goes down before the last one is up."""
        shift = ""
        up: dict[str, float] = {}  # when each key was let go
        for character in text:
            capital = character.isupper() or character in SHIFTED
            name = "KEY_" + (SHIFTED | UNSHIFTED).get(character, character.upper())
            self.now = max(self.now + max(self.random.gauss(0.12, 0.05), 0.03), up.get(name, 0.0) + 0.02)
            if capital and not shift:
                self.now += 0.04
                shift = self.random.choice(["KEY_LEFTSHIFT", "KEY_RIGHTSHIFT"])
                self.act(shift, 1, wait=0.06)
            elif shift and not capital:
                self.act(shift, 0, wait=0.03)
                shift = ""
            self.act(name, 1)
            up[name] = self.now + self.random.uniform(0.06, 0.16)
            self.acts.append(Act(up[name], name, 0))
        self.now = max(up.values()) + 0.05
        if shift:
            self.act(shift, 0)
        self.now += 0.3

    def hold(self, name: str, seconds: float) -> None:
        """Keep a key down for so long that it repeats."""
        self.act(name, 1, wait=0.25)
        if self.typematic:
            for _ in range(round((seconds - 0.25) / 0.04)):
                self.act(name, 1, wait=0.04)
        else:
            self.now += seconds - 0.25
        self.act(name, 0, wait=0.3)

    def chord(self, *names: str) -> None:
        for name in names:
            self.act(name, 1, wait=0.08)
        for name in reversed(names):
            self.act(name, 0, wait=0.05)

    def press(self, name: str) -> None:
        self.act(name, 1, wait=self.random.uniform(0.06, 0.11))
        self.act(name, 0, wait=self.random.uniform(0.08, 0.15))

    def point(self, x: int, y: int, seconds: float) -> None:
        """Move the mouse: slow, fast and slow again, in a slight bow, 100 times a second."""
        steps = round(seconds * 100)
        before = (0, 0)
        for step in range(1, steps + 1):
            part = (1 - math.cos(math.pi * step / steps)) / 2
            bow = math.sin(math.pi * part) / 10
            here = (round(x * part + y * bow), round(y * part - x * bow))
            for name, new, old in zip(AXES, here, before, strict=True):
                if new != old:
                    self.act(name, new - old)
            self.now += self.random.uniform(0.008, 0.012)
            before = here
        self.now += 0.15


def typing(text: list[str], person: Person) -> None:
    """A text, a word taken back by holding a key, a word in capitals, and a shortcut."""
    person.write(text[0])
    person.hold("KEY_BACKSPACE", 0.7)
    person.press("KEY_CAPSLOCK")
    person.write("evdev")
    person.press("KEY_CAPSLOCK")
    person.chord("KEY_LEFTCTRL", "KEY_LEFTSHIFT", "KEY_LEFT")
    person.press("KEY_END")
    person.write(text[1])
    person.hold("KEY_LEFT", 0.5)
    person.chord("KEY_LEFTCTRL", "KEY_S")


def pointing(person: Person) -> None:
    """Clicks, a double click, a drag, scrolling, and two buttons at once."""
    person.point(400, 150, 0.5)
    person.press("BTN_LEFT")
    person.point(-120, 260, 0.3)
    person.press("BTN_LEFT")
    person.press("BTN_LEFT")
    person.act("BTN_LEFT", 1, wait=0.1)
    person.point(300, -40, 0.4)
    person.act("BTN_LEFT", 0, wait=0.1)
    for notches in (-1, -1, -1, -1, 1, 1):
        person.act("REL_WHEEL", notches, wait=0.06)
    person.act("BTN_RIGHT", 1, wait=0.03)
    person.point(-900, -500, 0.3)
    person.act("BTN_LEFT", 1, wait=0.02)
    person.act("BTN_RIGHT", 0, wait=0.02)
    person.act("REL_WHEEL", 1, wait=0.05)
    person.act("BTN_LEFT", 0, wait=0.1)
    for button in ("BTN_MIDDLE", "BTN_SIDE", "BTN_EXTRA"):
        person.press(button)


def inject(acts: list[Act], send: Callable[[list[dict[str, Any]]], None]) -> Done:
    """Do them at their times; what was done, where a key that repeats is no edge."""
    done: Done = []
    down: dict[str, int] = {}
    start = time.monotonic()
    for at, moment in itertools.groupby(sorted(acts, key=lambda act: act.at), key=lambda act: act.at):
        inputs = []
        for act in moment:  # one, or a step along both axes
            inputs += act.inputs()
            if act.name.startswith("REL_") or down.get(act.name, 0) != act.value:
                done.append((act.name, act.value))
            down[act.name] = act.value
        time.sleep(max(start + at - time.monotonic(), 0))
        send(inputs)
    return done


def initramfs(kernel: Path, version: str, folder: Path) -> Path:
    """Busybox, the drivers with what they depend on, and INIT."""
    root = folder / "root"
    for name in ("bin", "proc", "dev", "modules.d"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin")
    (root / "init").write_text(INIT)
    (root / "init").chmod(0o755)
    subprocess.check_call(["depmod", "-b", kernel, version])
    modprobe = ["modprobe", "-d", str(kernel), "-S", version, "--ignore-install", "--show-depends", "-a", *DRIVERS]
    lines = subprocess.check_output(modprobe, text=True).splitlines()
    modules = list(dict.fromkeys(line.split()[1] for line in lines if line.startswith("insmod ")))
    for module in modules:
        shutil.copy(module, root / "modules.d")
    (root / "modules").write_text("".join(f"/modules.d/{Path(module).name}\n" for module in modules))
    names = "\n".join(str(path.relative_to(root)) for path in [root, *sorted(root.rglob("*"))])
    archive = subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, input=names.encode(),
                             stdout=subprocess.PIPE, check=True)  # fmt: skip
    (folder / "initramfs").write_bytes(archive.stdout)
    return folder / "initramfs"


class Qmp:
    """The machine's monitor."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("rw")
        self._file.readline()  # the greeting
        self.call("qmp_capabilities")

    def call(self, command: str, **arguments: object) -> None:
        print(json.dumps({"execute": command, "arguments": arguments}), file=self._file, flush=True)
        while "return" not in (answer := json.loads(self._file.readline())):
            if "error" in answer:
                raise RuntimeError(f"{command}: {answer['error']['desc']}")


def read_to(last: bytes, file: IO[bytes]) -> bytes:
    """The lines before *last*."""
    lines: list[bytes] = []
    for line in file:
        if line.endswith(last):
            return b"".join(lines)
        lines.append(line)
    raise RuntimeError(f"the machine ended before it said {last!r}")


def record(vmlinuz: Path, archive: Path, name: str, folder: Path) -> tuple[dict[str, bytes], dict[str, Done]]:
    """Files that the machine made, and by kind what was injected."""
    command = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-m", "512", "-accel", "tcg", "-cpu", "max",
               *MACHINES[name], "-kernel", str(vmlinuz), "-initrd", str(archive), "-append", "quiet",
               "-serial", "stdio", "-qmp", f"unix:{folder / name},server=on,wait=off"]  # fmt: skip
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as machine:
        assert machine.stdin is not None and machine.stdout is not None
        try:
            read_to(b"ready\n", machine.stdout)
            qmp = Qmp(folder / name)
            typist, pointer = Person(1, name == "ps2"), Person(2, False)
            typing(TEXTS[name], typist)
            pointing(pointer)
            done = {
                kind: inject(person.acts, lambda inputs: qmp.call("input-send-event", events=inputs))
                for kind, person in (("keyboard", typist), ("mouse", pointer))
            }
            time.sleep(1)  # until the machine has seen the last of them
            machine.stdin.write(b"\n")
            machine.stdin.flush()
            text = read_to(b"done\n", machine.stdout)
        finally:
            machine.kill()
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(text))) as tar:
        files = {member.name.removeprefix("./"): tar.extractfile(member) for member in tar if member.isfile()}
        return {name: file.read() for name, file in files.items() if file is not None}, done


def main(kernel: Path, into: Path) -> None:
    (vmlinuz,) = (kernel / "boot").glob("vmlinuz-*")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        archive = initramfs(kernel, vmlinuz.name.removeprefix("vmlinuz-"), folder)
        for machine in MACHINES:
            files, done = record(vmlinuz, archive, machine, folder)
            devices = files["devices"].decode()
            print(files["kernel"].decode(), devices, sep="\n")
            found = re.findall(r'Name=".*(keyboard|mouse)(?:.*\n)+?H: Handlers=.*\b(event\d+)', devices, re.IGNORECASE)
            for kind, node in found:
                name = f"{machine}-{kind.lower()}"
                (into / f"{name}.evdev").write_bytes(files[node])
                lines = ",\n".join(json.dumps(each) for each in done[kind.lower()])
                (into / f"{name}.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
