"""The machine file: TOML, checked against what each table may hold, every mistake in one line that names its place.

[machine]
name = "demo"

[limits]                    # see hostd.calls.limits
guests = 16

[policy.alice]              # see hostd.machine.rules
users = ["alice"]

[control.look]              # and here
users = ["alice"]

[devices.disk]              # a node of the tree; "bus/disk" stands below another
model = "block"             # see hostd.machine.models
path = "disk.img"           # and what the model declares with Config
isolate = true              # in a process of its own, see hostd.isolated

[host]
spin = true                 # look again before sleeping, see hcall.spin
msg = true                  # a bus of virtio-msg beside the guests' socket, see hostd.lanes.msg
"""

from __future__ import annotations

import contextlib
import copy
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec

from hcall.programs.mistakes import BadConfiguration, InUse
from hcall.programs.plugins import PluginError, is_interrupted
from hcall.text import MAX_TEXT, cut, named, sentence, suggest

from ..calls.limits import FILE_BOUNDS, Limits
from ..device import Config, Device
from ..guests.policy import Policy
from ..isolated.process import Recipe
from ..isolated.proxy import isolated
from ..model.keys import COMMON, TOML_NAMES
from ..tree.tree import path_mistakes
from . import models
from .roles import Roles
from .rules import read_policy, read_roles, remarks

_ISOLATE: Final = Config(bool, False)
_SECTIONS: Final = ("machine", "limits", "devices", "policy", "control", "host")


class MachineError(BadConfiguration):
    """What is wrong with a machine file: one line for each mistake."""


class DeviceInUse(MachineError, InUse):
    """What a device needs, such as its image, is somebody else's for now."""


@dataclass(frozen=True)
class DeviceSpec:
    """One device as its table describes it."""

    path: str  # in the tree
    model: str
    device: type[Device]
    config: dict[str, Any] = field(compare=False)  # the table, converted: what no two have alike may be in it
    table: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path()  # of the files in it
    isolate: bool = False  # whether the model has a process of its own

    def check(self) -> None:
        """Have the model look at its keys, without a device: nothing is touched.  Raises ValueError with a sentence."""
        optional = {name: key for name, key in self.device.declares.keys.items() if not key.required}
        defaults = {name: key.convert(key.default, Path()) for name, key in optional.items() if name not in self.config}
        try:
            device = self.device.__new__(self.device)
            vars(device).update(defaults | copy.deepcopy(self.config))
            device.check_keys()
            if self.isolate:
                device.check_isolated()
        except ValueError as error:
            raise ValueError(sentence(error) or "the model does not take these keys") from None
        except BaseException as error:  # a model may do anything: sys.exit(), too
            if is_interrupted(error):
                raise
            raise ValueError(f"the model failed in check_keys(): {named(error)}") from error

    def make(self) -> Device:
        """The device, not started.  Raises ValueError for keys that do not go together."""
        self.check()
        if self.isolate:
            return isolated(self.device, Recipe(f"/{self.path}", self.model, self.table, str(self.folder)))
        return self.device(**copy.deepcopy(self.config))  # two hosts of one machine share no backing


@dataclass(frozen=True)
class Machine:
    """A machine file, read and checked."""

    name: str = "machine"
    limits: Limits = field(default_factory=Limits)
    devices: tuple[DeviceSpec, ...] = ()
    file: Path | None = None
    policy: Policy = field(default_factory=Policy)
    roles: Roles = field(default_factory=Roles)
    remarks: tuple[str, ...] = ()  # what may be a slip of the pen, a line each
    spin: bool = False  # it looks again before it sleeps
    msg: bool = False  # it has a bus of virtio-msg

    @classmethod
    def load(cls, file: str | Path) -> Machine:
        """Read *file*; paths in it are relative to its folder.  Raises MachineError with all mistakes."""
        file = Path(file)
        try:
            text = file.read_text(encoding="utf-8")
            tables = tomllib.loads(text)
        except OSError as error:
            raise MachineError([f"{file}: {error.strerror}"]) from None
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise MachineError([f"{file}: {error}"]) from None
        except RecursionError:  # of tomllib, which has no limit of its own
            raise MachineError([f"{file}: arrays or tables are nested too deeply"]) from None
        return cls._read(tables, _Checker(str(file), file.parent.absolute()), file)

    @classmethod
    def from_tables(cls, tables: Mapping[str, Any], folder: Path) -> Machine:
        """The machine that *tables*, shaped as the file's, describe.  Raises MachineError."""
        return cls._read(tables, _Checker("machine", folder), None)

    @classmethod
    def _read(cls, tables: Mapping[str, Any], check: _Checker, file: Path | None) -> Machine:
        sections = check.table("", tables, dict.fromkeys(_SECTIONS, dict))
        about = check.table("machine", sections.get("machine", {}), {"name": str})
        if len(about.get("name", "").encode()) > MAX_TEXT:
            check.wrong("machine.name", f"must be {MAX_TEXT} bytes at most")
        host = check.table("host", sections.get("host", {}), {"spin": bool, "msg": bool})
        names = dict.fromkeys(Limits.__struct_fields__, int)
        limits = {
            key: value
            for key, value in check.table("limits", sections.get("limits", {}), names).items()
            if not (mistake := FILE_BOUNDS[key].mistake(value)) or check.wrong(f"limits.{key}", mistake)
        }
        policy = read_policy(sections.get("policy", {}), check)
        roles = read_roles(sections.get("control", {}), check)
        specs = [check.device(path, table) for path, table in sections.get("devices", {}).items()]
        if check.mistakes:
            raise MachineError(check.mistakes)
        return cls(
            about.get("name", "machine"),
            msgspec.structs.replace(Limits(), **limits),
            tuple(spec for spec in specs if spec is not None),
            file,
            policy,
            roles,
            tuple(f"{file or 'machine'}: {line}" for line in remarks(policy, sections.get("devices", {}))),
            host.get("spin", False),
            host.get("msg", False),
        )


