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


@click.group()
def queue() -> None:
    """List, pause and resume queues."""


@queue.command("list")
@json_option
@config_option
def list_queues(as_json: bool, config: Path | None) -> None:
    """List the queues that have jobs or are paused.

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
    with session.open_queue(config, create=True) as opened:
        for name in names:
            opened.request(request(name))
            click.echo(f"{name} {done}")


def _print(views: list[QueueView]) -> None:
    from perdure.cli.table import Column, print_table
    from perdure.cli.text import ago
    from perdure.clock import SystemClock

    now = SystemClock().now_ms()
    states = ("available", "running", "scheduled", "retryable", "parked", "completed", "cancelled")
    columns = [
        Column("QUEUE", flexible=True),
        *(Column(state.upper(), right=True) for state in states),
        Column("PAUSED"),
    ]
    print_table(
        columns,
        (
            [
                view.name,
                *(f"{view.counts.get(state, 0):,}" for state in states),
                None if view.paused_at is None else f"{ago(view.paused_at, now)} by {view.paused_by}",
            ]
            for view in views
        ),
    )
