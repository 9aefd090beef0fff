"""What a worker knows about its handlers: just enough to call them, looked up by kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from perdure.job import Job

Classes = tuple[type[BaseException], ...]


class Handler:
    """One handler, with what the hot path needs as plain attributes."""

    __slots__ = (
        "bind",
        "function",
        "is_async",
        "kind",
        "needs",
        "permanent",
        "slow",
        "transient",
        "wants_context",
    )

    def __init__(self, job: Job[..., Any]) -> None:
        self.kind: str = job.spec.name
        self.is_async: bool = job.spec.lane == "async"
        self.function: Callable[..., Any] = job.function
        self.bind: Callable[[str], dict[str, Any]] = job.bind
        self.wants_context: bool = job.signature.takes_context
        #: Dependencies without which it is not run; empty for most.
        self.needs: tuple[str, ...] = tuple(job.spec.needs)
        self.permanent: Classes = job.permanent
        self.transient: Classes = job.transient
        #: Its last run took long, or it has not run yet: nothing finished should wait behind it.
        self.slow = True


class Handlers:
    """All handlers of a worker by kind."""

    def __init__(self, jobs: Iterable[Job[..., Any]]) -> None:
        self._by_kind = {handler.kind: handler for handler in map(Handler, jobs)}
        #: The handler of a kind, or None.
        self.get: Callable[[str], Handler | None] = self._by_kind.get
        #: Kinds whose jobs go to the async lane. Unknown ones do not: the sync lane refuses them.
        self.async_kinds = frozenset(kind for kind, handler in self._by_kind.items() if handler.is_async)
