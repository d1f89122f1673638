"""Classes of the user's own: what is found, what is read anew, and every mistake in one line with its place."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hcall.programs import plugins
from hcall.programs.command import explain
from hcall.programs.plugins import Mistakes, PluginError, is_plugin, load, load_all


class Thing:
    """What the files here have subclasses of; `size` has to be a number."""

    size: object = 0

    def __init_subclass__(cls) -> None:
        wrong = [("size", f"{cls.__name__}.size is a number")] if not isinstance(cls.size, int) else []
        if "Bad" in cls.__name__:
            wrong.append(("", f"{cls.__name__} is no name"))
        if wrong:
            raise Mistakes(cls, wrong)


HEAD = f"from {__name__} import Thing\n"
GOOD = HEAD + "class Good(Thing): pass\n"


@pytest.fixture(autouse=True)
def imports_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Other tests do not see what is loaded here."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def write(folder: Path, name: str, text: str | bytes) -> Path:
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def mistakes(name: str, folder: Path) -> list[str]:
    with pytest.raises(PluginError) as error:
        load(name, folder, Thing)
    assert explain(error.value)[1] == 78
    assert all("\n" not in line for line in error.value.lines)
    return error.value.lines


def test_a_name_with_a_colon_or_a_python_file_is_the_users_own() -> None:
    assert all(map(is_plugin, ["a.py", "a/b.py:C", "a.b:C", ":", "~/a.py"]))
    assert not any(map(is_plugin, ["", "block", "a.toml", "a.b", "py"]))


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        "\ufeff" + GOOD,
        "from __future__ import annotations\n" + GOOD,
        "# -*- coding: latin-1 -*-\nname = '\xe4'\n".encode("latin-1") + GOOD.encode(),
        GOOD + "Other = Good\n",
        HEAD + "Good = type('Good', (Thing,), {'__module__': __name__})\n",
        GOOD + "from collections import OrderedDict\nclass Unlike(OrderedDict): pass\n",
        "from __future__ import annotations\nimport dataclasses\n" + HEAD
        + "@dataclasses.dataclass\nclass Good(Thing):\n    later: Good | None = None\n",
        GOOD + "if __name__ == '__main__': raise SystemExit\n",
        GOOD + "import sys\nassert sys.modules[__name__].Good is Good\n",
    ],
    ids=range(10),
)  # fmt: skip
def test_the_one_class_of_a_file_need_not_be_named(tmp_path: Path, text: str | bytes) -> None:
    write(tmp_path, "good.py", text)
    found = load("good.py", tmp_path, Thing)
    assert found.__name__ == "Good" and issubclass(found, Thing)
    assert load("good.py:Good", tmp_path, Thing) is found is load(str(tmp_path / "good.py"), Path("/"), Thing)


BROKEN = {
    "": "it has no Thing: class Name(Thing): ...",
    HEAD: "it has no Thing: class Name(Thing): ...",
    "\n\ndef f(:": ":3: invalid syntax",
    "if 1:\nx = 1": ":2: expected an indented block",
    "# -*- coding: klingon -*-": ":1: unknown encoding: klingon",
    "x = 1\n\0": "null bytes",
    "name = '\udcff'": "utf-8",
    "\n1 / 0\n": ":2: ZeroDivisionError: division by zero",
    "import nothing.there": ":1: ModuleNotFoundError: No module named 'nothing'",
    "def f(): f()\n\nf()": ":1: RecursionError: maximum recursion depth",
    "raise ValueError('two\\nlines')": ":1: ValueError: two lines",
    "import json\njson.loads('{')": ":2: JSONDecodeError",
    "import sys\nsys.exit(3)": ":2: SystemExit: 3",
    "raise BaseException('odd')": ":1: BaseException: odd",
    "import asyncio\nraise asyncio.CancelledError": ":2: CancelledError",
    "from . import other": ":1: ImportError: attempted relative import with no known parent package",
    HEAD + "class A(Thing): pass\nclass B(Thing): pass": "which class? it has A, B: write wrong.py:A",
}


@pytest.mark.parametrize("text", BROKEN)
def test_what_is_wrong_with_a_file_is_one_line_with_its_place(tmp_path: Path, text: str) -> None:
    write(tmp_path, "wrong.py", text.encode(errors="surrogateescape"))
    for _ in range(2):  # it is no better the second time
        (line,) = mistakes("wrong.py", tmp_path)
        assert line.startswith("wrong.py:") and BROKEN[text] in line


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("good.py:", "good.py: no class ''; it has Good"),
        ("good.py:God", "good.py: no class 'God' (did you mean 'Good'?); it has Good"),
        ("good.py:Good.Inner", "good.py: no class 'Good.Inner'"),
        ("good.py:\xd6", "good.py: no class '\xd6'"),
        ("good.py:path", "good.py: path is no Thing: class path(Thing): ..."),
        ("none.py", "none.py: No such file or directory"),
        ("none/good.py:Good", "none/good.py: No such file or directory"),
        ("folder.py", "folder.py: Is a directory"),
        ("nul\0.py:Good", "nul\0.py: embedded null byte"),
        ("loop.py", "loop.py: "),
        (f"{'x' * 300}.py", ".py: File name too long"),
        ("nothing:Good", "no module 'nothing' is installed; a file is written as path/file.py:Class"),
        ("json.nothing:Good", "no module 'json.nothing' is installed"),
        ("good.PY:Good", "no module 'good.PY' is installed"),
        (":Good", "no module '' is installed"),
        (":", "no module '' is installed"),
        (".good:Good", "no module '.good' is installed"),
        ("..:Good", "no module '..' is installed"),
        ("a b:Good", "no module 'a b' is installed"),
        ("a:b:Good", "no module 'a:b' is installed"),
        ("a\0:Good", "is installed"),
        ("json:Good", "json: no class 'Good'; it has no Thing"),
        ("json:loads", "json: loads is no Thing"),
        ("json:", "json: no class ''; it has no Thing"),
    ],
)
def test_a_name_that_leads_nowhere_says_what_there_is(tmp_path: Path, name: str, says: str) -> None:
    write(tmp_path, "good.py", GOOD + "from os import path\n")
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "loop.py").symlink_to("loop.py")
    (line,) = mistakes(name, tmp_path)
    assert says in line


def test_a_file_is_read_anew_when_it_has_changed_and_only_then(tmp_path: Path) -> None:
    file = write(tmp_path, "good.py", GOOD)
    old = load("good.py", tmp_path, Thing)
    file.touch()
    assert load("good.py", tmp_path, Thing) is old
    file.write_text(GOOD + "\n\nGood.size = 7\n")
    new = load("good.py", tmp_path, Thing)
    assert (old.size, new.size) == (0, 7)
    file.write_text("1 / 0")
    assert "ZeroDivisionError" in mistakes("good.py", tmp_path)[0]
    assert vars(sys.modules[new.__module__])["Good"] is new  # its author's dataclasses and pickles go on
    write(tmp_path, "new.py", "1 / 0")
    assert "ZeroDivisionError" in mistakes("new.py", tmp_path)[0] and str(tmp_path / "new.py") not in sys.modules
    file.unlink()
    assert "No such file" in mistakes("good.py", tmp_path)[0]
    file.write_text(GOOD)
    assert load("good.py", tmp_path, Thing).size == 0


def test_what_lies_beside_a_file_can_be_imported_after_all_that_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    write(tmp_path, "sibling_of_good.py", GOOD)
    write(tmp_path, "colorsys.py", "1 / 0")
    text = "import colorsys\nimport sibling_of_good\nclass Mine(sibling_of_good.Good): size = len(colorsys.__all__)\n"
    write(tmp_path, "good.py", text)
    mine = load("good.py", tmp_path, Thing)
    assert mine.size == 6 and [base.__name__ for base in mine.__mro__] == ["Mine", "Good", "Thing", "object"]


def test_a_class_of_another_file_counts_only_if_it_is_named(tmp_path: Path) -> None:
    write(tmp_path, "elsewhere_defined.py", GOOD)
    write(tmp_path, "imports_it.py", "from elsewhere_defined import Good\n")
    assert mistakes("imports_it.py", tmp_path) == ["imports_it.py: it has no Thing: class Name(Thing): ..."]
    assert load("imports_it.py:Good", tmp_path, Thing).__module__ == "elsewhere_defined"


def test_all_classes_of_a_file_come_in_their_order_and_once(tmp_path: Path) -> None:
    write(tmp_path, "many.py", GOOD + "class Better(Good): pass\nAlias = Good\nclass Best(Better): pass\n")
    assert [thing.__name__ for thing in load_all("many.py", tmp_path, Thing)] == ["Good", "Better", "Best"]
    assert [thing.__name__ for thing in load_all("many.py:Better", tmp_path, Thing)] == ["Better"]


def test_mistakes_of_a_class_have_the_lines_of_its_members(tmp_path: Path) -> None:
    text = HEAD + "class Fine(Thing): pass\n\n\nclass TooBad(Thing):\n    other = 1\n    size: object = 'large'\n"
    write(tmp_path, "bad.py", text)
    told = ["TooBad is no name", "TooBad.size is a number"]
    assert mistakes("bad.py:Fine", tmp_path) == [f"bad.py:5: {told[0]}", f"bad.py:7: {told[1]}"]
    write(tmp_path, "user_of_bad.py", "\n\n\nfrom bad import Fine\n")  # what is wrong is in the other file
    where = tmp_path / "bad.py"
    assert mistakes("user_of_bad.py", tmp_path) == [f"{where}:5: {told[0]}", f"{where}:7: {told[1]}"]
    sys.path.append(str(tmp_path))
    assert mistakes("bad:Fine", tmp_path) == [f"{where}:5: {told[0]}", f"{where}:7: {told[1]}"]


def test_a_module_that_fails_says_where(tmp_path: Path) -> None:
    sys.path.append(str(tmp_path))
    write(tmp_path, "failing_module.py", "\nimport nothing_like_it\n")
    write(tmp_path, "exiting_module.py", "import sys\n\nsys.exit('bye')\n")
    write(tmp_path, "module_without_sense.py", "\n(\n")
    where = tmp_path / "failing_module.py"
    assert mistakes("failing_module:Good", tmp_path) == [
        f"{where}:2: ModuleNotFoundError: No module named 'nothing_like_it'"
    ]
    assert mistakes("exiting_module:Good", tmp_path) == [f"{tmp_path / 'exiting_module.py'}:3: SystemExit: bye"]
    assert f"{tmp_path / 'module_without_sense.py'}:2: " in mistakes("module_without_sense:Good", tmp_path)[0]


def test_what_a_file_prints_is_no_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "talks.py", GOOD + "print('hello')\n")
    load("talks.py", tmp_path, Thing)
    assert capsys.readouterr() == ("", "hello\n")


def test_ctrl_c_while_a_file_is_read_is_the_users(tmp_path: Path) -> None:
    write(tmp_path, "slow.py", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load("slow.py", tmp_path, Thing)


@pytest.mark.parametrize("value", ["{}:Good", "{} : Good", "{}", "{}:Good [extra]", "{}:Good [a,b]"])
def test_an_entry_point_leads_to_its_class(tmp_path: Path, value: str) -> None:
    sys.path.append(str(tmp_path))
    write(tmp_path, "offered_thing.py", GOOD)
    point = importlib.metadata.EntryPoint("good", value.format("offered_thing"), "group")
    assert plugins.load_offered(point, Thing).__name__ == "Good"


def test_files_of_one_name_beside_two_models_are_not_mixed_up(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write(tmp_path, f"{folder}/model.py", f"\nfrom registers_beside import size\n{GOOD}\nGood.size = size\n")
        write(tmp_path, f"{folder}/other.py", GOOD)
        write(tmp_path, f"{folder}/registers_beside.py", f"size = '{folder}'.index('o')\n")
    assert load("one/model.py", tmp_path, Thing).size == 0
    here, there = (tmp_path / folder / "registers_beside.py" for folder in ("two", "one"))
    assert mistakes("two/model.py", tmp_path) == [
        f"two/model.py:2: registers_beside is {there} already, not {here}: rename one"
    ]
    assert load("two/other.py", tmp_path, Thing).__name__ == "Good"  # what is not imported does no harm
