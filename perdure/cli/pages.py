"""Long lists, fetched page by page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from msgspec.structs import replace

from perdure.cli.session import Session
from perdure.wire.control import ListDead, ListJobs
from perdure.wire.data import DeadFilter, DeadView, JobFilter, JobView

#: Entries per request: the daemon's default for limits.list.
PAGE = 1000

T = TypeVar("T")


def job_pages(session: Session, which: JobFilter) -> Iterator[list[JobView]]:
    """Pages of up to `which.limit` jobs in all."""
    left = which.limit
    while left > 0:
        page: list[JobView] = session.request(ListJobs(replace(which, limit=min(left, PAGE))))
        if page:
            yield page
        if len(page) < min(left, PAGE):
            return
        left -= len(page)
        which = replace(which, before=page[-1].id)


def dead_pages(session: Session, which: DeadFilter, limit: int | None) -> Iterator[list[DeadView]]:
    """Pages of up to `limit` dead letters in all (None: all of them)."""
    left = limit
    while left is None or left > 0:
        wanted = PAGE if left is None else min(left, PAGE)
        page: list[DeadView] = session.request(ListDead(replace(which, limit=wanted)))
        if page:
            yield page
        if len(page) < wanted:
            return
        left = None if left is None else left - len(page)
        which = replace(which, after=page[-1].id)


def chunks(values: Sequence[T], size: int = PAGE) -> Iterator[list[T]]:
    """`values` in pieces of `size`."""
    for start in range(0, len(values), size):
        yield list(values[start : start + size])
