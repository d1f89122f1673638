"""By the sources: nothing above hcall.clock asks the system, or an event loop, for time, or waits by it.

What has to, all the same, is listed with its reason.
"""

from __future__ import annotations

import ast
from typing import Final

import pytest
from sources import HOMES, Sources

CLOCK: Final = "hcall.clock"
TELL: Final = {
    "monotonic",
    "monotonic_ns",
    "perf_counter",
    "perf_counter_ns",
    "process_time",
    "sleep",
    "time",
    "time_ns",
}
WAIT: Final = {"asyncio.sleep", "asyncio.wait_for", "asyncio.timeout", "asyncio.timeout_at"}
OF_A_LOOP: Final = {"call_at", "call_later", "time"}
KERNEL: Final = {"settimeout", "setitimer", "timerfd_create", "alarm"}  # methods and functions that make it wait
NOW: Final = {"now", "utcnow", "today"}

# The system's own time, and why: what runs without a host, what is no host's time, and what waits for the kernel.
MAY: Final = {
    "hostd.service.systemd": {
        "time.monotonic_ns": "systemd compares it with its own clock",
    },
    "hostd.service.process": {
        ".join": "the loop has ended, and with it the host's clock: the process is about to exit",
    },
    "hostd.calls.overrun": {".setitimer": "a model that does not return stops the loop, and every clock on it"},
    "hostd.isolated.program": {".poll": "a process that starts, or is saved, where there is no loop to wait in"},
    "hostd.backings.parts.undertaker": {".poll": "until the kernel has ended a killed process, which is at once"},
    "hostd.commands.remote": {".settimeout": "a command by itself: the host that it asks may hang"},
    "hostd.commands.stage": {".wait": "of the demo's processes, which may hang"},
    "guestd.commands.evidence.sysman": {"time.time": "the date that the device tells is compared with this machine's"},
    "guestd.shell.selection": {".wait": "a guest waits by its own clock"},
    "guestd.clients.plain.clock": {".poll": "it is what waits, until a moment of the clock"},
    "guestd.clients.loop.clock": {
        "asyncio.sleep": "no time at all, for which the clock need not go on",
        "asyncio.timeout": "the same",
    },
    "hostd.devices.sysman": {"time.time": "what is asked for is the date, which the model takes from this machine"},
}
SOURCES: Final = Sources(HOMES)


def times(tree: ast.Module) -> set[str]:
    """How a file asks the system for time, or waits by it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & (WAIT | {f"time.{name}" for name in TELL})
        elif isinstance(node, ast.Attribute):
            of = ast.unparse(node.value)
            if (of == "time" and node.attr in TELL) or f"{of}.{node.attr}" in WAIT:
                found.add(f"{of}.{node.attr}")
            elif node.attr in OF_A_LOOP and of.rstrip("()").endswith("loop"):
                found.add(f"loop.{node.attr}")
            elif node.attr in NOW and of.endswith(("date", "datetime")):
                found.add(f"{of}.{node.attr}")
            elif node.attr in KERNEL:
                found.add(f".{node.attr}")
        if isinstance(node, ast.Call):
            found |= _bounded(node)
    return found


def _bounded(call: ast.Call) -> set[str]:
    """Calls that take a time: `asyncio.wait(tasks, timeout=1)`, `process.wait(5)`, `thread.join(1)`, `poll.poll(1)`."""
    name = ast.unparse(call.func)
    if name.startswith("asyncio.wait") and any(word.arg == "timeout" for word in call.keywords):
        return {"timeout="}
    if not isinstance(call.func, ast.Attribute) or not (call.args or call.keywords):
        return set()
    of, method = ast.unparse(call.func.value), call.func.attr
    argument = call.args[-1] if call.args else call.keywords[-1].value
    none = isinstance(argument, ast.Constant) and argument.value in (0, None)
    subject = of.rpartition(".")[2].lower()
    if method in ("poll", "select") and subject in ("poll", "poller", "selector", "gone", "epoll") and not none:
        return {f".{method}"}
    if method in ("communicate", "run") and any(word.arg == "timeout" for word in call.keywords):
        return {f".{method}"}
    waits = ("process", "host", "guest", "thread", "future", "lock", "condition", "event")
    if method in ("wait", "join", "result", "acquire") and subject in waits and not none:
        return {f".{method}"}
    return set()


def test_time_is_what_the_clock_says() -> None:
    found = {name: times(tree) for name, tree in SOURCES.trees.items() if name != CLOCK}
    assert {name: how for name, how in found.items() if how} == {name: set(how) for name, how in MAY.items()}


def test_the_lists_name_files_that_are_there() -> None:
    assert MAY.keys() <= SOURCES.paths.keys()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import time\nuntil = time.monotonic() + 1", {"time.monotonic"}),
        ("from time import monotonic as now", {"time.monotonic"}),
        ("import asyncio\nasync def f():\n    await asyncio.sleep(0.1)", {"asyncio.sleep"}),
        ("from asyncio import wait_for", {"asyncio.wait_for"}),
        ("async def f():\n    async with asyncio.timeout(2): pass", {"asyncio.timeout"}),
        ("async def f(x):\n    await asyncio.wait({x}, timeout=1)", {"timeout="}),
        ("async def f(x):\n    await asyncio.wait({x})", set()),
        ("now = self._loop.time()", {"loop.time"}),
        ("asyncio.get_running_loop().call_later(1, print)", {"loop.call_later"}),
        ("self.clock.call_later(1, print); self.clock.time()", set()),
        ("sock.settimeout(3)", {".settimeout"}),
        ("process.wait(5)", {".wait"}),
        ("process.wait()", set()),
        ("thread.join(timeout=5)", {".join"}),
        ("', '.join(words)", set()),
        ("poll.poll(0)", set()),
        ("poll.poll(1000)", {".poll"}),
        ("subprocess.run(words, timeout=5)", {".run"}),
        ("datetime.datetime.now()", {"datetime.datetime.now"}),
        ("time.strftime('%H')", set()),
    ],
)
def test_what_asks_for_time_would_be_found(text: str, found: set[str]) -> None:
    assert times(ast.parse(text)) == found
