"""Pages of a list that stay small enough to be carried, however large the jobs on them are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from perdure.wire.data import DeadView, JobView

V = TypeVar("V", bound=JobView | DeadView)

#: Characters of arguments, errors and results after which a page ends, however few its rows; it has one at least.
PAGE_CHARACTERS = 4 * 1024 * 1024


def page(views: Iterable[V]) -> Iterator[V]:
    """The views, up to the one that fills the page. The rest is neither read nor kept."""
    room = PAGE_CHARACTERS
    for view in views:
        yield view
        room -= _size(view)
        if room <= 0:
            return


def _size(view: JobView | DeadView) -> int:
    rest = (view.result or "") if isinstance(view, JobView) else view.last_args + view.history
    return len(view.args) + len(view.errors or "") + len(rest)
