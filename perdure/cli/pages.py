"""Long lists, fetched page by page."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from msgspec.structs import replace

from perdure.cli.session import Session
from perdure.errors import MessageTooLarge
from perdure.wire.control import ListDead, ListJobs, Request
from perdure.wire.data import DeadFilter, DeadView, JobFilter, JobView

#: Entries per request: with arguments and results as large as the default limits allow, a page still fits a message.
PAGE = 50
#: Ids per request.
CHUNK = 1000

T = TypeVar("T")


def job_pages(session: Session, which: JobFilter) -> Iterator[list[JobView]]:
    """Pages of up to `which.limit` jobs in all."""
    left = which.limit
    while left > 0:
        page: list[JobView] = _page(session, ListJobs, which, left)
        if not page:
            return
        yield page
        left -= len(page)
        which = replace(which, before=page[-1].id)


def dead_pages(session: Session, which: DeadFilter, limit: int | None) -> Iterator[list[DeadView]]:
    """Pages of up to `limit` dead letters in all (None: all of them)."""
    left = sys.maxsize if limit is None else limit
    while left > 0:
        page: list[DeadView] = _page(session, ListDead, which, left)
        if not page:
            return
        yield page
        left -= len(page)
        which = replace(which, after=page[-1].id)


def _page(session: Session, request: Callable[[Any], Request], which: JobFilter | DeadFilter, left: int) -> list[Any]:
    """The next entries, none at the end. A short page is not the end: limits.list may allow less than was asked for."""
    size = min(left, PAGE)
    while True:
        try:
            page: list[Any] = session.request(request(replace(which, limit=size)))
            return page
        except MessageTooLarge:
            if size == 1:
                raise
            size //= 2


def chunks(values: Sequence[T], size: int = CHUNK) -> Iterator[list[T]]:
    """`values` in pieces of `size`."""
    for start in range(0, len(values), size):
        yield list(values[start : start + size])
