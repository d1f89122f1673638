"""The interpreter of `guestd shell`: an `ok` prompt in the manner of open firmware (IEEE 1275, 7).

It runs a line, writes what there is to show, and raises what goes wrong; it knows no terminal.
"""

from __future__ import annotations

import contextlib
import inspect
import textwrap
from collections.abc import Callable
from typing import Final, NamedTuple, TextIO, TypeVar

from hcall.errors import HcallError
from hcall.programs.command import Exit, Failure
from hcall.text import counted, harmless, shown, suggest
from hcall.wire import MAX_INLINE

from ..clients.blocking import BlockingGuest
from ..driver import Driver
from .selection import Selected
from .words import Word, bytes_of, count_of, hexdump, printable, seconds_of, split, value_of, with_hex

F = TypeVar("F", bound=Callable[..., None])

_WIDTH: Final = 80  # columns
_DUMP: Final = 256  # bytes that `read` shows, if nobody says how many


class Command(NamedTuple):
    """A word of the shell itself."""

    usage: str
    run: Callable[..., None]

    @property
    def help(self) -> list[str]:
        """How it is used, what it does in a line, and perhaps more."""
        return [self.usage, *(inspect.getdoc(self.run) or "").splitlines()]


COMMANDS: Final[dict[str, Command]] = {}


def _command(usage: str) -> Callable[[F], F]:
    """Make a method of Shell the command that *usage* begins with; its arguments are Words, its docstring its help."""

    def register(method: F) -> F:
        COMMANDS[usage.split()[0]] = Command(usage, method)
        return method

    return register


