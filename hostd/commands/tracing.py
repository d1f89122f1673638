"""`hostd trace`: what happens in a running host, a line for each event."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from hcall.text import counted, harmless, shown, sized

from .remote import ask, follow

_NARROW: Final = 80  # columns: names and times are shorter there
_LEAST: Final = 20  # columns of what happened: a terminal with fewer breaks the lines
_HEX: Final = 1 << 32  # from here on numbers are handles, addresses and bits
_TOOK: Final = 7
Event = dict[str, Any]


class _Line(NamedTuple):
    """One event for people."""

    what: str
    style: str = ""  # SGR


def _call(event: Event) -> _Line:
    areas = "".join(f" {kind} {sized(event[kind])}" for kind in ("data", "room") if event[kind])
    made = f"{event['call']}({_listed(event['args'])}){areas}"
    if event["status"] is None:
        return _Line(f"{made} -> later #{event['id']}")
    return _outcome(made, event)


def _answer(event: Event) -> _Line:
    return _outcome(f"#{event['id']} {event['call']}", event)


def _outcome(made: str, event: Event) -> _Line:
    if event["status"] == "OK":
        return _Line(f"{made} -> {'ok' if event['answer'] is None else _value(event['answer'])}")
    return _Line(f"{made} -> {event['status']}: {event['answer']}", "31")


_EVENTS: Final[dict[str, Callable[[Event], _Line]]] = {
    "call": _call,
    "answer": _answer,
    "interrupt": lambda event: _Line(f"interrupt {event['vector']} {event['count']}", "33"),
    "plug": lambda event: _Line(f"plugged {shown(event['compatible'])}".rstrip(), "32"),
    "leaving": lambda event: _Line("leaving: guests are asked to let go of it", "32"),
    "unplug": lambda event: _Line("unplugged", "32"),
    "attach": lambda event: _Line("attached", "36"),
    "unlink": lambda event: _Line("its link is lost; it may come back", "36"),
    "resume": lambda event: _Line("back", "36"),
    "end": lambda event: _Line(f"gone: {event['why']}", "36"),
    "lost": lambda event: _Line(f"{counted(event['count'], 'event')} lost here: not read fast enough", "31"),
}


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(map(_value, values))


def _value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:#x}" if abs(value) >= _HEX else str(value)
    if isinstance(value, str):
        return value if value == "..." else json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return f"({_listed(value)})"
    if isinstance(value, dict):
        if value.keys() == {"bytes", "hex"}:
            return _bytes(value)
        return f"{{{', '.join(f'{key}: {_value(item)}' for key, item in value.items())}}}"
    return str(value)


def _bytes(value: Event) -> str:
    first = bytes.fromhex(value["hex"])
    return repr(first) + (f"... {sized(value['bytes'])}" if value["bytes"] > len(first) else "")


def _took(seconds: float | None) -> str:
    """`12 us`, `1.5 ms`, `3 s`."""
    if seconds is None:
        return ""
    for unit, size in (("us", 1e-6), ("ms", 1e-3)):
        if seconds < 1000 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.4g} s"


class Printer:
    """Lines with aligned columns: as wide as what was seen so far needs."""

    def __init__(
        self, columns: int | None, colour: bool, guests: Iterable[str] = (), devices: Iterable[str] = ()
    ) -> None:
        """A terminal has *columns*; what goes elsewhere is never cut.  *guests* and *devices* are those to expect."""
        self.columns, self._colour = columns, colour
        self._guest = self._device = 6
        self._widen("-", "-")
        for guest in guests:
            self._widen(guest, "-")
        for device in devices:
            self._widen("-", device)

    def heading(self) -> str:
        """The first line."""
        return self._style(self._row("TIME", "TOOK", "GUEST", "DEVICE", "WHAT"), "1")

    def line(self, event: Event) -> str:
        """*event*, in one line that does nothing to a terminal."""
        known = _EVENTS.get(event["event"])
        what = known(event) if known is not None else _Line(json.dumps(event))
        time = f"{event['time']:.{3 if self._narrow else 6}f}" if "time" in event else ""
        guest, device = (harmless(event.get(key) or "-", "") for key in ("guest", "device"))
        self._widen(guest, device)
        return self._style(
            self._row(time, _took(event.get("seconds")), guest, device, harmless(what.what, "")), what.style
        )

    @property
    def _narrow(self) -> bool:
        return self.columns is not None and self.columns < _NARROW

    def _widen(self, guest: str, device: str) -> None:
        self._guest, self._device = max(self._guest, len(guest)), max(self._device, len(device))

    def _row(self, time: str, took: str, guest: str, device: str, what: str) -> str:
        most = 10 if self._narrow else 16 if self.columns is not None else 64
        names = (_fit(text, min(width, most)) for text, width in ((guest, self._guest), (device, self._device)))
        start = "  ".join((f"{time:>{8 if self._narrow else 12}}", f"{took:>{_TOOK}}", *names, ""))
        if self.columns is not None:
            what = _cut(what, max(_LEAST, self.columns - _wide(start)))
        return f"{start}{what}"

    def _style(self, line: str, style: str) -> str:
        return f"\x1b[{style}m{line}\x1b[m" if self._colour and style else line


def _wide(text: str) -> int:
    """Columns of *text* at a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _cut(text: str, width: int) -> str:
    """As much of *text* as goes into *width* columns."""
    if _wide(text) <= width:
        return text
    from rich.cells import set_cell_size

    return f"{set_cell_size(text, width - 1).rstrip()}…"


def _fit(text: str, width: int) -> str:
    """*text* in exactly *width* columns."""
    text = _cut(text, width)
    return text + " " * (width - _wide(text))


def trace(socket: str | None, device: str | None, as_json: bool) -> None:
    """Print what happens until Ctrl-C.  Raises Failure when the host is gone, or has no such *device*."""
    out = sys.stdout
    terminal = out.isatty()
    printer: Printer | None = None
    try:
        if not as_json:
            there = ask(socket, "ls")
            plain = not terminal or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
            users = {guest for each in there for guest in each["guests"]}
            printer = Printer(_columns(terminal), not plain, users, [each["path"] for each in there])
        first = printer is not None
        for lines in follow(socket, "trace", out.fileno(), device=device):
            if printer is None:
                out.write(lines.decode())
            else:
                printer.columns = _columns(terminal)
                if first:
                    print(printer.heading())
                    first = False
                for line in lines.splitlines():
                    print(printer.line(json.loads(line)))
            out.flush()
    except KeyboardInterrupt:  # which is how one ends it, as `tail -f`
        pass


def _columns(terminal: bool) -> int | None:
    return shutil.get_terminal_size().columns if terminal else None
