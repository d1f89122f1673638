"""What stands behind a console, by itself: names, links, processes, and that a start that fails leaves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
import signal
import termios
import threading
from pathlib import Path

import pytest
from port_end import End

import hostd
from hcall.kernel.claims import claim
from hostd import Machine, MachineError
from hostd.backings.named import AnyBacking as Backing

ALLOWED = (
    "cmd:COMMAND, connect:tcp:HOST:PORT, connect:unix:PATH, file:PATH, pty: or pty:LINK, tcp:HOST:PORT or unix:PATH"
)


def exclusively(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)


def target(link: Path) -> str | None:
    """Where a symbolic link leads; None: it is none."""
    return str(link.readlink()) if link.is_symlink() else None


def descriptors() -> dict[str, str]:
    return {fd.name: str(target(fd)) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()}


def ends(pidfd: int) -> bool:
    """Whether a process ends, waited for."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(2000))


def pid_of(backing: Backing) -> int:
    return int(backing.endpoint.split()[1].rstrip(":"))


def machine(folder: Path, backing: str) -> Machine:
    return Machine.from_tables({"devices": {"console": {"model": "console", "backing": backing}}}, folder)


@pytest.mark.parametrize("text", ["", "pty", "ptyx:", "cmd:", "cmd", "file:", "file", "tcp:", "unix:", "connect:"])
def test_a_name_that_is_no_backing_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError) as error:
        Backing.parse(text, Path("/folder"))
    assert str(error.value).startswith(f"{text!r} is no backing") and str(error.value).endswith(f": {ALLOWED}")


async def test_a_pty_has_its_link_while_it_is_there(tmp_path: Path) -> None:
    link = tmp_path / "tty"
    async with hostd.serve(machine(tmp_path, "pty:tty"), tmp_path / "run") as host:
        assert target(link) == host.tree.find("/console").properties()["endpoint"]
        os.close(exclusively(str(link)))
    assert target(link) is None


async def test_a_stale_link_is_replaced(tmp_path: Path) -> None:
    link = tmp_path / "tty"
    link.symlink_to("/dev/pts/of-a-killed-host")
    async with hostd.serve(machine(tmp_path, "pty:tty"), tmp_path / "run"):
        os.close(exclusively(str(link)))
    assert target(link) is None


async def test_a_link_of_a_host_that_lives_is_not_taken(tmp_path: Path) -> None:
    link = tmp_path / "tty"
    link.symlink_to("/dev/pts/of-another-host")
    with claim(link), pytest.raises(MachineError) as error:
        async with hostd.serve(machine(tmp_path, "pty:tty"), tmp_path / "run"):
            pytest.fail("it was served")
    assert str(error.value) == f"machine: devices.console: {link}: Address already in use"
    assert target(link) == "/dev/pts/of-another-host"


async def test_a_link_that_leads_to_no_terminal_stays_and_is_named(tmp_path: Path) -> None:
    link = tmp_path / "tty"
    link.symlink_to("/dev/null")
    with pytest.raises(MachineError) as error:
        async with hostd.serve(machine(tmp_path, "pty:tty"), tmp_path / "run"):
            pytest.fail("it was served")
    assert str(error.value) == f"machine: devices.console: {link}: File exists"
    assert target(link) == "/dev/null"


async def test_a_file_in_the_place_of_the_link_stays_and_is_named(tmp_path: Path) -> None:
    file = tmp_path / "tty"
    file.write_text("precious")
    with pytest.raises(MachineError) as error:
        async with hostd.serve(machine(tmp_path, "pty:tty"), tmp_path / "run"):
            pytest.fail("it was served")
    assert str(error.value) == f"machine: devices.console: {file}: File exists"
    assert file.read_text() == "precious"


async def test_a_link_that_is_anothers_by_now_is_left_alone(tmp_path: Path) -> None:
    link = tmp_path / "tty"
    async with hostd.serve(machine(tmp_path, "pty:tty"), tmp_path / "run"):
        link.unlink()
        link.symlink_to("/dev/null")
    assert target(link) == "/dev/null"


async def test_a_link_that_is_in_use_by_another_console_is_not_taken(tmp_path: Path) -> None:
    async with hostd.serve(machine(tmp_path, "pty:tty"), tmp_path / "run") as host:
        before = target(tmp_path / "tty")
        with pytest.raises(MachineError, match="tty"):
            host.plug_table("other", {"model": "console", "backing": f"pty:{tmp_path}/tty"})
        assert target(tmp_path / "tty") == before


