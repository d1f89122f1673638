"""A disk by NBD, used by programs that nobody here wrote: nbdcopy, nbdinfo, qemu-img, fio, e2fsck, debugfs."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from export_peers import Machine, need, served

import guestd

SIZE = 16 << 20
DISK = f"""
[devices.disk]
model = "block"
path = "disk.img"
create = "{SIZE >> 20}M"
[devices.fixed]
model = "block"
path = "fixed.img"
read_only = true
"""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    (tmp_path / "fixed.img").write_bytes(os.urandom(SIZE))
    with served(tmp_path, DISK) as machine:
        yield machine


@pytest.fixture
def uri(machine: Machine) -> Iterator[str]:
    """The disk, exported; the export leaves no socket."""
    path = machine.folder / "disk.sock"
    with machine.export("disk", f"nbd:unix:{path}"):
        assert path.stat().st_mode & 0o777 == 0o600
        yield f"nbd+unix:///?socket={path}"
    assert not path.exists()


def image(folder: Path, size: int = SIZE) -> Path:
    path = folder / "image"
    path.write_bytes(os.urandom(size))
    return path


@pytest.mark.parametrize("options", [(), ("--connections=1", "--requests=1"), ("--request-size=33554432",)])
def test_nbdcopy_both_ways(machine: Machine, uri: str, options: tuple[str, ...]) -> None:
    need("nbdcopy")
    source, back = image(machine.folder), machine.folder / "back"
    machine.run("nbdcopy", "--flush", *options, source, uri)
    assert (machine.folder / "disk.img").read_bytes() == source.read_bytes()
    machine.run("nbdcopy", *options, uri, back)
    assert back.read_bytes() == source.read_bytes()


def test_what_nbdinfo_says_of_it(machine: Machine, uri: str) -> None:
    need("nbdinfo")
    (about,) = json.loads(machine.run("nbdinfo", "--json", uri).stdout)["exports"]
    assert about["export-size"] == SIZE and about["block_size_maximum"] == 32 << 20
    can = {"can_flush", "can_fua", "can_multi_conn", "can_trim", "can_zero"}
    assert {key for key in about if key.startswith("can_") and about[key]} == can and not about["is_read_only"]
    (listed,) = json.loads(machine.run("nbdinfo", "--json", "--list", uri).stdout)["exports"]
    assert listed["export-name"] == "disk" and listed["export-size"] == SIZE
    assert machine.run("nbdinfo", uri.replace("///", "///other"), check=False).returncode != 0


def test_a_disk_that_cannot_be_written_says_so(machine: Machine) -> None:
    need("nbdinfo", "nbdcopy")
    path = machine.folder / "fixed.sock"
    with machine.export("fixed", f"nbd:unix:{path}"):
        uri = f"nbd+unix:///?socket={path}"
        (about,) = json.loads(machine.run("nbdinfo", "--json", uri).stdout)["exports"]
        assert about["is_read_only"] and not about["can_trim"] and not about["can_zero"]
        machine.run("nbdcopy", uri, machine.folder / "back")
        assert (machine.folder / "back").read_bytes() == (machine.folder / "fixed.img").read_bytes()


def test_qemu_img_converts_to_it_and_finds_it_identical(machine: Machine, uri: str) -> None:
    need("qemu-img")
    source = image(machine.folder, SIZE // 2)  # the rest is zeroes
    with source.open("ab") as file:
        file.truncate(SIZE)
    target = uri.replace("nbd+unix:///?socket=", "nbd:unix:")
    machine.run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, target)
    compared = machine.run("qemu-img", "compare", "-f", "raw", "-F", "raw", source, target)
    assert "identical" in compared.stdout
    assert (machine.folder / "disk.img").read_bytes() == source.read_bytes()


def test_fio_verifies_what_it_wrote(machine: Machine, uri: str) -> None:
    need("fio")
    if subprocess.run(["fio", "--enghelp=nbd"], capture_output=True, check=False).returncode:
        pytest.skip("this fio has no engine for nbd")
    machine.run(
        "fio", "--name=x", "--ioengine=nbd", f"--uri={uri}", "--rw=randrw", "--bsrange=512-128k", "--iodepth=32",
        f"--size={SIZE}", "--verify=crc32c", "--verify_fatal=1", "--trim_percentage=5",
    )  # fmt: skip


def test_a_filesystem_that_came_by_nbdcopy_is_clean(machine: Machine, uri: str) -> None:
    need("nbdcopy", "mke2fs", "e2fsck")
    source = machine.folder / "image"
    machine.run("mke2fs", "-q", "-t", "ext4", "-d", files(machine.folder), source, f"{SIZE >> 10}k")
    machine.run("nbdcopy", "--flush", source, uri)
    checked = machine.run("e2fsck", "-fn", machine.folder / "disk.img")
    assert "clean" in checked.stdout or "files" in checked.stdout


def files(folder: Path) -> Path:
    """A folder of files of many sizes."""
    made = folder / "files"
    made.mkdir()
    for n, size in enumerate([0, 1, 1000, 4096, 100_000, 1_500_000]):
        (made / f"file{n}").write_bytes(os.urandom(size))
    return made


def test_a_filesystem_is_read_back_file_by_file_through_the_driver(machine: Machine) -> None:
    """Written by a program through NBD, read by a guest's driver, taken apart by debugfs: all checksums equal."""
    need("nbdcopy", "mke2fs", "debugfs")
    source, copy, back = machine.folder / "image", machine.folder / "copy", machine.folder / "back"
    made, path = files(machine.folder), machine.folder / "disk.sock"
    machine.run("mke2fs", "-q", "-t", "ext4", "-d", made, source, f"{SIZE >> 10}k")
    with machine.export("disk", f"nbd:unix:{path}"):
        machine.run("nbdcopy", "--flush", source, f"nbd+unix:///?socket={path}")
    back.mkdir()
    with guestd.attach_blocking(machine.folder / "run") as guest:
        copy.write_bytes(guest["disk"].load(SIZE))
    machine.run("debugfs", "-R", f"rdump / {back}", copy)
    assert sums(back) == sums(made) and len(sums(made)) == 6


def sums(folder: Path) -> set[tuple[str, str]]:
    return {(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in folder.iterdir() if path.is_file()}