def read_device(path: str, table: Mapping[str, Any], folder: Path, words: Mapping[str, str]) -> DeviceSpec:
    """One device from its *table*, and *words* as they were typed, as for `hostd plug`.  Raises MachineError."""
    check = _Checker("plug", folder)
    spec = check.device(path, table, words)
    if spec is None or check.mistakes:
        raise MachineError(check.mistakes)
    return spec


class _Checker:
    """Collects the mistakes of one file."""

    def __init__(self, file: str, folder: Path) -> None:
        self._file, self._folder = file, folder
        self.mistakes: list[str] = []

    def wrong(self, place: str, text: str) -> bool:
        """Note a mistake.  Returns False."""
        self.mistakes.append(f"{self._file}: {place}: {text}" if place else f"{self._file}: {text}")
        return False

    def table(self, place: str, table: object, allowed: Mapping[str, type]) -> dict[str, Any]:
        """The entries of *table* that may be there and have the right type."""
        good = {}
        if not isinstance(table, dict):
            self.wrong(place, "must be a table")
            return {}
        for key, value in table.items():
            where = f"{place}.{key}".lstrip(".")
            if key not in allowed:
                self._unknown(where, key, list(allowed))
            elif type(value) is not allowed[key]:
                self.wrong(where, f"must be {TOML_NAMES[allowed[key]]}, not {TOML_NAMES.get(type(value), 'that')}")
            else:
                good[key] = value
        return good

    def device(self, path: str, table: object, words: Mapping[str, str] = MappingProxyType({})) -> DeviceSpec | None:
        """The device of the table `[devices.path]` and of *words*, or None and a mistake."""
        shown = cut(path)
        place = f"devices.{shown}" if "/" not in path else f'devices."{shown}"'
        before = len(self.mistakes)
        for mistake in path_mistakes(path):
            self.wrong(place, mistake)
        if not isinstance(table, dict):
            self.wrong(place, "must be a table")
            return None
        model = table.get("model")
        if not isinstance(model, str):
            misspelt = [key for key in table if key != "model" and suggest(key, ["model"])]
            for key in misspelt:
                self._unknown(f"{place}.{key}", key, ["model"])
            if not misspelt:
                self.wrong(place, f'needs model = "...", one of {", ".join(models.names())}')
            return None
        try:
            device = models.load(model, self._folder)
        except PluginError as error:
            for line in error.lines:
                self.wrong(f"{place}.model", line)
            return None
        table = table | {
            key: _typed(word, _ISOLATE if key in COMMON else device.declares.keys.get(key))
            for key, word in words.items()
        }
        config = {}
        for key, value in table.items():
            if key in COMMON:
                if type(value) is not COMMON[key]:
                    said = f"must be {TOML_NAMES[COMMON[key]]}, not {TOML_NAMES.get(type(value), 'that')}"
                    self.wrong(f"{place}.{key}", said)
            elif key not in device.declares.keys:
                if isinstance(value, dict):
                    self.wrong(f"{place}.{key}", f'unknown key; what stands below is [devices."{path}/{key}"]')
                else:
                    self._unknown(f"{place}.{key}", key, [*COMMON, *device.declares.keys])
        for key, declared in device.declares.keys.items():
            if declared.required and key not in table:
                if not any(suggest(other, [key]) for other in table):  # else it is there, misspelt: that was said
                    self.wrong(place, f"needs {key} = ...{f', {declared.help}' if declared.help else ''}")
                continue
            try:
                config[key] = declared.convert(table.get(key, declared.default), self._folder)
            except ValueError as error:
                self.wrong(f"{place}.{key}", sentence(error) or "the model cannot read it")
            except BaseException as error:  # of the model's own parse, which may do anything: sys.exit(), too
                if is_interrupted(error):
                    raise
                self.wrong(f"{place}.{key}", f"the model cannot read it: {named(error)}")
        if len(self.mistakes) > before:
            return None
        spec = DeviceSpec(path, model, device, config, table, self._folder, table.get("isolate", False))
        try:
            spec.check()
        except ValueError as error:
            self.wrong(place, str(error))
            return None
        return spec

    def _unknown(self, place: str, key: str, allowed: list[str]) -> None:
        self.wrong(place, f"unknown key{suggest(key, allowed)}; allowed: {', '.join(allowed)}")


def _typed(word: str, key: Config[Any] | None) -> object:
    """*word* as a machine file has it: quotes are needed for nothing."""
    with contextlib.suppress(tomllib.TOMLDecodeError, RecursionError):
        value = tomllib.loads(f"value = {word}")["value"]
        if isinstance(value, str) or (key is not None and (key.is_list or key.kind in (bool, int, float))):
            return value
    return word