@pytest.mark.parametrize(
    ("folder", "backing"), [("gone", "cmd:cat"), ("gone", "pty:tty"), ("gone", "file:log"), (".", "file:.")]
)
async def test_a_backing_that_cannot_start_is_one_line_and_leaves_nothing(
    tmp_path: Path, folder: str, backing: str
) -> None:
    before = descriptors()
    with pytest.raises(MachineError, match=r"^machine: devices\.console: [^\n]+$"):
        async with hostd.serve(machine(tmp_path / folder, backing), tmp_path / "run"):
            pytest.fail("it was served")
    assert descriptors().keys() == before.keys()


async def test_a_log_that_is_a_pipe_without_a_reader_does_not_hold_up_the_host(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")

    def too_long(*_: object) -> None:
        raise TimeoutError("the host waits for somebody to read the pipe")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, 1)
    try:
        Backing.parse("file:log", tmp_path).start(End())
    except TimeoutError:
        raise
    except OSError:
        pass  # refused: nobody reads
    else:
        pytest.fail("nobody reads it")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


async def test_a_command_that_takes_its_time_to_die_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(tmp_path / "grave")
    command = "trap '' HUP; echo here; read word <grave"
    backing, end = Backing.parse(f"cmd:{command}", tmp_path), End()
    backing.start(end)
    while not end.data:
        await end.news()
    pid = pid_of(backing)
    with monkeypatch.context() as patch:
        for module, name in ((os, "kill"), (signal, "pidfd_send_signal")):
            patch.setattr(module, name, lambda *_: None)  # as for one that waits for a disk
        backing.stop()
        os.getpgid(pid)  # it is there
        assert not caplog.records
        with (tmp_path / "grave").open("w") as grave:
            grave.write("now\n")
        await asyncio.to_thread(join_all, "cmd:")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not caplog.records


def join_all(name: str) -> None:
    """Wait for the threads that are called so."""
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join()


async def test_a_terminal_sends_no_more_than_there_is_space_for(tmp_path: Path) -> None:
    backing, end = Backing.parse("pty:", tmp_path), End(space=10)
    backing.start(end)
    slave = exclusively(backing.endpoint)
    try:
        os.write(slave, b"0123456789abcdef")
        while len(end.data) < 10:
            await end.news()
        for _ in range(3):  # turns of the loop in which it could send more
            await asyncio.sleep(0)
        assert end.data == b"0123456789"
        end.space = 4
        backing.resume()
        while len(end.data) < 14:
            await end.news()
        assert end.data == b"0123456789abcd"
    finally:
        os.close(slave)
        backing.stop()


async def test_a_terminal_says_when_it_takes_bytes_again(tmp_path: Path) -> None:
    backing, end = Backing.parse("pty:", tmp_path), End()
    backing.start(end)
    slave = exclusively(backing.endpoint)
    try:
        taken = 0
        while n := backing.write(b"x" * 1000):
            taken += n
        assert end.rooms == 0
        received = 0
        while received < taken:
            try:
                received += len(os.read(slave, 65536))
            except BlockingIOError:
                await asyncio.sleep(0)
        while not end.rooms:
            await end.news()
        assert backing.write(b"more") == 4
    finally:
        os.close(slave)
        backing.stop()


@pytest.mark.parametrize("data", [bytes(range(256)), b"\x03\x04\x11\x13\x1a\n\r\x7f"])
async def test_a_pty_carries_every_byte_as_it_is_both_ways(tmp_path: Path, data: bytes) -> None:
    backing, end = Backing.parse("pty:", tmp_path), End()
    backing.start(end)
    slave = exclusively(backing.endpoint)
    try:
        assert backing.write(data) == len(data)
        received = b""
        while len(received) < len(data):
            try:
                received += os.read(slave, 1000)
            except BlockingIOError:
                await asyncio.sleep(0)
        assert received == data
        os.write(slave, data)
        while len(end.data) < len(data):
            await end.news()
        assert end.data == data
    finally:
        os.close(slave)
        backing.stop()


async def test_a_program_that_closes_the_terminal_and_opens_it_again_finds_it_as_it_was(tmp_path: Path) -> None:
    backing, end = Backing.parse("pty:", tmp_path), End()
    backing.start(end)
    for word in (b"one", b"two"):
        slave = exclusively(backing.endpoint)
        os.write(slave, word)
        os.close(slave)
        while not end.data.endswith(word):
            await end.news()
        assert backing.write(b"x") == 1
    backing.stop()
    assert end.data == b"onetwo" and not end.gone


