"""`perdure queue`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perdure.cli import session
from perdure.cli.options import config_option, json_option

if TYPE_CHECKING:
    from perdure.wire.data import QueueView

_STATES = ("available", "running", "scheduled", "retryable", "parked", "completed", "cancelled")
#: For a terminal that is narrower than the full titles.
_SHORT_TITLES = ("avail", "run", "sched", "retry", "park", "done", "canc")
_FULL_TITLES_WIDTH = 110


@click.group()
def queue() -> None:
    """List, pause and resume queues."""


@queue.command("list")
@json_option
@config_option
def list_queues(as_json: bool, config: Path | None) -> None:
    """List the queues that have jobs, are paused, or have a limit of their own.

    With --json, one object per line.
    """
    from perdure.cli.documents import document, print_documents
    from perdure.wire.control import ListQueues

    with session.open_queue(config) as opened:
        views: list[QueueView] = opened.request(ListQueues())
    if as_json:
        print_documents(document(view) for view in views)
        return
    if not views:
        click.echo("no queues yet; the first job makes one: perdure enqueue KIND key=value")
        return
    _print(views)


@queue.command()
@click.argument("names", metavar="QUEUE...", nargs=-1, required=True)
@config_option
def pause(names: tuple[str, ...], config: Path | None) -> None:
    """Begin nothing more from these queues.

    What runs goes on; new jobs are taken in and wait. A pause outlasts restarts, until `perdure queue resume`.
    """
    from perdure.cli.verdicts import who
    from perdure.wire.control import PauseQueue

    _each(config, names, lambda name: PauseQueue(name, who()), "paused")


@queue.command()
@click.argument("names", metavar="QUEUE...", nargs=-1, required=True)
@config_option
def resume(names: tuple[str, ...], config: Path | None) -> None:
    """Let these queues go on."""
    from perdure.cli.verdicts import who
    from perdure.wire.control import ResumeQueue

    _each(config, names, lambda name: ResumeQueue(name, who()), "resumed")


def _each(config: Path | None, names: tuple[str, ...], request: Callable[[str], Any], done: str) -> None:
    from perdure.names import check_name

    for name in names:  # all of them before the first is touched
        check_name("queue", name)
    with session.open_queue(config, create=True) as opened:
        for name in names:
            opened.request(request(name))
            click.echo(f"{name} {done}")


def _print(views: list[QueueView]) -> None:
    from perdure.cli.table import Column, print_table, terminal_width
    from perdure.cli.text import ago
    from perdure.clock import SystemClock

    now = SystemClock().now_ms()
    width = terminal_width()
    limited = any(view.when_full for view in views)
    wide = width is None or width >= _FULL_TITLES_WIDTH + 30 * limited
    # On a narrow terminal limits take the place of what has ended.
    states = _STATES if wide or not limited else _STATES[:5]
    titles = states if wide else _SHORT_TITLES[: len(states)]
    columns = [
        Column("QUEUE", flexible=True),
        *(Column(title.upper(), right=True) for title in titles),
        *([Column("DEPTH", right=True), Column("FULL", right=True), Column("THEN")] if limited else []),
        Column("PAUSED", flexible=True),
    ]
    print_table(
        columns,
        (
            [
                view.name,
                *(f"{view.counts.get(state, 0):,}" for state in states),
                *(_limits(view) if limited else []),
                None if view.paused_at is None else f"{ago(view.paused_at, now)} by {view.paused_by}",
            ]
            for view in views
        ),
    )


def _limits(view: QueueView) -> list[str | None]:
    """What waits and how much may, how full that is, and what becomes of new jobs then."""
    from perdure.cli.text import span

    waiting = sum(view.counts.get(state, 0) for state in ("available", "scheduled", "retryable", "parked"))
    if not view.when_full:
        return [f"{waiting:,}", None, None]
    limits = [f"{view.max_depth:,}"] if view.max_depth else []
    limits += [span(view.max_age_ms)] if view.max_age_ms else []
    return [f"{waiting:,}/{' or '.join(limits)}", f"{view.pressure:.0%}", view.when_full]
