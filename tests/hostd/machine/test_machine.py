"""The machine file: every mistake is one line that names the file, the place and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

import guestd
import hostd
from hcall.programs.command import explain
from hostd import Machine, MachineError
from hostd.machine.file import read_device

DISK = '[devices.disk]\nmodel = "block"\npath = "a"\n'
CONSOLE = '[devices.con]\nmodel = "console"\n'

MISTAKES = [
    # file, place, what the line must say
    ("[devics]", "devics", ["unknown key", "did you mean 'devices'", "machine, limits, devices"]),
    ("[zzz]", "zzz", ["unknown key; allowed: machine, limits, devices"]),
    ("machine = 3", "machine", ["must be a table, not a whole number"]),
    ("devices = []", "devices", ["must be a table, not an array"]),
    ("limits = false", "limits", ["must be a table, not true or false"]),
    ("[machine]\nnam = 'a'", "machine.nam", ["did you mean 'name'", "allowed: name"]),
    ("[machine]\nname = 3", "machine.name", ["must be a string, not a whole number"]),
    ("[limits]\nguest = 1", "limits.guest", ["did you mean 'guests'", "slots, handles, regions, memory, sparse"]),
    ("[limits]\nguests = 0", "limits.guests", ["must be 1 to 1048576, not 0: no process has descriptors for more"]),
    ("[limits]\nmemory = -1", "limits.memory", ["must be 67108864 to", "not -1: so much guestd lends at once"]),
    ("[limits]\nmemory = 1048576", "limits.memory", ["must be 67108864 to", "so much guestd lends at once"]),
    (f"[limits]\nmemory = {1 << 70}", "limits.memory", [f"to {1 << 52}, not {1 << 70}"]),
    ("[limits]\nslots = 0", "limits.slots", ["must be 1 to 4096, not 0"]),
    ("[limits]\nslots = 4097", "limits.slots", ["must be 1 to 4096, not 4097: a guest takes no other number of slots"]),
    ("[limits]\nregions = 0", "limits.regions", ["must be 1 to 64, not 0"]),
    ("[limits]\nregions = 65", "limits.regions", ["must be 1 to 64, not 65: HELLO has room for no more"]),
    ("[limits]\nhandles = 0", "limits.handles", ["must be 1 to 65536, not 0"]),
    ("[limits]\nqueued = 262143", "limits.queued", ["must be 262144 to", "before the host stops to read"]),
    ("[limits]\nslots = 1.5", "limits.slots", ["must be a whole number, not a number with a point"]),
    ("[limits]\nslots = true", "limits.slots", ["must be a whole number, not true or false"]),
    ("[host]\nspin = 100", "host.spin", ["must be true or false, not a whole number"]),
    ("[host]\nspn = true", "host.spn", ["did you mean 'spin'", "allowed: spin"]),
    ("[devices]\ndisk = 3", "devices.disk", ["must be a table"]),
    ("[devices.disk]\npath = 'a'", "devices.disk", ["model", "block, console, "]),
    ("[devices.disk]\nmodel = 3", "devices.disk", ["model", "block, console, "]),
    ("[devices.disk]\nmodel = 'blok'", "devices.disk.model", ["'blok'", "did you mean 'block'", "block, console, "]),
    ("[devices.disk]\nmodel = ''", "devices.disk.model", ["there are: block, console, "]),
    ("[devices.disk]\nmodel = '../rng'", "devices.disk.model", ["there are: block, console, "]),
    ("[devices.disk]\nmodel = 'block'", "devices.disk", ["needs path = ...", "the image, or a block device"]),
    (DISK + "readonly = true", "devices.disk.readonly", ["did you mean 'read_only'", "isolate, path, read_only"]),
    (DISK + "read_only = 'yes'", "devices.disk.read_only", ["must be true or false, not a string"]),
    (DISK + "create = 4096", "devices.disk.create", ["must be a string, not a whole number"]),
    (DISK + "create = '1.5G'", "devices.disk.create", ["'1.5G' is no size", "a multiple of 512, such as 4096"]),
    (DISK + "create = '-1'", "devices.disk.create", ["'-1' is no size"]),
    (DISK + "create = '1M '", "devices.disk.create", ["'1M ' is no size"]),
    ("[devices.card]\nmodel = 'net'\nmtu = 67", "devices.card.mtu", ["must be 68 to 65535, not 67"]),
    ("[devices.card]\nmodel = 'net'\nmtu = 65536", "devices.card.mtu", ["must be 68 to 65535, not 65536"]),
    ("[devices.lp]\nmodel = 'printer'\nspool = 'spool:x'\nmax_job = 0", "devices.lp.max_job", ["must be 1 to"]),
    (DISK + "create = 1979-05-27", "devices.disk.create", ["must be a string"]),
    (CONSOLE + "backing = 'tcp:'", "devices.con.backing", ["'tcp:'", "unix:PATH"]),
    ("[devices.'my disk']\nmodel = 'rng'", "devices.my disk", ["'my disk' is no device name", "1 to 31 letters"]),
    ("[devices.'']\nmodel = 'rng'", "devices.", ["'' is no device name"]),
    ("[devices.'-x']\nmodel = 'rng'", "devices.-x", ["'-x' is no device name"]),
    (f"[devices.{'x' * 32}]\nmodel = 'rng'", f"devices.{'x' * 32}", ["is no device name"]),
    ("[devices.'bus//rng']\nmodel = 'rng'", 'devices."bus//rng"', ["'' is no device name"]),
    ("[devices.'bus/../rng']\nmodel = 'rng'", 'devices."bus/../rng"', ["'..' is no device name"]),
    ("[devices.'rng\\n']\nmodel = 'rng'", "devices.rng\\n", ["is no device name"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "place", "says"), MISTAKES, ids=[text[:40] for text, _, _ in MISTAKES])
def test_a_mistake_is_one_line_with_file_place_and_what_is_allowed(
    tmp_path: Path, text: str, place: str, says: list[str]
) -> None:
    file = tmp_path / "machine.toml"
    file.write_text(text)
    with pytest.raises(MachineError) as error:
        Machine.load(file)
    (line,) = str(error.value).splitlines()
    assert error.value.lines == [line]
    assert line.startswith(f"{file}: {place}: ")
    assert all(part in line for part in says), line


def test_several_mistakes_are_several_lines(tmp_path: Path) -> None:
    file = tmp_path / "machine.toml"
    file.write_text("""
