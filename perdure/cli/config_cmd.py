"""`perdure config`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from perdure.cli import session
from perdure.cli.lazy import Group
from perdure.cli.options import config_option, json_option


@click.group(cls=Group)
def config() -> None:
    """Check the configuration."""


@config.command()
@click.option("--show", is_flag=True, help="Print every setting with the value that holds.")
@json_option
@config_option
@click.pass_context
def check(ctx: click.Context, show: bool, as_json: bool, config: Path | None) -> None:
    """Look for mistakes in the configuration.

    In its file, and in PERDURE_... variables. Prints all mistakes at once, each with its line. Exits with 2 if there
    are any.
    """
    from perdure.cli.documents import print_document
    from perdure.errors import ConfigError

    try:
        settings = session.load(config)
    except ConfigError as error:
        if not as_json:
            raise
        print_document({"ok": False, "mistakes": _mistakes(error)})
        ctx.exit(2)
    source = None if settings.source is None else os.fsdecode(settings.source)
    values = _without_secrets(settings.as_tables())
    if as_json:
        print_document({"ok": True, "source": source, "mistakes": [], **({"settings": values} if show else {})})
        return
    if show:
        _print_values(values)
    click.echo(f"{source or 'no configuration file; the defaults hold'}: ok", err=show)


def _without_secrets(tables: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    """An address may have a password in it."""
    from perdure.redact import scrub

    return {
        section: {name: scrub(value) if isinstance(value, str) else value for name, value in table.items()}
        for section, table in tables.items()
    }


def _mistakes(error: Exception) -> list[dict[str, object]]:
    found = getattr(error, "mistakes", None)
    if not found:
        return [{"line": None, "key": "", "value": None, "message": str(error)}]
    return [
        {"line": m.line, "key": m.key, "value": None if m.value is None else str(m.value), "message": m.message}
        for m in found
    ]


def _print_values(values: dict[str, dict[str, object]]) -> None:
    """As TOML: JSON's strings, numbers and lists are TOML's, too."""
    import msgspec

    from perdure.cli.text import paint

    for section, settings in values.items():
        click.echo(paint(f"[{section}]", bold=True))
        for name, value in settings.items():
            click.echo(f"{name} = {msgspec.json.encode(value).decode()}")
        click.echo()
