"""The commands as typer's application: each is imported when it is called, or when all are asked for."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from smalti.cli.commands import COMMANDS, INTERRUPTED
from smalti.cli.help import ABOUT, OPTIONS, print_help
from smalti.cli.output import notes_of_the_package
from smalti.errors import SmaltiError

# What typer raises for a command line that it does not understand: click's class, or typer's own copy of it.
_UsageError: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "UsageError")


class Commands(MutableMapping[str, Any]):
    """The commands of the table by name; each is built when it is first taken."""

    def __init__(self) -> None:
        self._built: dict[str, Any] = {}
        self._names = list(COMMANDS)

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._built:
            self._built[name] = _build(name)
        return self._built[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._built[name] = command
        if name not in self._names:
            self._names.append(name)

    def __delitem__(self, name: str) -> None:
        self._names.remove(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _build(name: str) -> Any:
    """Return typer's command of a name, imported and with its options read."""
    listed = COMMANDS[name]
    found = getattr(import_module(f"smalti.cli.{listed.module}"), listed.attribute)
    if not isinstance(found, typer.Typer):
        alone = _typer()
        alone.command(name)(found)
        return get_command(alone)
    command = get_command(found)
    command.name = name
    return command


def _typer(**how: Any) -> typer.Typer:
    return typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown", **how
    )


class _Group(TyperGroup):
    """A group whose commands are those of the table."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = Commands()

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the table's order."""
        return list(self.commands)


app = _typer(cls=_Group)


@app.callback(invoke_without_command=True, help=ABOUT)
def _smalti(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help=OPTIONS["--version"])] = False,
) -> None:
    if version:
        import smalti

        print(f"smalti {smalti.__version__}")
    elif context.invoked_subcommand is None:
        print_help()


def run(arguments: Sequence[str]) -> int:
    """Run a command; return the exit code.

    Raises:
        SmaltiError: typer does not understand the arguments.
    """
    try:
        with notes_of_the_package():
            code = app(args=list(arguments), prog_name="smalti", standalone_mode=False)
    except _UsageError as error:
        raise SmaltiError(error.format_message()) from error
    except typer.Abort:
        return INTERRUPTED
    return code if isinstance(code, int) else 0
