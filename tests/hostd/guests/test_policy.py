"""What a policy keeps from a guest is not there for it: two real users, and two guests of hostd's own."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from raw import ADDRESS, PAGE, RawGuest, attached, connected, hello
from users import ALICE, BOB, connect, needs_root

import hostd
from hcall import numbers
from hcall.errors import NotAllowed, Status
from hostd.guests.policy import Pattern, Policy, Rule, Who
from hostd.lanes.socket.peer import Peer, peer
from hostd.machine.file import Machine
from hostd.machine.host import by_path
from hostd.machine.reload import Running
from hostd.service.serve import running

DEVICES = """
[devices.rng]
model = "rng"
[devices.disk]
model = "block"
path = "disk.img"
create = "1M"
[devices."bus/secret"]
model = "rng"
[devices."bus/open"]
model = "rng"
[devices.hidden]
model = "rng"
[devices."hidden/below"]
model = "rng"
"""
TWO_USERS = f"""
[policy.alice]
users = [{ALICE}]
open = ["rng", "bus/o*"]
see = ["disk"]
[policy.bob]
users = [{BOB}]
groups = [60100]
guests = ["vm-*"]
open = ["disk", "hidden"]
"""
SEEN_BY_ALICE = {"/", "/rng", "/disk", "/bus", "/bus/open"}
SEEN_BY_BOB = {"/", "/disk", "/hidden", "/hidden/below"}


@contextlib.asynccontextmanager
async def serving(folder: Path, policy: str) -> AsyncIterator[Running]:
    """A host with those devices, and its reloads."""
    file = folder / "machine.toml"
    file.write_text(policy + DEVICES)
    async with running(file, folder / "run") as served:
        (folder / "run").chmod(0o711)
        yield served


@contextlib.asynccontextmanager
async def of(host: hostd.Host, uid: int, name: str = "raw", **options: Any) -> AsyncIterator[RawGuest]:
    """A guest of that user."""
    async with attached(host, sock=connect(host.socket, uid), name=name, **options) as guest:
        yield guest


async def refused(host: hostd.Host, uid: int, name: str = "raw", gid: int | None = None) -> str:
    """Why a guest of that user is not let in."""
    with connected(host, connect(host.socket, uid, gid)) as guest:
        with contextlib.suppress(BrokenPipeError):  # it may be refused before it has said anything
            guest.send(hello(name=name))
        status, text = await guest.ended()
    assert status == Status.NOT_ALLOWED
    return text


async def walk(guest: RawGuest) -> set[str]:
    """What a guest finds, from node to node."""
    found: set[str] = set()

    async def below(node: int, path: str) -> None:
        found.add(path or "/")
        child = await guest.core(numbers.CHILD, node)
        while child:
            name, _, _ = await guest.core(numbers.INFO, child)
            await below(child, f"{path}/{name}")
            child = await guest.core(numbers.NEXT, child)

    await below(await guest.core(numbers.FIRST), "")
    return found


async def changes(guest: RawGuest, since: int) -> tuple[int, list[tuple[int, int, int]]]:
    """All changes since then."""
    found: list[tuple[int, int, int]] = []
    while True:
        since, some = await guest.core(numbers.CHANGES, 0, since)
        if some == ():
            return since, found
        found += some


@pytest.mark.spec("H-2", "C-18")
@needs_root
async def test_two_users_find_what_is_theirs_and_others_do_not_attach(tmp_path: Path) -> None:
    async with serving(tmp_path, TWO_USERS) as (host, _):
        async with of(host, ALICE) as alice, of(host, BOB, "vm-1") as bob, attached(host) as ours:
            assert await walk(alice) == SEEN_BY_ALICE
            assert await walk(bob) == SEEN_BY_BOB
            assert await walk(ours) == {node.path for node in host.tree.root.walk()}
        assert f"a guest 'other' of user {BOB}" in await refused(host, BOB, "other")
        assert f"user {BOB + 1}" in await refused(host, BOB + 1, "vm-1")
        async with attached(host, sock=connect(host.socket, BOB + 1, 60100), name="vm-2") as of_the_group:
            assert await walk(of_the_group) == SEEN_BY_BOB


@needs_root
async def test_without_a_policy_nobody_else_comes(tmp_path: Path) -> None:
    async with serving(tmp_path, "") as (host, _):
        assert stat.S_IMODE(host.socket.stat().st_mode) == 0o660
        with pytest.raises(PermissionError):
            connect(host.socket, ALICE)
        host.socket.chmod(0o666)
        text = await refused(host, ALICE)
        assert f"user {ALICE}" in text and "policy" in text
        async with of(host, os.geteuid()) as root:
            assert await walk(root) == {node.path for node in host.tree.root.walk()}


@pytest.mark.spec("C-18", "W-2")
@needs_root
async def test_what_is_not_for_a_guest_is_not_there(tmp_path: Path) -> None:
    """The answers are those that a machine without these devices gives."""
    async with serving(tmp_path, TWO_USERS) as (host, _), of(host, ALICE) as alice, attached(host) as ours:
        secret = await ours.core(numbers.FIND, 0, "/bus/secret")
        (opened, calls) = await ours.open("/bus/secret")
        for path in ("/bus/secret", "/bus/secret/x", "/hidden", "/hidden/below"):
            answer = await alice.call(numbers.FIND, 0, path)
            assert answer[0] == Status.NO_MATCH
            nothing = path.replace("secret", "nothin").replace("hidden", "nothin").replace("below", "nothi")
            status, text = await alice.call(numbers.FIND, 0, nothing)
            assert answer == (status, text.replace(nothing, path))
        _, text = await alice.call(numbers.FIND, 0, "/bus/secre")
        assert "secret" not in text
        for number, args in (
            (numbers.INFO, ()), (numbers.CHILD, ()), (numbers.NEXT, ()), (numbers.PARENT, ()), (numbers.OPEN, (0,)),
            (numbers.GETPROP, ("name",)), (numbers.NEXTPROP, ("",)), (numbers.CLOSE, ()), (numbers.GET_STATUS, ()),
            (calls["read"], (0,)),
        ):  # fmt: skip
            status, text = await alice.call(number, secret, *args)
            assert (status, text.replace(f"{secret:#x}", f"{opened:#x}")) == await alice.call(number, opened, *args)
            assert status == Status.STALE_HANDLE


@pytest.mark.spec("C-8")
@needs_root
async def test_what_is_to_be_seen_is_not_opened(tmp_path: Path) -> None:
    async with serving(tmp_path, TWO_USERS) as (host, _), of(host, ALICE) as alice:
        disk = await alice.core(numbers.FIND, 0, "/disk")
        assert await alice.core(numbers.GETPROP, disk, "capacity") == 1 << 20
        assert await alice.call(numbers.OPEN, disk, 0) == (
            Status.NOT_ALLOWED, "/disk is for you to see, not to open: so says the machine's policy",
        )  # fmt: skip
        async with attached(host) as ours:  # nor is it told whether somebody has it
            await ours.open("/disk")
            assert (await alice.call(numbers.OPEN, disk, 0))[0] == Status.NOT_ALLOWED
        assert (await alice.open("/bus/open"))[0]
        bus = await alice.core(numbers.FIND, 0, "/bus")
        assert (await alice.call(numbers.OPEN, bus, 0))[1] == "/bus has no device"


@pytest.mark.spec("C-18")
@needs_root
async def test_what_comes_and_goes_is_told_to_those_who_see_it(tmp_path: Path) -> None:
    async with serving(tmp_path, TWO_USERS) as (host, _), of(host, ALICE) as alice, of(host, BOB, "vm-1") as bob:
        (alices, _), (bobs, _) = [await changes(guest, host.tree.handles.following) for guest in (alice, bob)]
        added = host.plug_table("hidden/new", {"model": "rng"})
        await host.unplug("hidden/below")
        assert await changes(alice, alices) == (host.tree.handles.following, [])
        _, told = await changes(bob, bobs)
        assert [(what, parent) for what, _, parent in told] == [
            (numbers.ADDED, added.parent.handle), (numbers.REMOVED, added.parent.handle),
        ]  # fmt: skip
        assert alice.interrupts == [] and bob.interrupts != []


@pytest.mark.spec("C-18")
@needs_root
async def test_a_reload_takes_and_gives_at_once(tmp_path: Path) -> None:
    """As if it was unplugged and plugged: handles are stale, hints and changes tell so; what stays is as it was."""
    async with serving(tmp_path, TWO_USERS) as (host, reloads), of(host, ALICE) as alice, of(host, BOB, "vm-1") as bob:
        rng, calls = await alice.open("/rng")
        kept, _ = await alice.open("/bus/open")
        disk, _ = await bob.open("/disk")
        below, _ = await bob.open("/hidden/below")
        gone, bobs_node = await alice.core(numbers.FIND, 0, "/rng"), await bob.core(numbers.FIND, 0, "/disk")
        (alices, _), (bobs, _) = [await changes(guest, host.tree.handles.following) for guest in (alice, bob)]
        policy = f"""
            [policy.alice]
            users = [{ALICE}]
            open = ["bus/open", "hidden"]
            [policy.bob]
            users = [{BOB}]
            see = ["disk"]
            open = ["hidden"]
        """
        (tmp_path / "machine.toml").write_text(policy + DEVICES)
        assert (await reloads.begin()).changed == ["policy"]

        assert await walk(alice) == {"/", "/bus", "/bus/open", "/hidden", "/hidden/below"}
        nodes = {node.path: node.handle for node in host.tree.root.walk()}
        alices, told = await changes(alice, alices)
        assert told == [
            (numbers.REMOVED, nodes["/disk"], nodes["/"]), (numbers.REMOVED, nodes["/rng"], nodes["/"]),
            (numbers.ADDED, nodes["/hidden"], nodes["/"]), (numbers.ADDED, nodes["/hidden/below"], nodes["/hidden"]),
        ]  # fmt: skip
        assert [message[1:3] for message in alice.interrupts] == [(nodes["/"], 0), (nodes["/hidden"], 0)]
        assert await changes(alice, alices) == (alices, [])
        assert (await alice.call(calls["read"], rng, 0, areas=(8,)))[0] == Status.STALE_HANDLE
        assert (await alice.call(numbers.INFO, gone))[0] == Status.STALE_HANDLE
        assert (await alice.call(calls["read"], kept, 0, areas=(8,)))[0] == 0

        assert await walk(bob) == SEEN_BY_BOB and (await changes(bob, bobs))[1] == []
        assert (await bob.call(numbers.GET_STATUS, disk))[0] == Status.STALE_HANDLE
        assert (await bob.call(numbers.OPEN, bobs_node, 0))[0] == Status.NOT_ALLOWED
        assert await bob.core(numbers.GET_STATUS, below) == 15
        async with attached(host) as ours:
            await ours.open("/disk")


@needs_root
async def test_who_may_not_attach_any_more_is_shown_out(tmp_path: Path) -> None:
    async with serving(tmp_path, TWO_USERS) as (host, reloads), of(host, ALICE) as alice:
        with connected(host, connect(host.socket, BOB)) as bob:
            await bob.greet(hello(name="vm-1"))
            (tmp_path / "machine.toml").write_text(TWO_USERS.replace(str(BOB), str(BOB + 5)) + DEVICES)
            await reloads.begin()
            status, text = await bob.ended()
            assert status == Status.NOT_ALLOWED and str(BOB) in text
        assert await walk(alice) == SEEN_BY_ALICE


@pytest.mark.spec("R-1")
@needs_root
async def test_who_comes_back_finds_what_holds_now(tmp_path: Path) -> None:
    """By the groups that they have now, too."""
    async with serving(tmp_path, TWO_USERS) as (host, _):
        token = os.urandom(16)
        async with of(host, ALICE, token=token, regions=1) as alice:
            rng, _ = await alice.open("/rng")
            host.guests.policy = Policy((
                Rule("alice", Who(frozenset({ALICE})), open=("bus/open",)),
                Rule("group", Who(groups=frozenset({60100})), open=("disk",)),
            ))  # fmt: skip
            with connected(host, connect(host.socket, ALICE, ALICE, [60100])) as again:
                welcome = await again.greet(hello(name="raw", token=token, regions=((ADDRESS, PAGE),)), alice.fds)
                assert welcome[-1] is True
                again.seq = alice.seq
                assert await walk(again) == {"/", "/bus", "/bus/open", "/disk"}
                assert (await again.call(numbers.GET_STATUS, rng))[0] == Status.STALE_HANDLE
                host.guests.policy = Policy((Rule("alice", Who(frozenset({ALICE})), guests=("other",)),))
                with connected(host, connect(host.socket, ALICE)) as last:
                    last.send(hello(name="raw", token=token, regions=((ADDRESS, PAGE),)), alice.fds)
                    assert (await last.ended())[0] == Status.NOT_ALLOWED
                assert token not in host.guests.by_token


@needs_root
async def test_another_life_of_the_host_obeys_its_own_policy(tmp_path: Path) -> None:
    """What a guest may not have there any more it has not: it is told, and one that may not attach is gone."""
    async with serving(tmp_path, TWO_USERS) as (host, _):
        tokens = [os.urandom(16) for _ in range(3)]
        async with (of(host, ALICE, token=tokens[0]) as alice, of(host, BOB, "vm-1", token=tokens[1]),
                    of(host, BOB, "vm-2", token=tokens[2]) as second):  # fmt: skip
            rng, _ = await alice.open("/rng")
            kept, _ = await alice.open("/bus/open")
            await second.open("/hidden")
            since, _ = await changes(alice, host.tree.handles.following)
            saved, fds = host.save()
            fds = [os.dup(fd) for fd in fds]
    policy = f"""
        [policy.alice]
        users = [{ALICE}]
        open = ["bus/open", "disk"]
        [policy.bob]
        users = [{BOB}]
        guests = ["vm-1"]
    """
    (tmp_path / "machine.toml").write_text(policy + DEVICES)
    async with hostd.serve(tmp_path / "machine.toml", tmp_path / "run", saved=saved, fds=fds) as host:
        (tmp_path / "run").chmod(0o711)
        assert {guest.name for guest in host.guests.by_token.values()} == {"raw", "vm-1"}
        assert not by_path(host.openers()).get("/hidden") and not by_path(host.openers()).get("/rng")
        with connected(host, connect(host.socket, ALICE)) as again:
            again.seq = alice.seq
            assert (await again.greet(hello(name="raw", token=tokens[0])))[-1] is True
            assert await walk(again) == {"/", "/bus", "/bus/open", "/disk"}
            assert (await again.call(numbers.GET_STATUS, rng))[0] == Status.STALE_HANDLE
            assert await again.core(numbers.GET_STATUS, kept) == 15
            _, told = await changes(again, since)
            assert [(what, host.tree.nodes[node].path) for what, node, _ in told] == [(numbers.REMOVED, "/rng")]
        for guest in list(host.guests.by_token.values()):
            host.guests.end(guest, Status.RESET, "the test is over")


async def test_a_rule_without_users_is_for_guests_of_ones_own(tmp_path: Path) -> None:
    policy = '[policy.vms]\nguests = ["vm-?"]\nopen = ["rng"]\n[policy.second]\nguests = ["vm-2"]\nsee = ["disk"]\n'
    async with serving(tmp_path, policy) as (host, _):
        for name, sees in (("vm-1", {"/", "/rng"}), ("vm-2", {"/", "/rng", "/disk"}), ("vm-10", None)):
            async with attached(host, name=name) as guest:
                assert await walk(guest) == (sees or {node.path for node in host.tree.root.walk()})


@needs_root
def test_all_groups_count_however_many_there_are(tmp_path: Path) -> None:
    tmp_path.chmod(0o711)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "x.sock"))
        (tmp_path / "x.sock").chmod(0o666)
        listener.listen()
        for groups in ([], [60_100], [60_100, *range(61_000, 62_000)]):
            with connect(tmp_path / "x.sock", BOB, 60_000, groups), listener.accept()[0] as sock:
                assert peer(sock) == Peer(BOB, (60_000, *groups))


@pytest.mark.parametrize(
    ("pattern", "covers", "leads", "neither"),
    [
        ("*", {"/a", "/a/b"}, {"/"}, set()),
        ("rng", {"/rng", "/rng/below"}, {"/"}, {"/rng2", "/a/rng", "/RNG"}),
        ("/bus/*", {"/bus/a", "/bus/a/b"}, {"/", "/bus"}, {"/busy", "/a/b"}),
        ("b?s/[ab]*", {"/bus/a1", "/bas/b"}, {"/bus"}, {"/bs/a", "/bus/c"}),
        ("*/disk", {"/a/disk", "/b/disk/c"}, {"/a", "/disk"}, {"/a/b/disk", "/a/b"}),
    ],
)
def test_a_pattern_is_matched_name_by_name(pattern: str, covers: set[str], leads: set[str], neither: set[str]) -> None:
    it = Pattern(pattern)
    for paths, expected in ((covers, (True, True)), (leads, (False, True)), (neither, (False, False))):
        assert {path: (it.covers(path), it.leads(path)) for path in paths} == dict.fromkeys(paths, expected)


def test_a_guest_may_do_what_any_of_its_rules_allows() -> None:
    alice = Who(frozenset({ALICE}))
    policy = Policy((
        Rule("one", alice, open=("a",)), Rule("two", alice, ("vm-*",), see=("b",)), Rule("ours", None, open=("c",)),
    ))  # fmt: skip
    peers = {"alice": Peer(ALICE, ()), "ours": Peer(os.geteuid(), ()), "bob": Peer(BOB, (ALICE,))}
    assert policy.rights(peers["alice"], "x") == (("one",), ("a",), ())
    assert policy.rights(peers["alice"], "vm-1") == (("one", "two"), ("a",), ("b",))
    assert policy.rights(peers["ours"], "x") == (("ours",), ("c",), ())
    assert policy.lets_others_in and not Policy(policy.rules[2:]).lets_others_in
    with pytest.raises(NotAllowed):
        policy.rights(peers["bob"], "x")


#: A table, the place of the mistake, and what the line says.
MISTAKES = [
    ("[policy]\nusers = [1]", "policy.users", ["must be a table: [policy.NAME]"]),
    ("[policy.a]\nuser = [1]", "policy.a.user", ["did you mean 'users'", "users, groups, guests, open, see"]),
    ("[policy.a]\nusers = 1", "policy.a.users", ["must be an array, not a whole number"]),
    ("[policy.a]\nusers = ['rot']", "policy.a.users", ["there is no user 'rot' (did you mean 'root'?)"]),
    ("[policy.a]\nusers = ['a\\u0000b']", "policy.a.users", ["there is no user"]),
    ("[policy.a]\nusers = [-1]", "policy.a.users", ["-1 is neither the name nor the number of a user"]),
    ("[policy.a]\nusers = [4294967295]", "policy.a.users", ["4294967295 is neither"]),
    ("[policy.a]\nusers = [true]", "policy.a.users", ["True is neither"]),
    ("[policy.a]\nusers = []", "policy.a", ["is for nobody"]),
    ("[policy.a]\ngroups = ['rot']", "policy.a.groups", ["there is no group 'rot' (did you mean 'root'?)"]),
    ("[policy.a]\nguests = []", "policy.a.guests", ["is for no guest"]),
    ("[policy.a]\nguests = [1]", "policy.a.guests", ["1 must be a string"]),
    ("[policy.a]\nopen = ['a//b']", "policy.a.open", ["'a//b' is no path"]),
    ("[policy.a]\nsee = ['']", "policy.a.see", ["'' is no path"]),
    ("[policy.a]\nsee = [['a']]", "policy.a.see", ["must be a string"]),
    ("[control.lok]\nusers = [1]", "control.lok", ["did you mean 'look'", "look, operate, load"]),
    ("[control]\nlook = [1]", "control.look", ["must be a table, not an array"]),
    ("[control.look]", "control.look", ["is for nobody"]),
    ("[control.look]\nusers = ['rot']", "control.look.users", ["there is no user 'rot'"]),
]


@pytest.mark.parametrize(("text", "place", "says"), MISTAKES, ids=[text for text, _, _ in MISTAKES])
def test_a_mistake_is_one_line_with_its_place(tmp_path: Path, text: str, place: str, says: list[str]) -> None:
    file = tmp_path / "machine.toml"
    file.write_text(text)
    with pytest.raises(hostd.MachineError) as error:
        Machine.load(file)
    (line,) = error.value.lines
    assert line.startswith(f"{file}: {place}: ") and all(part in line for part in says), line


def test_a_pattern_that_no_device_fits_is_told_and_no_mistake(tmp_path: Path) -> None:
    file = tmp_path / "machine.toml"
    file.write_text('[policy.a]\nopen = ["dsk", "bus/*", "*"]\nsee = ["rng", "/zzz"]\n' + DEVICES)
    assert Machine.load(file).remarks == (
        f"{file}: policy.a.open: no device of this file is 'dsk' (did you mean 'disk'?)",
        f"{file}: policy.a.see: no device of this file is '/zzz'",
    )  # fmt: skip


def test_names_are_numbers_and_without_devices_all_are_open(tmp_path: Path) -> None:
    file = tmp_path / "machine.toml"
    file.write_text(
        "[policy.a]\nusers = ['root', 7]\ngroups = ['root']\n[policy.b]\nsee = ['*']\n[policy.c]\nopen = []"
    )
    assert Machine.load(file).policy.rules == (
        Rule("a", Who(frozenset({0, 7}), frozenset({0})), open=("*",)), Rule("b", see=("*",)), Rule("c"),
    )  # fmt: skip
