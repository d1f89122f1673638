"""The interpreter of `guestd shell`: every command, every sort of argument, every mistake, completion."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from at_prompt import Bench, Prompt, at_prompt, machine, undumped

import hostd
from guestd.shell.shell import COMMANDS
from hcall.errors import HcallError, NoMatch
from hcall.programs.command import Exit, Failure, explain
from hcall.wire import MAX_INLINE


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[hostd.Host]:
    async with machine(tmp_path) as host:
        yield host


# The tree.


async def test_looking_around_in_the_tree_opens_nothing(host: hostd.Host) -> None:
    def scenario(prompt: Prompt) -> None:
        say = prompt.say
        listed = {row[16:].strip(): int(row[:16], 16) for row in say("ls").splitlines()}
        names = ("rng    hostd,rng", "bench  test,bench-2, test,bench", "bus", "line   test,line")
        assert listed == {name: host.tree.find(name.split()[0]).handle for name in names}
        assert say("pwd") == say("dev") == "/\n"
        walk = {
            "dev bench": "/bench", "dev ../bus": "/bus", "dev inner": "/bus/inner", "dev .": "/bus/inner",
            "dev ..": "/bus", "dev /bench": "/bench", "dev ../bus/./inner/": "/bus/inner", "device-end": "/",
            "dev bus": "/bus", "dev /": "/", "dev ../..": "/", "dev //": "/",
        }  # fmt: skip
        for typed, path in walk.items():
            assert say(typed, "pwd") == f"{path}\n", typed
        assert "inner" in say("dev bus", "ls") and say("dev inner", "ls") == ""
        shown = dict(row.split(maxsplit=1) for row in say("dev /bench", ".properties").splitlines())
        assert shown == {
            "name": "bench", "compatible": "test,bench-2, test,bench", "vendor-id": "4660 (0x1234)",
            "device-id": "119 (0x77)", "hcall-class": "119 (0x77)", "serial-number": "B-17", "size": "5000 (0x1388)",
            "spare": "true",
        }  # fmt: skip
        assert "name  machine" in say("dev /", ".properties")
        assert prompt.opens("/bench") == 0 and not prompt.notes

    await at_prompt(host, scenario)


async def test_a_path_that_is_none_is_told_with_the_nearest_and_the_place_stays(host: hostd.Host) -> None:
    def scenario(prompt: Prompt) -> None:
        prompt.say("dev bench")
        for path, meant in (("inner", "/bus/inner"), ("/bus/innr", "inner"), ("/bnch", "bench"), ("rng", "/rng")):
            with pytest.raises(NoMatch, match=f"did you mean '{meant}'"):
                prompt.say(f"dev {path}")
        assert prompt.code("dev /nothing") == Exit.NO_DEVICE
        assert prompt.say("pwd") == "/bench\n"

    await at_prompt(host, scenario)


# The words.


async def test_words_lists_all_that_there_is_within_80_columns(host: hostd.Host) -> None:
    def scenario(prompt: Prompt) -> None:
        groups: dict[str, list[str]] = {}
        for row in prompt.say("dev bench", "words").splitlines():
            assert len(row) <= 80
            group, names = row[:13].strip(), row[13:].split()
            if group:
                groups[group] = []
            groups[[*groups][-1]] += names
        assert groups == {
            "calls": [handler.name for handler in Bench.declares.handlers],
            "interrupts": ["done"],
            "features": ["FAST"],
            "not offered": ["ODD"],
            "properties": [*host.tree.find("/bench").properties()],
            "commands": [*COMMANDS],
        }
        at_root = prompt.say("dev /", "words")
        assert at_root.startswith("properties") and "calls" not in at_root

    await at_prompt(host, scenario)


async def test_see_says_what_a_name_is(host: hostd.Host) -> None:
    def scenario(prompt: Prompt) -> None:
        def see(name: str) -> list[str]:
            return prompt.say(f"see {name}").splitlines()

        prompt.say("dev bench")
        plugged = prompt.host(lambda: host.tree.find("/bench").plugged)
        assert plugged is not None
        number = plugged.calls["add"]
        assert see("add") == [
            f"call: number {number & 0xFFFF} of class 0x77, hypercall {number:#010x}",
            "BenchDriver: add = Op[[int, int], int]()  # a, b",
        ]
        assert see("flip")[1:] == ["BenchDriver: flip(on: bool) -> Any", "What is not."]
        command, first, *_ = see("sync")
        assert command == "command: sync" and first == COMMANDS["sync"].help[1]
        assert any(row.startswith("Driver: sync() ->") for row in see("sync"))
        assert len(see("half")) == 1  # the driver does not have it
        assert see("FAST") == ["feature: bit 3, accepted"] and see("ODD") == ["feature: bit 60, not offered"]
        assert see("serial-number") == ["property: B-17"]
        assert see("done") == ["interrupt: vector 0, raised 0 times, 0 of them seen"]
        prompt.say("ring", "ring", "ring", "wait done", "ring")
        raised, seen = [int(word) for word in see("done")[0].split() if word.isdecimal()]
        assert raised == 4 and 1 <= seen <= 3
        with pytest.raises(Failure, match=r"no word 'serial-numbr' here \(did you mean 'serial-number'\?\)"):
            see("serial-numbr")
        prompt.say("dev /line")
        assert len(see("get_param")) == 1  # a device that has no driver
        assert any(row.startswith("Driver: read(count: int, at: int = 0)") for row in see("read"))
        assert prompt.say("dev /", "see name") == "property: machine\n"

    await at_prompt(host, scenario)


async def test_help_knows_every_command(host: hostd.Host) -> None:
    def scenario(prompt: Prompt) -> None:
        said = prompt.say("help").splitlines()
        assert [row.split()[0] for row in said] == [*COMMANDS] and all(len(row) <= 80 for row in said)
        for name, command in COMMANDS.items():
            usage, first, *_ = prompt.say(f"help {name}").splitlines()
            assert usage == command.usage and first and not first.startswith(" ")
            assert all(len(row) <= 80 for row in command.help)
        with pytest.raises(Failure, match="did you mean 'words'"):
            prompt.say("help wrds")

    await at_prompt(host, scenario)


# Calls.


@pytest.mark.parametrize(
    ("typed", "printed"),
    [
        ("add 10 0x1f", "41\n"), ("add -3 1", "-2\n"), ("half 5.0", "2.5\n"), ("flip true", "false\n"),
        ("flip false", "true\n"), ("shout ok", "OK\n"), ('shout "two words"', "TWO WORDS\n"), ('shout "10"', "10\n"),
        ("shout str:10", "10\n"), ("several", "1, true, two words, 01 02, 3, 4\n"), ("ring", ""), ("quick", "1\n"),
        ("call dev", "the device's own\n"), ("dev", "/bench\n"), ("call add 1 2", "3\n"), ("total data:abc", "294\n"),
        ('total data:"a b"', "227\n"), ("total data:hex:0102ff", "258\n"), ("total data:", "0\n"), ("back hex:", ""),
        ("total data:ab data:c", "294\n"),
    ],
)  # fmt: skip
async def test_a_call_is_made_by_its_name_and_its_result_is_shown(host: hostd.Host, typed: str, printed: str) -> None:
    assert await at_prompt(host, lambda prompt: prompt.say("dev bench", typed)) == printed


@pytest.mark.parametrize(
    ("typed", "data"),
    [
        ("back hex:00102030", b"\x30\x20\x10\0"),
        ("fill room:16 7", b"\7" * 16),
        ("fill room:0x11 7", b"\7" * 17),
        (f"fill room:{MAX_INLINE + 1} 7", b"\7" * (MAX_INLINE + 1)),
        ("swap room:20 data:Hello", b"hELLO"),
        ("swap data:Hello room:3", b"hEL"),
    ],
)
async def test_bytes_that_come_back_are_dumped(host: hostd.Host, typed: str, data: bytes) -> None:
    assert undumped(await at_prompt(host, lambda prompt: prompt.say("dev bench", typed))) == (0, data)


@pytest.mark.parametrize(
    ("lines", "code", "said"),
    [
        (["frob"], Exit.USAGE, "no word 'frob' here$"),
        (["dev bench", "shuot x"], Exit.USAGE, r"no word 'shuot' here \(did you mean 'shout'\?\)"),
        (["dev bench", "done"], Exit.USAGE, "'done' is no call, but one of the interrupts: `see done`"),
        (["dev bench", "call pwd"], Exit.USAGE, "'pwd' is no call, but one of the commands: `see pwd`"),
        (["dev bench", "add 1"], Exit.FAILED, "takes"),
        (["dev bench", "add 1 x"], Exit.FAILED, "takes"),
        (["dev bench", "add 5 5"], Exit.FAILED, r"the same twice \(BAD_ARGUMENT\)"),
        (["dev bench", "add 0x10000000000000000 5"], Exit.FAILED, "cannot be sent"),
        (["dev bench", "fill room:x 5"], Exit.USAGE, "'x' is no whole number"),
        (["dev bench", "back hex:0"], Exit.USAGE, "two hex digits"),
        (["dev bench", "shout 'x"], Exit.USAGE, "does not end"),
        (["dev bench", "read 1 2 3"], Exit.USAGE, r"usage: read \[COUNT \[AT\]\]"),
        (["see"], Exit.USAGE, "usage: see NAME"),
        (["dev bench", "read -1"], Exit.USAGE, "'-1' is no whole number, 0 or more"),
        (["dev bench", "wait done -1"], Exit.USAGE, "'-1' is no number of seconds"),
        (["dev bench", "wait done soon"], Exit.USAGE, "'soon' is no number of seconds"),
        (["dev bench", "wait doen"], Exit.USAGE, r"/bench has no interrupt 'doen' \(did you mean 'done'\?\)"),
        (["dev bench", "wait done 0"], Exit.TIMEOUT, "no done within 0 s"),
        (["dev bench", "write more 4998"], Exit.FAILED, "2 of 4 bytes written: no room now"),
        (["dev nothing"], Exit.NO_DEVICE, "no node '/nothing'"),
        (["read"], Exit.NO_DEVICE, "/ has no device: select one with `dev PATH`"),
        (["dev rng", "sync"], Exit.FAILED, r"rng has no call 'sync'.*\(NO_SUCH_CALL\)"),
    ],
)
async def test_what_goes_wrong_is_one_line_and_an_exit_code(
    host: hostd.Host, lines: list[str], code: int, said: str
) -> None:
    def scenario(prompt: Prompt) -> None:
        prompt.say(*lines[:-1])
        with pytest.raises((Failure, HcallError)) as caught:
            prompt.say(lines[-1])
        text, found = explain(caught.value)
        assert found == code and "\n" not in text
        assert re.search(said, text), text
        assert prompt.say("pwd")  # and the shell goes on

    await at_prompt(host, scenario)


# Completion.


@pytest.mark.parametrize(
    ("place", "before", "word", "found"),
    [
        ("/", "", "wo", ["words "]),
        ("/", "", ".p", [".properties "]),
        ("/bench", "", "s", ["see ", "several ", "shout ", "swap ", "sync "]),
        ("/bench", "call ", "s", ["several", "shout", "swap", "sync"]),
        ("/bench", "see ", "s", ["see", "serial-number", "several", "shout", "size", "spare", "swap", "sync"]),
        ("/bench", "see ", "F", ["FAST"]),
        ("/bench", "wait ", "", ["done"]),
        ("/bench", "  wait   ", "d", ["done"]),
        ("/bench", "help ", "s", ["see", "sync"]),
        ("/", "dev ", "", ["bench", "bus", "line", "rng"]),
        ("/", "dev ", "b", ["bench", "bus"]),
        ("/", "dev ", "bus/", ["bus/inner"]),
        ("/bench", "dev ", "/b", ["/bench", "/bus"]),
        ("/bench", "dev ", "../bus/i", ["../bus/inner"]),
        ("/bench", "dev ", "", []),
        ("/", "dev ", "nothing/", []),
        ("/bench", "add 1 ", "", []),
        ("/bench", "see add ", "", []),
    ],
)
async def test_a_word_is_completed_by_what_may_stand_there(
    host: hostd.Host, place: str, before: str, word: str, found: list[str]
) -> None:
    def scenario(prompt: Prompt) -> list[str]:
        prompt.say(f"dev {place}")
        return prompt.shell.complete(before, word)

    assert await at_prompt(host, scenario) == found
