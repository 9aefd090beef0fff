"""Dead letters as people read them."""

from __future__ import annotations

from collections.abc import Sequence

import click

from perdure.cli.documents import parse_json
from perdure.cli.error_text import last_headline, print_errors, print_history
from perdure.cli.job_text import attempts, blob_text, print_json
from perdure.cli.table import Column, print_pairs, print_table
from perdure.cli.text import ago, clean, moment_and_ago, paint, span
from perdure.clock import SystemClock
from perdure.wire.data import DeadView

_REASONS = {
    "permanent": "its error is permanent",
    "attempts": "its attempts are used up",
    "interruptions": "its worker died too often while it ran",
    "shed": "its queue was full",
}
_COLUMNS = (
    Column("ID", right=True),
    Column("KIND", flexible=True),
    Column("DIED"),
    Column("REASON"),
    Column("TRY", right=True),
    Column("LAST ERROR", flexible=True),
    Column("ARGUMENTS", flexible=True),
)


def print_dead_letters(letters: Sequence[DeadView], *, filtered: bool, resolved: bool) -> None:
    """A table of dead letters, or that there are none."""
    if not letters:
        click.echo("no dead letter matches" if filtered else "no dead letters")
        return
    now = SystemClock().now_ms()
    columns = (*_COLUMNS, Column("DECISION")) if resolved else _COLUMNS
    print_table(columns, (_row(letter, now, resolved) for letter in letters))


def print_dead_letter(letter: DeadView) -> None:
    """The whole story."""
    now = SystemClock().now_ms()
    tags = parse_json(letter.tags, [])
    print_pairs(
        (
            ("job", paint(f"{letter.id}", bold=True)),
            ("kind", clean(letter.kind)),
            ("state", paint("dead", "red") + f": {_REASONS.get(letter.reason, clean(letter.reason))}"),
            ("decision", _decision(letter, now)),
            ("queue", f"{clean(letter.queue)}, priority {letter.priority}"),
            ("attempts", attempts(letter)),
            ("timeout", "none" if not letter.timeout_ms else span(letter.timeout_ms)),
            ("created", moment_and_ago(letter.created_at, now)),
            ("last started", None if letter.attempted_at is None else moment_and_ago(letter.attempted_at, now)),
            ("died", moment_and_ago(letter.died_at, now)),
            ("deaths", letter.deaths if letter.deaths > 1 else None),
            ("fingerprint", clean(letter.fingerprint)),
            ("unique key", None if letter.unique_key is None else clean(letter.unique_key)),
            ("tags", clean(", ".join(map(str, tags))) if tags else None),
            ("payload", blob_text(letter.blob)),
        )
    )
    print_json("arguments", letter.args)
    if letter.last_args != letter.args:
        print_json("arguments as last run", letter.last_args)
    print_errors(parse_json(letter.errors, []), now)
    history = parse_json(letter.history, [])
    print_history(history if isinstance(history, list) else [], now)
    if letter.resolution is None:
        hint = f"perdure dead replay {letter.id} [--set key=value], or perdure dead discard {letter.id}"
        click.echo(f"\n{paint(hint, dim=True)}")


def _row(letter: DeadView, now: int, resolved: bool) -> list[object]:
    row: list[object] = [
        letter.id,
        letter.kind,
        ago(letter.died_at, now),
        letter.reason,
        f"{letter.attempt}",
        last_headline(parse_json(letter.errors, [])),
        letter.last_args,
    ]
    return [*row, letter.resolution] if resolved else row


def _decision(letter: DeadView, now: int) -> str:
    if letter.resolution is None:
        return "waits for one"
    return f"{letter.resolution} {moment_and_ago(letter.resolved_at, now)}"
