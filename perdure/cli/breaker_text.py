"""Breakers as people read them."""

from __future__ import annotations

from collections.abc import Sequence

import click

from perdure.cli.table import Column, print_table
from perdure.cli.text import ago, clean, moment_and_ago, paint, paint_state, span
from perdure.clock import SystemClock
from perdure.wire.data import BreakerEvent, BreakerInfo

_COLUMNS = (
    Column("BREAKER", flexible=True),
    Column("STATE", paint=paint_state),
    Column("SINCE"),
    Column("OK", right=True),
    Column("FAILED", right=True),
    Column("SLOW", right=True),
    Column("PARKED", right=True),
    Column("WHY", flexible=True),
)


def print_breakers(infos: Sequence[BreakerInfo]) -> None:
    """A table, and below it the changes that came along."""
    now = SystemClock().now_ms()
    print_table(_COLUMNS, ([*_row(info, now)] for info in infos))
    for info in infos:
        if info.events:
            click.echo(f"\n{paint(clean(info.name), bold=True)}")
            for event in info.events:
                _print_event(event, now)


def _row(info: BreakerInfo, now: int) -> tuple[object, ...]:
    return (
        info.name,
        info.state.replace("_", " "),
        ago(info.changed_at, now),
        f"{info.ok:,}",
        f"{info.failed:,}",
        f"{info.slow:,}",
        f"{info.parked:,}",
        _why(info, now) or None,
    )


def _why(info: BreakerInfo, now: int) -> str:
    """What led here, and what comes next."""
    parts = [info.reason] if info.state != "closed" else []
    if info.changed_by and info.state != "closed":
        parts.append(f"by {info.changed_by}")
    if info.state == "open":
        parts.append("until it is closed" if info.until is None else f"{span(max(0, info.until - now))} left")
    if info.state == "half_open":
        parts.append(f"job {info.probe_job} tries it" if info.probe_job else "waits for a job that tries it")
    if info.ramp:
        parts.append(f"releases {info.ramp:.0f} jobs/s")
    return ", ".join(part for part in parts if part)


def _print_event(event: BreakerEvent, now: int) -> None:
    by = f" (by {event.who})" if event.who else ""
    what = f"{event.was} -> {event.now}".replace("_", " ")
    click.echo(f"  {paint(moment_and_ago(event.at, now), dim=True)}  {clean(f'{what}: {event.reason}{by}')}")
