"""`perdure queue`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perdure.cli import session
from perdure.cli.lazy import Group
from perdure.cli.options import config_option, json_option

if TYPE_CHECKING:
    from perdure.wire.data import QueueView

_STATES = ("available", "running", "scheduled", "retryable", "parked", "completed", "cancelled")
#: For a terminal that is narrower than the full titles.
_SHORT_TITLES = ("avail", "run", "sched", "retry", "park", "done", "canc")
_FULL_TITLES_WIDTH = 110


@click.group(cls=Group)
def queue() -> None:
    """List, pause and resume queues."""


@queue.command("list")
@json_option
@config_option
def list_queues(as_json: bool, config: Path | None) -> None:
    """List queues: their jobs, pauses and limits.

    Those that have jobs, are paused, or have a limit of their own. With --json, one object per line.
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

    _each(config, names, lambda name: PauseQueue(name, who()), "paused", _never_used)


@queue.command()
@click.argument("names", metavar="QUEUE...", nargs=-1, required=True)
@config_option
def resume(names: tuple[str, ...], config: Path | None) -> None:
    """Let these queues go on."""
    from perdure.cli.verdicts import who
    from perdure.wire.control import ResumeQueue

    _each(config, names, lambda name: ResumeQueue(name, who()), "resumed", _not_paused)


def _each(
    config: Path | None,
    names: tuple[str, ...],
    request: Callable[[str], Any],
    done: str,
    strange: Callable[[str, Mapping[str, QueueView], AbstractSet[str]], str],
) -> None:
    """Do it for each queue; `strange` says what may be a mistake in a name, "" if nothing is."""
    from perdure.names import check_name
    from perdure.wire.control import ListKinds, ListQueues

    for name in names:  # all of them before the first is touched
        check_name("queue", name)
    with session.open_queue(config, create=True) as opened:
        known: dict[str, QueueView] = {view.name: view for view in opened.request(ListQueues())}
        declared = {spec.queue for spec in opened.request(ListKinds()) if spec.queue}
        for name in names:
            opened.request(request(name))
            click.echo(f"{name} {done}")
            if text := strange(name, known, declared):
                click.echo(f"perdure: {text}", err=True)


def _never_used(name: str, known: Mapping[str, QueueView], declared: AbstractSet[str]) -> str:
    if name in known or name in declared:
        return ""
    return f"no job is known of a queue {name}, and no handler names it.{_similar(name, known.keys() | declared)}"


def _not_paused(name: str, known: Mapping[str, QueueView], _declared: AbstractSet[str]) -> str:
    paused = {view.name for view in known.values() if view.paused_at is not None}
    return "" if name in paused else f"{name} was not paused.{_similar(name, paused)}"


def _similar(name: str, known: AbstractSet[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    return f" Did you mean {close[0]}?" if close else ""


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
