"""Jobs as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from perdure.cli.documents import parse_json
from perdure.cli.error_text import print_errors
from perdure.cli.table import Column, print_pairs, print_table
from perdure.cli.text import ago, clean, moment_and_ago, note, paint, paint_state, size, span
from perdure.clock import SystemClock
from perdure.wire.data import DeadView, JobView

_COLUMNS = (
    Column("ID", right=True),
    Column("STATE", paint=paint_state),
    Column("KIND", flexible=True),
    Column("QUEUE", flexible=True),
    Column("TRY", right=True),
    Column("WHEN"),
    Column("ARGUMENTS", flexible=True),
)


def print_jobs(views: Sequence[JobView], *, filtered: bool, limit: int) -> None:
    """A table of jobs, or what to do when there are none."""
    if not views:
        click.echo("no job matches" if filtered else "no jobs yet; try: perdure enqueue KIND key=value")
        return
    now = SystemClock().now_ms()
    print_table(_COLUMNS, (_row(view, now) for view in views))
    if len(views) == limit and not filtered:
        note(f"the newest {limit}; more with --limit")


def print_job(view: JobView) -> None:
    """Everything about one job."""
    now = SystemClock().now_ms()
    tags = parse_json(view.tags, [])
    print_pairs(
        (
            ("job", paint(f"{view.id}", bold=True)),
            ("kind", clean(view.kind)),
            ("state", paint_state(view.state) + _why(view)),
            ("queue", f"{clean(view.queue)}, priority {view.priority}"),
            ("attempts", attempts(view)),
            ("timeout", "none" if not view.timeout_ms else span(view.timeout_ms)),
            ("created", moment_and_ago(view.created_at, now)),
            ("scheduled", _scheduled(view, now)),
            ("last started", None if view.attempted_at is None else moment_and_ago(view.attempted_at, now)),
            ("finished", None if view.finalized_at is None else moment_and_ago(view.finalized_at, now)),
            ("took", _took(view)),
            ("unique key", None if view.unique_key is None else clean(view.unique_key)),
            ("tags", clean(", ".join(map(str, tags))) if tags else None),
            ("payload", blob_text(view.blob)),
            ("result", result_text(view)),
        )
    )
    print_json("arguments", view.args)
    if view.result is not None:
        print_json("result", view.result)
    print_errors(parse_json(view.errors, []), now)


def blob_text(text: str | None) -> str | None:
    """A payload or a result that is a file: how large, where, and its digest."""
    blob = parse_json(text)
    if not isinstance(blob, dict):
        return None
    where = blob.get("path") or f"in the spool ({blob.get('spool')})"
    return clean(f"{size(int(blob.get('size', 0)))}, {where}, sha256 {blob.get('sha256')}")


def result_text(view: JobView) -> str | None:
    """A result that is a file, and how to get it."""
    text = blob_text(view.result_blob)
    return None if text is None else f"{text}; `perdure result {view.id}` prints it"


def print_json(title: str, text: str) -> None:
    """JSON under a title, indented, its values unchanged."""
    import msgspec

    try:
        pretty = msgspec.json.format(text, indent=2)
    except (msgspec.DecodeError, RecursionError):
        pretty = text
    click.echo(f"\n{paint(title, bold=True)}")
    for line in clean(pretty, lines=True).split("\n"):
        click.echo(f"  {line}")


def _row(view: JobView, now: int) -> Sequence[Any]:
    state = f"{view.state} ({view.park_reason})" if view.park_reason else view.state
    return view.id, state, view.kind, view.queue, f"{view.attempt}/{view.max_attempts}", _when(view, now), view.args


def _when(view: JobView, now: int) -> str:
    if view.finalized_at is not None:
        return ago(view.finalized_at, now)
    if view.state in ("scheduled", "retryable"):
        return "due" if view.scheduled_at <= now else ago(view.scheduled_at, now)
    if view.state == "running" and view.attempted_at is not None:
        return f"for {span(max(0, now - view.attempted_at))}"
    return ago(view.created_at, now)


def _why(view: JobView) -> str:
    if not view.park_reason:
        return ""
    what, _, rest = view.park_reason.partition(":")
    name = clean(rest)
    words = {
        "kind": f"no handler named {name} is loaded",
        "breaker": f"waits until {name} is back, which costs no attempt",
        "needs": f"needs {name}, which the daemon's configuration does not know",
        "alone": "on its last life, waits for the worker that runs such jobs alone",
    }
    return f": {words.get(what) or f'waits for {clean(view.park_reason)}'}; see `perdure explain {view.id}`"


def attempts(view: JobView | DeadView) -> str:
    """How much of its two budgets a job has used."""
    return (
        f"{view.attempt - view.interruptions} of {view.max_attempts}, "
        f"interrupted {view.interruptions} of {view.max_interruptions} times"
    )


def _scheduled(view: JobView, now: int) -> str | None:
    return None if view.scheduled_at == view.created_at else moment_and_ago(view.scheduled_at, now)


def _took(view: JobView) -> str | None:
    if view.finalized_at is None or view.attempted_at is None:
        return None
    return span(max(0, view.finalized_at - view.attempted_at))
