"""Keys that belong together: the model looks at them, whoever reads them, before there is a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import hostd
from hcall.programs.command import explain
from hcall.programs.plugins import PluginError
from hostd.commands.check import check_model
from hostd.commands.cli import app
from hostd.device import Config, Device
from hostd.machine.file import DeviceSpec, Machine, MachineError, read_device

MODEL = """
import sys
from hostd.device import Config, Device


class Oven(Device):
    compatible = "example,oven"
    least, most = Config(int, 50), Config(int, 250)
    zones = Config(list[str], ["top"])
    fault = Config(str, "")

    def __init__(self, **keys):
        print("an oven is made")
        super().__init__(**keys)

    def check_keys(self):
        if self.most <= self.least:
            raise ValueError(f"most = {self.most} is not above least = {self.least}")
        self.zones.append("a mess")
        if self.fault == "none":
            raise ValueError
        if self.fault == "exit":
            sys.exit(3)
        if self.fault == "clock":
            self.clock.time()

    def start(self):
        assert self.zones == ["top"]
        print("an oven starts")
"""
WRONG = [
    ({"least": 300}, "devices.oven: most = 250 is not above least = 300"),
    ({"fault": "none"}, "devices.oven: the model does not take these keys"),
    ({"fault": "exit"}, "devices.oven: the model failed in check_keys(): SystemExit: 3"),
    ({"fault": "clock"}, "devices.oven: the model failed in check_keys(): AttributeError: "),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "oven.py").write_text(MODEL)
    return tmp_path


def table(keys: dict[str, Any]) -> dict[str, Any]:
    return {"model": "oven.py", **keys}


@pytest.mark.parametrize(("keys", "says"), WRONG)
def test_what_is_wrong_is_told_with_its_place_and_without_a_device(
    folder: Path, capfd: pytest.CaptureFixture[str], keys: dict[str, Any], says: str
) -> None:
    file = folder / "machine.toml"
    file.write_text('[devices.oven]\nmodel = "oven.py"\n' + "".join(f"{key} = {keys[key]!r}\n" for key in keys))
    for read in (
        lambda: Machine.load(file),
        lambda: app(["check", str(file)], exit_on_error=False),
        lambda: read_device("oven", table(keys), folder, {}),
        lambda: read_device("oven", table({}), folder, {key: str(value) for key, value in keys.items()}),
    ):
        with pytest.raises(MachineError) as error:
            read()  # type: ignore[no-untyped-call]  # each of its own type
        (line,) = str(error.value).splitlines()
        assert says in line and explain(error.value)[1] == 78
    assert "oven" not in capfd.readouterr().out


async def test_so_is_a_device_that_is_plugged_without_a_file(tmp_path: Path, machine_file: Path) -> None:
    class Pair(Device):
        compatible = "test,pair"
        one, other = Config(int, 1), Config(int, 2)
        started = False

        def check_keys(self) -> None:
            if self.one == self.other:
                raise ValueError("they are the same")

        def start(self) -> None:
            type(self).started = True

    async with hostd.serve(machine_file, tmp_path / "run") as host:
        with pytest.raises(MachineError, match=r"devices\.pair: they are the same"):
            host.plug(DeviceSpec("pair", "pair", Pair, {"other": 1}))
        assert not Pair.started
        host.plug(DeviceSpec("pair", "pair", Pair, {}))
        assert Pair.started


def test_defaults_that_do_not_go_together_are_a_mistake_of_the_model(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_model(str(folder / "oven.py"), as_json=False)
    assert "Oven  example,oven" in capsys.readouterr().out
    (folder / "cold.py").write_text(MODEL.replace("Config(int, 50)", "Config(int, 500)"))
    with pytest.raises(PluginError, match=r"cold\.py: with all its defaults: most = 250 is not above least = 500"):
        check_model(str(folder / "cold.py"), as_json=False)
    (folder / "dear.py").write_text(MODEL.replace("Config(int, 50)", "Config(int)"))  # nobody knows yet
    check_model(str(folder / "dear.py"), as_json=False)


def test_good_keys_are_what_the_file_says(folder: Path) -> None:
    spec = read_device("oven", table({"most": 60}), folder, {})
    assert spec.config == {"least": 50, "most": 60, "zones": ["top"], "fault": ""}
