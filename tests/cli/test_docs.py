"""The manual is complete: every command, every option, and the same words in the table of commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from perdure.cli.lazy import LazyGroup
from perdure.cli.main import cli

MANUAL = (Path(__file__).parents[2] / "docs" / "cli.md").read_text("utf-8")
#: Written elsewhere, with manuals of their own.
ELSEWHERE = {"systemd", "bench"}


def commands(group: click.Group = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Every command with its whole name."""
    ctx = click.Context(group, info_name=" ".join(("perdure", *path)))
    for name in group.list_commands(ctx):
        if not path and name in ELSEWHERE:
            continue
        command = group.get_command(ctx, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(commands())


def section(name: str) -> str:
    """What the manual says about a command: from its heading to the next."""
    match = re.search(rf"^### perdure {re.escape(name)}\b[^\n]*\n(.*?)(?=^##|\Z)", MANUAL, re.MULTILINE | re.DOTALL)
    assert match, f"docs/cli.md has no section '### perdure {name}'"
    return match[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_manual_has_the_command_and_all_its_options(name: str) -> None:
    """An option that nobody can read about might as well not exist."""
    text = section(name)
    for param in COMMANDS[name].params:
        if isinstance(param, click.Option) and "--config" not in param.opts:
            for option in param.opts:
                assert re.search(rf"`{re.escape(option)}[ `]", text), f"{name}: {option}"


def test_manual_has_nothing_that_is_gone() -> None:
    """A manual that promises more than there is."""
    for name in re.findall(r"^### perdure ([a-z ]+?)(?: [\[A-Z].*)?$", MANUAL, re.MULTILINE):
        if name.split()[0] in ELSEWHERE:
            continue
        known = {option for param in COMMANDS[name].params for option in param.opts}
        for option in re.findall(r"`(--?[a-z][a-z-]*)", section(name).partition("Options")[2]):
            assert option in known, f"{name}: {option}"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_a_configuration(name: str) -> None:
    """`--config PATH` on every command, but for the one that writes it."""
    options = {option for param in COMMANDS[name].params for option in param.opts}
    assert ("--config" in options) == (name != "init")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help(name: str) -> None:
    """`--help` with blanks in it."""
    assert COMMANDS[name].help
    for param in COMMANDS[name].params:
        assert not isinstance(param, click.Option) or param.help, param.name


def test_table_of_commands_says_what_the_commands_say() -> None:
    """The table exists so that --help need not import them; it must not tell something else."""
    dead = cli.get_command(click.Context(cli), "dead")
    assert isinstance(cli, LazyGroup)
    assert isinstance(dead, LazyGroup)
    for group in (cli, dead):
        ctx = click.Context(group)
        for name, entry in group.entries.items():
            if name not in ELSEWHERE:
                command = group.get_command(ctx, name)
                assert command is not None
                assert (command.help or "").split("\n")[0] == entry.help


def test_optional_commands_hide_when_they_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command from a module that is not there must be neither listed nor end in a traceback."""
    from perdure.cli.lazy import Entry

    group = LazyGroup("x", sections={"All": {"gone": Entry("perdure.no_such:gone", "Is not there.", optional=True)}})
    assert group.list_commands(click.Context(group)) == []
    with pytest.raises(click.UsageError, match="not part of this installation"):
        group.get_command(click.Context(group, info_name="perdure"), "gone")
