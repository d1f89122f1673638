"""The selected device of `guestd shell`: read, written, waited for, given back, taken by others, unplugged."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from at_prompt import INNER, Prompt, at_prompt, bench, line, machine, undumped
from raw import attached

import hostd
from hcall.errors import Busy, StaleHandle
from hcall.programs.command import Exit, Failure
from hcall.wire import MAX_INLINE
from hostd.stream import BUFFER


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[hostd.Host]:
    async with machine(tmp_path) as host:
        yield host


async def test_reading_and_writing_a_device_that_has_places(host: hostd.Host) -> None:
    def scenario(prompt: Prompt) -> None:
        say, notes = prompt.say, prompt.notes
        say("dev bench", 'write "two\\nwords" 16', "write hex:00ff 0x20", "write 'hex:00' 40", "sync", "sync")
        assert notes == [f"{count} bytes written" for count in (9, 2, 6)]
        assert prompt.host(lambda: bench(host).synced) == 2
        memory = prompt.host(lambda: bytes(bench(host).memory))
        assert memory[16:25] == b"two\nwords" and memory[32:34] == b"\0\xff" and memory[40:46] == b"hex:00"
        assert undumped(say("read")) == (0, memory[:256])
        assert undumped(say("read 20")) == (0, memory[:20])
        assert undumped(say("read 0x14 15")) == (15, memory[15:35])
        assert undumped(say("read 4100 1")) == (1, memory[1:4101])  # in two calls
        assert say("read 0") == "" and len(notes) == 3
        assert undumped(say("read 20 4990")) == (4990, memory[4990:]) and notes[-1] == "the end: 10 of 20 bytes came"
        assert say("read 20 5000") == "" and notes[-1] == "the end"

    await at_prompt(host, scenario)


async def test_a_stream_is_shown_as_text_and_never_waited_for(host: hostd.Host) -> None:
    def scenario(prompt: Prompt) -> None:
        say, notes = prompt.say, prompt.notes

        def sent(data: bytes) -> None:
            prompt.host(lambda: line(host).send(data))

        assert say("dev line", "read") == "" and notes == ["nothing yet"]
        sent("one\r\ntwo é \x1b[2J\x07\xff".encode() + b"\xff")
        assert say("read 5") == "one\n" and say("read") == "two é \\x1b[2J\\x07ÿ\\xff\n"
        assert notes == ["nothing yet"]
        say('write "ls\\n"', "write hex:04")
        assert prompt.host(lambda: line(host).taken) == b"ls\n\4"
        assert notes[1:] == ["3 bytes written", "1 byte written"]
        prompt.host(lambda: setattr(line(host), "takes", 4))
        for _ in range(BUFFER // MAX_INLINE):
            say(f"write {'x' * MAX_INLINE}")
        with pytest.raises(Failure, match="0 of 1 bytes written: no room now"):
            say("write x")
        sent(b"last")
        prompt.host(line(host).hang_up)
        assert say("read") == "last\n" and say("read") == "" and notes[-1] == "the end"

    await at_prompt(host, scenario)


async def test_waiting_for_an_interrupt(host: hostd.Host) -> None:
    def scenario(prompt: Prompt) -> None:
        prompt.say("dev bench", "words")
        for wait in ("wait done", "wait done 20"):
            prompt.host(bench(host).done)
            prompt.say(wait)  # at once: it has been raised
            assert prompt.code("wait done 0.01") == Exit.TIMEOUT
            prompt.soon(bench(host).done)
            prompt.say(wait)

    await at_prompt(host, scenario)


# Devices that are given back, taken, and unplugged.


async def test_a_device_is_opened_when_it_is_needed_and_given_back(host: hostd.Host) -> None:
    def scenario(prompt: Prompt) -> None:
        say = prompt.say
        say("dev bench", "close", ".properties", "help", "pwd")
        assert prompt.opens("/bench") == 0
        for use in ("words", "see add", "add 1 2", "read 1", "write x", "sync", "wait done 0"):
            if use.startswith("wait"):
                assert prompt.code(use) == Exit.TIMEOUT
            else:
                say(use)
            assert prompt.opens("/bench") == 1, use
            say("dev .", "dev /bench")
            assert prompt.opens("/bench") == 1
            say("close")
            assert prompt.opens("/bench") == 0
        say("write kept", "dev /")
        assert prompt.opens("/bench") == 0
        assert undumped(say("dev bench", "read 4"))[1] == bytes(4)  # as after power-on
        assert not prompt.shell.over
        say("bye")
        assert prompt.shell.over

    await at_prompt(host, scenario)
    assert not host.tree.find("/bench").opens


async def test_a_device_that_somebody_has_is_busy_and_what_can_be_seen_is_seen(host: hostd.Host) -> None:
    def scenario(prompt: Prompt) -> None:
        prompt.say("dev bench")
        for use in ("add 1 2", "words", "read", "see add"):
            with pytest.raises(Busy):
                prompt.say(use)
        assert prompt.code("add 1 2") == Exit.BUSY
        assert prompt.say("see serial-number") == "property: B-17\n" and "usage" not in prompt.say("see pwd")
        assert prompt.shell.complete("", "wor") == ["words "] and prompt.shell.complete("call ", "") == []

    async with attached(host) as owner:
        await owner.open("/bench")
        await at_prompt(host, scenario)
    assert await at_prompt(host, lambda prompt: prompt.say("dev bench", "add 1 2")) == "3\n"


@pytest.mark.parametrize("opened", [True, False])
async def test_a_node_that_goes_is_told_and_the_shell_goes_on(host: hostd.Host, opened: bool) -> None:
    def scenario(prompt: Prompt) -> None:
        prompt.say("dev /bus/inner", *["add 1 2"] * opened)
        assert prompt.finished(prompt.unplug("/bus/inner", surprise=True)) is True
        assert prompt.say("pwd") == "/\n" and prompt.notes == ["/bus/inner is gone; at / now"]
        assert "inner" not in prompt.say("dev bus", "ls")
        prompt.host(lambda: host.plug(INNER))
        assert "inner" in prompt.say("ls") and prompt.say("dev inner", "add 1 2") == "3\n"
        assert len(prompt.notes) == 1

    await at_prompt(host, scenario)


async def test_a_device_that_is_asked_for_is_given_back_at_the_next_line(host: hostd.Host) -> None:
    def scenario(prompt: Prompt) -> None:
        prompt.say("dev bench", "add 1 2")
        unplug = prompt.unplug("/bench", surprise=False)
        prompt.say("")
        assert prompt.finished(unplug) is True  # it was let go of in time
        prompt.say("")
        assert prompt.notes == ["/bench is gone; at / now"]
        assert prompt.say("dev bus/inner", "add 1 2") == "3\n"

    await at_prompt(host, scenario)


async def test_who_waits_for_an_interrupt_of_a_device_that_goes_is_told(host: hostd.Host) -> None:
    def scenario(prompt: Prompt) -> None:
        for path, seconds in (("/bench", None), ("/bus/inner", 20)):
            prompt.say(f"dev {path}", "add 1 2")
            unplug = prompt.unplug(path, surprise=True)
            with pytest.raises(StaleHandle, match="is gone"):
                prompt.shell.here.wait("done", seconds)
            prompt.say("")
            assert prompt.notes.pop() == f"{path} is gone; at / now" and not prompt.notes
            assert prompt.finished(unplug) is True

    await at_prompt(host, scenario)