class Shell:
    """Somebody who looks around in the device tree, and calls devices."""

    def __init__(self, guest: BlockingGuest, out: TextIO, note: Callable[[str], None] | None = None) -> None:
        """Results are written to *out*; *note* is told what is no result, a line each; else *out* has that, too."""
        self.here = Selected(guest)
        self.out = out
        self.over = False  # somebody said bye
        self._tell = note or self._print

    def run_line(self, line: str) -> None:
        """Run one line.  Raises Failure, HcallError."""
        try:
            happened = self.here.follow()
            if happened:
                self._note(happened)
            words = split(line)
            if words:
                self._run(*words)
        finally:
            self.out.flush()

    def _run(self, name: Word, *words: Word) -> None:
        command = COMMANDS.get(name.text)
        if command is None:
            self.call(name, *words)
            return
        try:
            inspect.signature(command.run).bind(self, *words)
        except TypeError:
            raise Failure(f"usage: {command.usage}", Exit.USAGE) from None
        command.run(self, *words)

    def complete(self, before: str, word: str) -> list[str]:
        """What *word*, the next after *before*, may become.  Opens the device, if it can be had."""
        said = before.split()
        groups: dict[str, list[str]] = {}
        if said in ([], ["see"], ["call"], ["wait"]):
            with contextlib.suppress(HcallError, Failure):
                groups = self.here.names()
        match said:
            case []:
                names = [f"{name} " for name in (*groups.get("calls", ()), *COMMANDS)]
            case ["dev"]:
                folder = word[: word.rfind("/") + 1]
                names = [folder + child.name for child in self.here.children(self.here.path(folder))]
            case ["see"]:
                names = [*(name for group in groups.values() for name in group), *COMMANDS]
            case ["call"]:
                names = groups.get("calls", [])
            case ["wait"]:
                names = groups.get("interrupts", [])
            case ["help"]:
                names = [*COMMANDS]
            case _:
                names = []
        return sorted({name for name in names if name.startswith(word)})

    # The tree.

    @_command("dev [PATH]")
    def dev(self, path: Word | None = None) -> None:
        """Select a node: /bus/disk, disk, .. or /; alone, show it."""
        if path is None:
            self.pwd()
        else:
            self.here.select(path.text)

    @_command("device-end")
    def device_end(self) -> None:
        """Select the root again."""
        self.here.select("/")

    @_command("pwd")
    def pwd(self) -> None:
        """Show the path of the selected node."""
        self._print(self.here.at.path)

    @_command("ls")
    def ls(self) -> None:
        """List the nodes below it: handle, name, compatible."""
        children = self.here.children(self.here.at.path)
        width = max((len(child.name) for child in children), default=0)
        for child in children:
            self._print(f"{child.node:016x}  {child.name:{width}}  {shown(child.compatible)}".rstrip())

    @_command(".properties")
    def properties(self) -> None:
        """Show the properties of the node."""
        found = self.here.properties()
        width = max(map(len, found))
        for name, value in found.items():
            self._print(f"{name:{width}}  {with_hex(value)}".rstrip())

    # The words.

    @_command("words")
    def words(self) -> None:
        """List what can be said here, and what `see` knows."""
        groups = self.here.names() | {"commands": [*COMMANDS]}
        margin = max(map(len, groups)) + 2
        for group, names in groups.items():
            self._print(*textwrap.wrap(
                " ".join(names), _WIDTH, initial_indent=f"{group:{margin}}", subsequent_indent=" " * margin,
                break_on_hyphens=False, break_long_words=False,
            ))  # fmt: skip

    @_command("see NAME")
    def see(self, name: Word) -> None:
        """Say what NAME is: one of the `words`."""
        seen: list[str] = []
        if name.text in COMMANDS:
            usage, *more = COMMANDS[name.text].help
            seen += [f"command: {usage}", *more]
        properties = self.here.properties()
        if name.text in properties:
            seen.append(f"property: {with_hex(properties[name.text])}")
        if self.here.at.has_device:
            try:
                seen += self.here.about(name.text)
            except HcallError:
                if not seen:  # else that is something, though the device cannot be had
                    raise
        if not seen:
            raise self._unknown(name.text)
        self._print(*seen)

    # The device.

    @_command("call NAME [ARG ...]")
    def call(self, name: Word, *words: Word) -> None:
        """Make a call of the device, and show what it returns.

        `call` may be left out if NAME is no command.  ARG is
          a number      10 0x1f -3 1.5
          a truth       true false
          a string      text "two words" "10" str:10
          bytes         hex:0102ff
          room          room:16          for 16 bytes that come back
          data          data:text data:"two words" data:hex:0102ff
        """
        if not self.here.at.has_device or name.text not in self.here.device.calls:
            raise self._unknown(name.text)
        args: list[object] = []
        data: list[bytes] = []
        room = None
        for word in words:
            kind, _, rest = word.text.partition(":")
            if kind == "room" and not word.quoted:
                room = count_of(rest)
            elif kind == "data" and not word.quoted:
                data.append(bytes_of(Word(rest)))
            else:
                args.append(value_of(word))
        result = self.here.call(name.text, args, room, data)
        if isinstance(result, bytes):
            self._print(*hexdump(result))
        elif result is not None:
            self._print(shown(result))

    @_command("read [COUNT [AT]]")
    def read(self, count: Word | None = None, at: Word | None = None) -> None:
        """Show bytes; of a stream, as text, what has come.

        COUNT is 256, of a stream 4096, if nobody says it; AT is the first byte, or 0.
        It does not wait for what is still to come: `wait rx_ready` does.
        """
        stream = "rx_ready" in self.here.device.vectors
        wanted = count_of(count.text) if count else MAX_INLINE if stream else _DUMP
        start = count_of(at.text) if at else 0
        data, why = self.here.read(wanted, start)
        self._print(*(printable(data).splitlines() if stream else hexdump(data, start)))
        if why and not (data and stream):
            self._note(f"{why}: {len(data)} of {wanted} bytes came" if data else why)

    @_command("write TEXT [AT]")
    def write(self, text: Word, at: Word | None = None) -> None:
        r"""Write TEXT, such as "ls\n", or hex:0102ff.

        AT is the first byte, else 0; a stream has none.  In TEXT \n \r \t are as in C.
        """
        data = bytes_of(text)
        done = self.here.write(data, count_of(at.text) if at else 0)
        if done < len(data):
            raise Failure(f"{done} of {len(data)} bytes written: no room now")
        self._note(f"{counted(done, 'byte')} written")

    @_command("sync")
    def sync(self) -> None:
        """Wait until what was written is stable."""
        self.here.guest.run(Driver(self.here.device).sync())

    @_command("wait NAME [SECONDS]")
    def wait(self, name: Word, seconds: Word | None = None) -> None:
        """Wait until the interrupt NAME is raised.

        It returns at once if that has happened since it was last waited for.  If it
        does not happen within SECONDS, the line fails.
        """
        self.here.wait(name.text, None if seconds is None else seconds_of(seconds.text))

    @_command("close")
    def close(self) -> None:
        """Give the device back.

        The next word that needs it opens it again, as after power-on.  `dev` to another
        node gives it back, too.
        """
        self.here.close()

    # The shell itself.

    @_command("help [COMMAND]")
    def help(self, name: Word | None = None) -> None:
        """Say what the commands do, or more about one."""
        if name is not None:
            if name.text not in COMMANDS:
                raise Failure(f"no command {name.text!r}{suggest(name.text, COMMANDS)}", Exit.USAGE)
            self._print(*COMMANDS[name.text].help)
            return
        width = max(len(command.usage) for command in COMMANDS.values())
        for command in COMMANDS.values():
            self._print(f"{command.usage:{width}}  {command.help[1]}")

    @_command("exit")
    @_command("bye")
    def bye(self) -> None:
        """Leave; the device is given back."""
        self.over = True

    def _unknown(self, word: str) -> Failure:
        groups = self.here.names() | {"commands": [*COMMANDS]}
        for group, names in groups.items():
            if word in names and group != "calls":
                return Failure(f"{word!r} is no call, but one of the {group}: `see {word}`", Exit.USAGE)
        near = suggest(word, {name for names in groups.values() for name in names})
        return Failure(f"no word {word!r} here{near}", Exit.USAGE)

    def _print(self, *lines: str) -> None:
        for line in lines:
            print(harmless(line), file=self.out)  # it may be the host's

    def _note(self, line: str) -> None:
        self.out.flush()
        self._tell(line)
