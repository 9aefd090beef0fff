"""The errors of a job's attempts as people read them.

An error is an object: ErrorData's fields, the attempt's number and time and, when a worker died, what is known of that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click
import msgspec

from perdure.cli.text import clean, moment_and_ago, paint

#: Fields that are shown in the headline; long texts; the rest is shown as "name: value".
_HEADLINE = frozenset({"attempt", "at", "type", "message", "retryable", "error"})
_TEXTS = ("traceback", "stacks", "stack")


def print_errors(errors: Any, now: int) -> None:
    """Each attempt that went wrong: when, what, and its traceback."""
    if not errors or not isinstance(errors, list):
        return
    click.echo(f"\n{paint('errors', bold=True)}")
    for entry in errors:
        if isinstance(entry, Mapping):
            _print_error(entry, now)
        else:
            click.echo(f"  {clean(str(entry))}")


def headline(error: Mapping[str, Any]) -> str:
    """ "ValueError: no such file"."""
    nested = error.get("error")
    source = nested if isinstance(nested, Mapping) else error
    kind, message = str(source.get("type", "error")), str(source.get("message", ""))
    return f"{kind}: {message}" if message else kind


def last_headline(errors: Any) -> str:
    """The headline of the last error of a list, "-" when there is none."""
    last = errors[-1] if isinstance(errors, list) and errors else None
    return headline(last) if isinstance(last, Mapping) else "-"


def print_history(history: Sequence[Any], now: int) -> None:
    """Replays and discards: who, when, and with which edits."""
    if not history:
        return
    click.echo(f"\n{paint('history', bold=True)}")
    for entry in history:
        if not isinstance(entry, Mapping):
            click.echo(f"  {clean(str(entry))}")
            continue
        at = entry.get("at")
        rest = ", ".join(f"{key} {_short(value)}" for key, value in entry.items() if key != "at" and value is not None)
        when = moment_and_ago(at, now) if isinstance(at, int) else ""
        click.echo(f"  {when}  {clean(rest)}".rstrip())


def _print_error(entry: Mapping[str, Any], now: int) -> None:
    attempt, at = entry.get("attempt"), entry.get("at")
    when = f"attempt {attempt}" if attempt is not None else "error"
    if isinstance(at, int):
        when += f", {moment_and_ago(at, now)}"
    click.echo(f"  {paint(when, dim=True)}")
    click.echo(f"    {paint(clean(headline(entry)), 'red')}")
    source = entry["error"] if isinstance(entry.get("error"), Mapping) else entry
    for key, value in {**source, **entry}.items():
        if key in _HEADLINE or key in _TEXTS or key == "cause" or value is None:
            continue
        click.echo(f"    {clean(str(key))}: {clean(_short(value))}")
    _print_cause(source.get("cause"))
    for key in _TEXTS:
        text = entry.get(key) or source.get(key)
        if text:
            _print_block(str(text))


def _print_cause(cause: Any) -> None:
    while isinstance(cause, Mapping):
        click.echo(f"    caused by {clean(headline(cause))}")
        cause = cause.get("cause")


def _print_block(text: str) -> None:
    for line in clean(text.rstrip("\n"), lines=True).split("\n"):
        click.echo(f"      {line}")


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items())
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