async def test_a_terminal_that_was_hung_up_on_is_the_end_and_the_next_guest_gets_another(tmp_path: Path) -> None:
    link = tmp_path / "tty"
    backing, end = Backing.parse("pty:tty", tmp_path), End()
    backing.start(end)
    kept = next(int(fd) for fd, name in descriptors().items() if name == target(link))
    null = exclusively("/dev/null")
    os.dup2(null, kept, inheritable=False)  # as vhangup(2) does, which takes root: nobody has the terminal open
    os.close(null)
    while not end.gone:
        await end.news()
    backing.resume()  # changes nothing
    backing.reset()
    assert target(link) == backing.endpoint
    slave = exclusively(str(link))
    os.write(slave, b"hello")
    while end.data != b"hello":
        await end.news()
    os.close(slave)
    backing.stop()
    assert target(link) is None


@pytest.mark.parametrize("how", ["stop", "reset"])
async def test_a_command_that_ignores_every_signal_it_can_is_gone_with_what_it_started(
    tmp_path: Path, how: str
) -> None:
    command = "trap '' HUP INT TERM; sh -c 'trap \"\" HUP; echo child $$; exec sleep 1000' & wait"
    backing, end = Backing.parse(f"cmd:{command}", tmp_path), End()
    backing.start(end)
    while b"\n" not in end.data:
        await end.news()
    pid = pid_of(backing)
    pidfds = [os.pidfd_open(pid), os.pidfd_open(int(end.data.split()[1]))]
    getattr(backing, how)()
    try:
        assert all(map(ends, pidfds))
        await asyncio.to_thread(join_all, "cmd:")
        with pytest.raises(ProcessLookupError):  # reaped: no zombie of ours
            os.kill(pid, 0)
    finally:
        for pidfd in pidfds:
            os.close(pidfd)
        if how == "reset":
            assert pid_of(backing) != pid
            backing.stop()


async def test_a_background_job_of_a_shell_is_gone_with_the_shell(tmp_path: Path) -> None:
    backing, end = Backing.parse("cmd:/bin/sh", tmp_path), End()
    backing.start(end)
    backing.write(b"sleep 1000 &\necho job'': $!\n")  # job control gives it a process group of its own
    while b"job: " not in end.data or not end.data.partition(b"job: ")[2].partition(b"\r")[1]:
        await end.news()
    job = int(end.data.partition(b"job: ")[2].split()[0])
    pidfd = os.pidfd_open(job)
    try:
        backing.stop()
        assert ends(pidfd), "it still runs"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(job, signal.SIGKILL)
        os.close(pidfd)


async def test_the_end_of_a_command_waits_until_all_that_it_wrote_is_taken(tmp_path: Path) -> None:
    backing, end = Backing.parse("cmd:printf last-words", tmp_path), End(space=0)
    backing.start(end)
    pid = pid_of(backing)
    while Path(f"/proc/{pid}").exists():  # noqa: ASYNC110, ASYNC240  # until the loop has reaped it
        await asyncio.sleep(0)
    assert not end.gone
    for space, data in ((5, b"last-"), (100, b"last-words")):
        end.space = space
        backing.resume()
        assert end.data == data
    assert end.gone
    backing.stop()


async def test_a_command_has_a_terminal_of_its_own_and_the_machine_files_folder(tmp_path: Path) -> None:
    command = "test -t 0 && test -t 1 && test -t 2 && echo all; tty; pwd; ps -o sid= -p $$ | tr -d ' '; echo $$"
    backing, end = Backing.parse(f"cmd:{command}", tmp_path), End()
    backing.start(end)
    ours = descriptors().values()  # among them the terminal, which the host holds open
    while not end.gone:
        await end.news()
    backing.stop()
    everything, terminal, folder, session, pid = end.data.decode().split()
    assert everything == "all" and terminal in ours and folder == str(tmp_path) and session == pid


async def test_a_command_inherits_no_descriptor_of_the_host(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.set_inheritable(write, False)
    backing, end = Backing.parse("cmd:ls /proc/self/fd | wc -l", tmp_path), End()
    backing.start(end)
    while not end.gone:
        await end.news()
    backing.stop()
    os.close(read)
    os.close(write)
    assert int(end.data) == 4  # 0, 1, 2 and the directory


async def test_a_terminal_can_be_resized_and_asked(tmp_path: Path) -> None:
    backing, end = Backing.parse("pty:", tmp_path), End()
    backing.start(end)
    try:
        backing.set_winsize(132, 43)
        slave = exclusively(backing.endpoint)
        rows_columns = fcntl.ioctl(slave, termios.TIOCGWINSZ, bytes(8))[:4]
        os.close(slave)
        assert rows_columns == (43).to_bytes(2, "little") + (132).to_bytes(2, "little")
        assert backing.winsize() == (132, 43)
    finally:
        backing.stop()
