"""`perdure status`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure.cli import session
from perdure.cli.options import config_option, json_option

if TYPE_CHECKING:
    from perdure.wire.control import Status, WorkerView

_STATES = ("available", "running", "scheduled", "retryable", "parked", "completed", "cancelled")


@click.command()
@json_option
@config_option
@click.pass_context
def status(ctx: click.Context, as_json: bool, config: Path | None) -> None:
    """Show what the daemon does, and how it is.

    When no daemon runs, shows what is in the queue, and exits with 3.
    """
    from perdure.wire.control import GetStatus

    with session.open_queue(config) as opened:
        found: Status = opened.request(GetStatus())
        live = opened.live
    if as_json:
        from perdure.cli.documents import document, print_document

        workers = [document(worker) for worker in found.workers]
        print_document({"running": live, **document(found), "workers": workers})
    else:
        _print(found, live)
    if not live:
        click.echo("perdure: no daemon is running. Start it with `perdure run`", err=True)
        ctx.exit(3)


def _print(found: Status, live: bool) -> None:
    from perdure.cli.lag_text import lagging
    from perdure.cli.table import print_pairs
    from perdure.cli.text import clean, paint, size, span

    lag = lagging(found)
    counts = [f"{found.counts.get(state, 0):,} {state}" for state in _STATES if found.counts.get(state)]
    print_pairs(
        (
            ("perdure", f"{found.version}, {paint(clean(found.state), 'green' if live else 'yellow')}"),
            ("pid", f"{found.pid}, up {span(found.uptime_seconds * 1000)}" if live else None),
            ("queue", f"{clean(found.store)} (durability {found.durability})"),
            ("jobs", ", ".join(counts) or "none"),
            ("dead letters", paint(f"{found.dead:,}", "red" if found.dead else None)),
            ("paused queues", clean(", ".join(found.queues_paused)) or None),
            ("open breakers", paint(clean(", ".join(found.breakers_open)), "yellow") if found.breakers_open else None),
            ("kinds", found.kinds if live else None),
            (
                "done",
                f"{found.jobs_done:,} since the start, {found.jobs_per_second:,.1f}/s on average" if live else None,
            ),
            ("memory", f"{size(found.rss_bytes)}, CPU {span(found.cpu_seconds * 1000)}" if live else None),
            ("loop lag", paint(lag, "yellow") if lag else None),
            ("subscribers", _subscribers(found)),
            ("spool", size(found.spool_bytes) if found.spool_bytes else None),
            ("free disk", size(found.disk_free_bytes) if live else None),
        )
    )
    if found.workers:
        _print_workers(found.workers)
    for warning in found.warnings:
        click.echo(f"{paint('warning', 'yellow')}  {clean(warning)}")


def _subscribers(found: Status) -> str | None:
    """Nothing while nobody has ever been too slow and nobody follows anything."""
    if not (found.subscribers or found.events_skipped):
        return None
    skipped = f", {found.events_skipped:,} entries skipped since the start" if found.events_skipped else ""
    return f"{found.subscribers:,}{skipped}"


def _print_workers(workers: list[WorkerView]) -> None:
    from perdure.cli.table import Column, print_table
    from perdure.cli.text import size, span

    click.echo()
    columns = (
        Column("WORKER", right=True),
        Column("PID", right=True),
        Column("STATE"),
        Column("UP", right=True),
        Column("DONE", right=True),
        Column("AHEAD", right=True),
        Column("MEMORY", right=True),
        Column("EXECUTES", flexible=True),
    )
    print_table(
        columns,
        (
            (
                worker.id,
                worker.pid,
                worker.state,
                span(worker.uptime_seconds * 1000),
                f"{worker.jobs_done:,}",
                worker.waiting,
                size(worker.rss_bytes),
                " ".join(map(str, worker.executing)) or None,
            )
            for worker in workers
        ),
    )