[limits]
guests = 0
slots = "many"
[devices.disk]
model = "block"
read_only = 1
color = "red"
[devices.tape]
model = "tape"
""")
    with pytest.raises(MachineError) as error:
        Machine.load(file)
    places = ["limits.guests", "limits.slots", "devices.disk", "devices.disk.color", "devices.disk.read_only",
              "devices.tape.model"]  # fmt: skip
    assert sorted(line.split(": ")[1] for line in str(error.value).splitlines()) == sorted(places)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[devices.disk]\nmodel = 'rng'\n[devices.disk]\nmodel = 'rng'\n", "line 3"),
        (b"[machine\n", "line 1"),
        (b"[machine]\nname = 'a'\nname = 'b'\n", "line 3"),
        (b"[machine]\nname = '\xff'\n", "utf-8"),
        (b"a = " + b"[" * 9999, "nested too deeply"),
        (b"a = " + b"{a = " * 9999, "nested too deeply"),
    ],
)
def test_what_is_no_toml_is_one_line_with_its_position(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "machine.toml"
    file.write_bytes(content)
    with pytest.raises(MachineError) as error:
        Machine.load(file)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{file}: ") and says in line and explain(error.value)[1] == 78


def test_a_word_that_is_no_toml_is_taken_as_it_is(tmp_path: Path) -> None:
    for word in "a = b", "[" * 9999:
        assert read_device("rng", {"model": "rng"}, tmp_path, {"seed": word}).config["seed"] == word


def test_a_word_is_what_its_key_takes(tmp_path: Path) -> None:
    (tmp_path / "gauge.py").write_text(
        "from hostd.device import Config, Device\nclass Gauge(Device):\n    compatible = 'a,b'\n"
        "    step = Config(float, 1)\n"
        "    names = Config(list[str], [])\n    text = Config(str, '')\n"
    )
    words = {"step": "3", "names": '["a", "b"]', "text": "[1]"}
    spec = read_device("gauge", {"model": "gauge.py"}, tmp_path, words)
    assert spec.config == {"step": 3.0, "names": ["a", "b"], "text": "[1]"}
    with pytest.raises(MachineError, match=r"devices\.gauge\.names: must be an array, not a string"):
        read_device("gauge", {"model": "gauge.py"}, tmp_path, {"names": "a"})


@pytest.mark.parametrize(("name", "says"), [("missing.toml", "No such file"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(MachineError) as error:
        Machine.load(tmp_path / name)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{tmp_path / name}: ") and says in line


@pytest.mark.parametrize("text", ["[devices.'é']\nmodel = 'rng'", "[machine]\nname = 'é'"])
def test_the_file_is_utf_8_whatever_the_locale(tmp_path: Path, text: str) -> None:
    file = tmp_path / "machine.toml"
    file.write_bytes(text.encode())
    try:
        assert Machine.load(file).name == "é"
    except MachineError as error:
        assert "'é' is no device name" in str(error)


def test_an_empty_file_is_a_machine_with_the_limits_of_the_protocol(tmp_path: Path) -> None:
    file = tmp_path / "machine.toml"
    file.touch()
    machine = Machine.load(file)
    assert machine.name == "machine" and machine.devices == () and machine.file == file
    limits = machine.limits  # docs/protocol.md, 14; architecture: 1 MiB queued
    assert (limits.slots, limits.handles, limits.regions, limits.memory, limits.guests) == (64, 1024, 16, 4 << 30, 2048)
    assert limits.queued == 1 << 20 and not machine.spin


def test_a_good_file_gives_defaults_and_paths_relative_to_itself(tmp_path: Path) -> None:
    file = tmp_path / "machine.toml"
    tables = '[machine]\nname = "lab"\n[limits]\nguests = 3\n[host]\nspin = true\n'
    file.write_text(tables + DISK + 'create = "64K"\n' + CONSOLE)
    machine = Machine.load(file)
    disk, console = machine.devices
    assert machine.name == "lab" and machine.limits.guests == 3 and machine.limits.slots == 64 and machine.spin
    assert disk.path == "disk" and disk.config == {"path": tmp_path / "a", "read_only": False, "create": 65536}
    assert console.path == "con" and list(console.config) == ["backing"]


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("1024", 1024), ("4K", 4096), ("2M", 2 << 20), ("3G", 3 << 30),
                                            ("1T", 1 << 40)])  # fmt: skip
def test_a_size_is_a_number_with_a_binary_unit(tmp_path: Path, text: str, size: int) -> None:
    tables = {"devices": {"disk": {"model": "block", "path": "a", "create": text}}}
    assert Machine.from_tables(tables, tmp_path).devices[0].config["create"] == size


def test_tables_are_checked_like_a_file(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"^machine: devices\.disk\.model: no model 'blok'"):
        Machine.from_tables({"devices": {"disk": {"model": "blok"}}}, tmp_path)


@pytest.mark.parametrize("order", [("bus/rng", "bus"), ("bus", "bus/rng")])
async def test_a_nested_device_stands_below_its_bus_in_any_order(tmp_path: Path, order: tuple[str, ...]) -> None:
    machine = Machine.from_tables({"devices": {path: {"model": "rng"} for path in order}}, tmp_path)
    async with hostd.serve(machine, tmp_path / "run") as host:
        assert [node.path for node in host.tree.root.walk()] == ["/", "/bus", "/bus/rng"]
        assert all(host.tree.find(path).device is not None for path in order)


async def test_a_device_that_does_not_start_is_a_line_that_names_file_and_device(tmp_path: Path) -> None:
    file = tmp_path / "machine.toml"
    file.write_text("[devices.rng]\nmodel = 'rng'\n" + DISK)
    with pytest.raises(MachineError) as error:
        async with hostd.serve(file, tmp_path / "run"):
            pytest.fail("it was served")
    what = f'{tmp_path / "a"}: No such file or directory; create = "64M" would make it'
    assert str(error.value) == f"{file}: devices.disk: {what}"
    assert not list((tmp_path / "run").glob("*.sock"))


@pytest.mark.parametrize("name", ["x" * 256, "x" * 257, "é" * 200])
async def test_a_machine_that_was_accepted_can_be_probed(tmp_path: Path, name: str) -> None:
    try:
        machine = Machine.from_tables({"machine": {"name": name}}, tmp_path)
    except MachineError as error:  # a string of the wire has 256 bytes: it may be refused here, not later
        assert "machine.name" in str(error) and len(name.encode()) > 256
        return
    async with hostd.serve(machine, tmp_path / "run") as host, guestd.attach(host.socket) as guest:
        assert [found.name for found in await guest.walk()] == [name]
