"""The flattened device tree: bytes after the specification, and what dtc, which is not ours, makes of them."""

from __future__ import annotations

import random
import shutil
import string
import subprocess
import sys
from pathlib import Path

import pytest

from hcall.errors import BadArgument
from hcall.formats.buses import fdt
from hcall.formats.buses.fdt import Node, Value

# By hand, after the specification: a root with one node, which has one property.
BYTES = bytes.fromhex(
    "d00dfeed 0000006a 00000038 00000064 00000028 00000011 00000010 00000000 00000006 0000002c"  # the header
    "00000000 00000000 00000000 00000000"  # no memory is reserved
    "00000001 00000000  00000001 726e6700  00000003 00000004 00000000 00001044  00000002 00000002 00000009"
    "73706565 6400"  # speed
)


def dtc(source: str, target: str, data: bytes) -> bytes:
    if shutil.which("dtc") is None:
        pytest.skip("no dtc")
    command = ["dtc", "-q", "-I", source, "-O", target]
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def names(chance: random.Random, count: int) -> list[str]:
    letters = string.ascii_letters + string.digits
    return list({chance.choice(letters) + "".join(chance.choices(letters + ",._+-", k=n % 30)) for n in range(count)})


def value(chance: random.Random) -> Value:
    texts = ["", "hostd,rng", 'a "quoted\\ one"', "two\nlines\x7f\t", "ünicode ☃", "\x00", "a\x00b", "\x019"]
    numbers = [0, 1, 0xFFFFFFFF, 1 << 32, (1 << 64) - 1, -1]
    match chance.randrange(6):
        case 0:
            return None
        case 1:
            return chance.choice(numbers)
        case 2:
            return chance.choice(texts)
        case 3:
            return chance.randbytes(chance.randrange(9))
        case 4:
            return tuple(chance.choices(numbers[:-1], k=chance.randrange(4)))
        case _:
            return tuple(chance.choices(texts, k=chance.randrange(4)))


def tree(chance: random.Random, name: str = "", depth: int = 3) -> Node:
    properties = {f"p{each}": value(chance) for each in names(chance, 6)}  # none that dtc knows and looks into
    below = names(chance, chance.randrange(5)) if depth else []
    return Node(name, properties, [tree(chance, f"n{each}"[:31], depth - 1) for each in below])


def as_bytes(node: Node) -> Node:
    return Node(
        node.name,
        {name: fdt.value_bytes(each) for name, each in node.properties.items()},
        [*map(as_bytes, node.children)],
    )


def test_the_bytes_are_those_of_the_specification() -> None:
    root = Node("", {}, [Node("rng", {"speed": 0x1044})])
    assert fdt.pack(root) == BYTES and fdt.parse(BYTES) == as_bytes(root)
    assert fdt.text(root) == "/dts-v1/;\n\n/ {\n\trng {\n\t\tspeed = <0x1044>;\n\t};\n};\n"


@pytest.mark.parametrize("seed", range(40))
def test_dtc_reads_both_forms_of_any_tree_as_the_same(seed: int) -> None:
    root = tree(random.Random(seed))
    packed = fdt.pack(root)
    assert fdt.parse(packed) == as_bytes(root)
    assert fdt.parse(dtc("dtb", "dtb", packed)) == as_bytes(root)
    assert fdt.parse(dtc("dts", "dtb", fdt.text(root).encode())) == as_bytes(root)
    assert fdt.parse(dtc("dts", "dtb", dtc("dtb", "dts", packed))) == as_bytes(root)


@pytest.mark.parametrize(
    ("root", "what"),
    [
        (Node("", {}, [Node("a b")]), "no name in a device tree"),
        (Node("", {}, [Node("")]), "no name in a device tree"),
        (Node("", {"a;b": 1}), "no name in a device tree"),
        (Node("", {"a": 1 << 64}), "64 bits at most"),
        (Node("", {"a": (1, "b")}), "not both"),  # type: ignore[dict-item]  # that is what it is about
    ],
)
def test_what_no_device_tree_can_have_is_refused(root: Node, what: str) -> None:
    for form in (fdt.pack, fdt.text):
        with pytest.raises(BadArgument, match=what):
            form(root)


def test_whatever_is_no_device_tree_is_refused() -> None:
    good = fdt.pack(tree(random.Random(5)))
    for end in range(len(good)):
        with pytest.raises(BadArgument, match="no flattened device tree"):
            fdt.parse(good[:end])
    chance = random.Random(1)
    for _ in range(3000):
        bad = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            bad[chance.randrange(len(bad))] = chance.choice((0, 1, 2, 3, 4, 9, 255))
        try:
            fdt.parse(bytes(bad))
        except BadArgument:
            continue
    deep = fdt.Node("leaf")
    for _ in range(100):
        deep = Node("n", {}, [deep])
    with pytest.raises(BadArgument, match="no flattened device tree"):
        fdt.parse(fdt.pack(Node("", {}, [deep])))


MACHINE = """
[machine]
name = 'a "machine"'
[devices.rng]
model = "rng"
[devices."bus/disk"]
model = "block"
path = "disk.img"
create = "1M"
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    path = tmp_path / "machine.toml"
    path.write_text(MACHINE)
    return path


def shown(machine: Path, form: str) -> bytes:
    hostd = [sys.executable, "-m", "hostd"]
    command = [*hostd, "run", str(machine), "--", *hostd, "tree", "--format", form]
    return subprocess.run(command, check=True, capture_output=True).stdout


def test_the_machine_is_shown_in_each_form(machine: Path) -> None:
    packed = fdt.parse(shown(machine, "dtb"))
    assert packed.properties["model"] == b'a "machine"\0' and packed.name == ""
    rng, bus = packed.children
    (disk,) = bus.children
    assert (rng.name, bus.name, disk.name) == ("rng", "bus", "disk")
    assert rng.properties["compatible"] == b"hostd,rng\0" and "seeded" not in rng.properties
    assert rng.properties["vendor-id"] == bytes.fromhex("00001af4")
    assert disk.properties["capacity"] == (1 << 20).to_bytes(4, "big") and len(disk.properties["hcall,node"]) == 8  # type: ignore[arg-type]
    text = shown(machine, "dts")
    assert b'compatible = "hostd,rng";' in text and text.startswith(b"/dts-v1/;")
    compiled = fdt.parse(dtc("dts", "dtb", text))
    assert [each.name for each in compiled.children] == ["rng", "bus"]
    assert b"disk" in dtc("dtb", "dts", shown(machine, "dtb"))
    assert b'"children"' in shown(machine, "json") and "rng" in shown(machine, "tree").decode()


def test_a_form_that_there_is_none_of_is_told(machine: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        shown(machine, "yaml")
    assert (
        failed.value.returncode == 2
        and b"no format 'yaml': there is tree, json, dts, dtb, lspci" in failed.value.stderr
    )
