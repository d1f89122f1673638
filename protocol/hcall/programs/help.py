"""What both programs are: a cyclopts App whose help is plain text, and `page`, what a command says about itself.

Cyclopts' own help is in boxes, with MACHINE.TOML for MACHINE.toml and [default: False]; and a man page needs the same
facts.  Apart from command.py, so that a library never imports cyclopts.
"""

from __future__ import annotations

import inspect
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

from cyclopts import App, Parameter
from cyclopts.argument import Argument

from .command import Exit, Failure, heading, say

_WIDTHS: Final = (50, 100)  # columns: the least and the most that help is laid out for
_NAMES: Final = 24  # columns of names: what a longer one means begins on the next line


class Entry(NamedTuple):
    """A command, an argument or an option: how it is written, and what it means."""

    name: str
    text: str


DEBUG: Final = Entry("--debug", "Show the traceback of what fails; anywhere before `--`.")  # see command.run


class Page(NamedTuple):
    """What a program, or one of its commands, says about itself."""

    usage: str
    about: list[str]  # paragraphs; one that begins with `$ ` is an example
    commands: list[Entry]
    arguments: list[Entry]
    options: list[Entry]


class Program(App):
    """An App that prints its own help."""

    def help_print(
        self,
        tokens: Annotated[str | Iterable[str] | None, Parameter(show=False)] = None,
        *,
        console: Annotated[Any, Parameter(parse=False)] = None,
    ) -> None:
        """Print the page of the command that *tokens* name."""
        least, most = _WIDTHS
        width = max(least, min(most, shutil.get_terminal_size().columns))
        print("\n".join(_lines(page(self, tokens), width)))


def new_program(name: str, about: str) -> Program:
    """A program without commands, but for those that every program has."""
    program = Program(
        name=name,
        help=about,
        help_format="plaintext",
        version=lambda: f"{name} {_version()}",
        default_parameter=Parameter(negative=""),  # no --no-json, no --empty-driver
    )
    program["--help"].help = f"Show what {name} does; after a command, what that one does."
    program["--version"].help = "Show the version."

    @program.command(name="--install-completion")
    def install_completion(
        *,
        shell: Annotated[
            Literal["bash", "zsh", "fish"] | None, Parameter(help="bash, zsh or fish; else the one you are in")
        ] = None,
        output: Annotated[
            Path | None, Parameter(alias="-o", metavar="FILE", help="write the script here, and change no other file")
        ] = None,
    ) -> None:
        """Have your shell complete commands and options."""
        from cyclopts.completion.detect import ShellDetectionError

        try:
            script = program.install_completion(shell=shell, output=output, add_to_startup=output is None)
        except ShellDetectionError:
            raise Failure("which shell is yours? name it with --shell", Exit.USAGE) from None
        say(name, f"{script} is written" + ("" if output else "; shells that you start from now on read it"))

    return program


def _version() -> str:
    import importlib.metadata

    return importlib.metadata.version("hostd")


def page(program: App, command: str | Iterable[str] | None = ()) -> Page:
    """What *program* says about itself or, if one is named, about its *command*."""
    chain, apps, _ = program.parse_commands(command)
    app = apps[-1]
    arguments: Sequence[Argument] = ()
    if app.default_command:
        with program.app_stack(apps):  # so that default_parameter is known
            arguments = app.assemble_argument_collection().filter_by(show=True)
    placed = [argument for argument in arguments if argument.index is not None]
    named = [argument for argument in arguments if argument.index is None]
    commands = _commands(app)
    words = [program.name[0], *chain]
    if commands:
        words.append("COMMAND ...")
    if named:
        words.append("[OPTIONS]")
    words += map(_word, placed)
    options = [Entry(_option(argument), _meaning(argument)) for argument in named]
    options += (entry for entry in commands if entry.name.startswith("-"))
    if app is program:
        options.append(DEBUG)
    return Page(
        usage=app.usage or " ".join(words),
        about=inspect.cleandoc(app.help).split("\n\n"),
        commands=[entry for entry in commands if not entry.name.startswith("-")],
        arguments=[Entry(argument.name, _meaning(argument)) for argument in placed],
        options=options,
    )


def _commands(app: App) -> list[Entry]:
    """What *app* can be told to do, and in one sentence what that is; options that act as commands among them."""
    names: dict[int, list[str]] = {}
    for name in app:
        if app[name].show:
            names.setdefault(id(app[name]), []).append(name)
    return [
        Entry(", ".join(sorted(same, key=len)), inspect.cleandoc(app[same[0]].help).split("\n\n")[0])
        for same in names.values()
    ]


def _word(argument: Argument) -> str:
    """A positional argument in the usage line."""
    word = f"{argument.name}..." if argument.is_var_positional() else argument.name
    return word if argument.required else f"[{word}]"


def _option(argument: Argument) -> str:
    """`-o, --output FILE`."""
    names = ", ".join(sorted(argument.names, key=len))
    if argument.is_flag():
        return names
    value = argument.parameter.metavar or argument.name.removeprefix("--").upper()
    return f"{names} {value}"


def _meaning(argument: Argument) -> str:
    """The help of *argument*, with its default if that says something, as False and () do not."""
    text, default = argument.parameter.help or "", argument.field_info.default
    if isinstance(default, str | int | float) and not isinstance(default, bool):
        text += f" (default {default:g})" if isinstance(default, float) else f" (default {default})"
    return text


def _lines(found: Page, width: int) -> Iterator[str]:
    """*found* as lines of *width* columns."""
    yield f"{heading('Usage:')} {found.usage}"
    for paragraph in found.about:
        yield ""
        yield from [f"    {paragraph}"] if paragraph.startswith("$ ") else textwrap.wrap(paragraph, width)
    for title, entries in ("Commands", found.commands), ("Arguments", found.arguments), ("Options", found.options):
        if not entries:
            continue
        yield ""
        yield heading(f"{title}:")
        indent = " " * min(_NAMES, max(len(entry.name) for entry in entries) + 4)
        for name, text in entries:
            first = f"  {name}  ".ljust(len(indent))
            if len(first) > len(indent):
                yield first.rstrip()
                first = indent
            yield from textwrap.wrap(text, width, initial_indent=first, subsequent_indent=indent)
