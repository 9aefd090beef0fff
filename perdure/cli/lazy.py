"""A click group that imports a command's module only when that command is run."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple

import click


class Entry(NamedTuple):
    """Where a command is ("module:attribute") and its one line of help.

    `optional`: its module may not be installed; then it is hidden, and says so when it is called.
    """

    target: str
    help: str
    optional: bool = False


class Group(click.Group):
    """A group whose options all belong to its commands, and which says so to those who give them too early."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does it, with a hint where an option belongs."""
        words = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if difflib.get_close_matches(error.option_name, error.possibilities or (), n=1, cutoff=0.75):
                raise  # a misspelt --version
            names = self.list_commands(ctx)
            command = next((word for word in words if word in names), "COMMAND")
            raise click.UsageError(
                f"there is no option {error.option_name} before the command; "
                f"options come after it: {ctx.command_path} {command} {error.option_name} …",
                ctx,
            ) from None


class LazyGroup(Group):
    """Commands by name from a table of sections; the table holds the help lines, so that `--help` imports nothing."""

    def __init__(self, *args: Any, sections: Mapping[str, Mapping[str, Entry]], **extra: Any) -> None:
        super().__init__(*args, **extra)
        self.sections = sections
        self.entries = {name: entry for section in sections.values() for name, entry in section.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands that are installed."""
        return [name for name, entry in self.entries.items() if _installed(entry)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; None for a name that is not in the table."""
        entry = self.entries.get(cmd_name)
        if entry is None:
            return None
        if not _installed(entry):
            raise click.UsageError(f"`{ctx.info_name} {cmd_name}` is not part of this installation", ctx)
        module, _, attribute = entry.target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command), entry.target
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with names that are close in the error."""
        name = args[0]
        if name in self.entries or name.startswith("-"):
            return super().resolve_command(ctx, args)
        close = difflib.get_close_matches(name, self.list_commands(ctx), n=2, cutoff=0.5)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise click.UsageError(f"there is no command {name!r}.{hint}", ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The sections of the table, without importing any command."""
        for title, entries in self.sections.items():
            rows = [(name, entry.help) for name, entry in entries.items() if _installed(entry)]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def _installed(entry: Entry) -> bool:
    if not entry.optional:
        return True
    try:
        return find_spec(entry.target.partition(":")[0]) is not None
    except ImportError:
        return False
