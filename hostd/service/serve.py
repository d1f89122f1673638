"""One hostd: a machine, served in a runtime directory until it is told to stop."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from hcall.clock import Clock, LoopClock
from hcall.rendezvous import CONTROL_SOCKET, GUEST_SOCKET, MSG_SOCKET
from hcall.saved import Saved

from ..machine.file import Machine
from ..machine.host import Host
from ..machine.identity import Identity
from ..machine.reload import Reloads, Running
from .control import Control
from .following import opened, recorded
from .sockets import let_in, listeners
from .systemd import Notifier

log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def serve(
    machine: Machine | str | Path,
    runtime_dir: str | Path | None = None,
    clock: Clock | None = None,
    identity: Identity | None = None,
    saved: Saved | None = None,
    fds: Sequence[int] = (),
) -> AsyncIterator[Host]:
    """Serve *machine*, or the machine file of that name, in this process: guests attach at `host.socket`.

    Without *runtime_dir* the sockets are in a directory of their own, which goes away with the host; *clock* is the
    system's if not given, and *identity* one that chance decides.  With what `Host.save` gave it goes on with the
    devices and guests of that host; *fds* are its own from then on.  Raises MachineError, AlreadyServed or OSError,
    and ValueError for what another version saved.
    """
    async with running(machine, runtime_dir, clock, identity, saved=saved, fds=fds) as (host, _):
        yield host


@contextlib.asynccontextmanager
async def running(
    machine: Machine | str | Path,
    runtime_dir: str | Path | None = None,
    clock: Clock | None = None,
    identity: Identity | None = None,
    given: Mapping[str, socket.socket] | None = None,
    notifier: Notifier | None = None,
    saved: Saved | None = None,
    fds: Sequence[int] = (),
    trace: Path | None = None,
) -> AsyncIterator[Running]:
    """As `serve`; *given* are sockets that are there already (`listeners`), *notifier* hears of reloads.

    All that happens goes to the file *trace*, from the first guest to the last.
    """
    if not isinstance(machine, Machine):
        machine = Machine.load(machine)
    async with contextlib.AsyncExitStack() as stack:
        directory = _from_anywhere(runtime_dir or stack.enter_context(tempfile.TemporaryDirectory(prefix="hostd-")))
        bound = stack.enter_context(listeners(directory, given, machine.msg))
        if runtime_dir is None and (machine.policy.lets_others_in or machine.roles.lets_others_in):
            directory.chmod(0o711)
        made = {name: directory / name for name in bound if name not in (given or {})}
        guests_at = _from_anywhere(bound[GUEST_SOCKET].getsockname())
        identity = identity or (Identity.heir(saved) if saved is not None else Identity())
        fd = opened(trace) if trace is not None else None
        host = Host(machine, clock or LoopClock(), guests_at, identity, saved, fds)
        if trace is not None and fd is not None:
            await stack.enter_async_context(recorded(host.trace, fd, str(trace)))
        stack.push_async_callback(host.close)
        for spec in sorted(machine.devices, key=lambda spec: spec.path.count("/")):  # what stands above comes first
            await host.bring(spec)
        host.restore()
        if machine.file is not None:  # which is read again
            host.machine = dataclasses.replace(machine, file=_from_anywhere(machine.file))
        reloads = Reloads(host, notifier or Notifier({}), partial(_let_in, made))
        stack.push_async_callback(reloads.close)
        served = Running(host, reloads)
        control = Control(served)
        stack.push_async_callback(control.close)
        await control.listen(bound[CONTROL_SOCKET].dup())
        host.guests.listen(bound[GUEST_SOCKET].dup())
        if MSG_SOCKET in bound:
            host.messengers.listen(bound[MSG_SOCKET].dup())
        _let_in(made, host.machine)
        yield served


def _let_in(sockets: Mapping[str, Path], machine: Machine) -> None:
    """Whoever the rules of *machine* are for can come to its *sockets*, but for what is told in the log."""
    for line in machine.remarks:
        log.warning("%s", line)
    guests, control = machine.policy.lets_others_in, machine.roles.lets_others_in
    others = {GUEST_SOCKET: guests, CONTROL_SOCKET: control, MSG_SOCKET: guests}
    if (trouble := let_in(sockets, others)) is not None:
        log.warning("%s", trouble)


def _from_anywhere(path: str | Path) -> Path:
    """*path*, wherever the program goes meanwhile."""
    return Path(path).absolute()
