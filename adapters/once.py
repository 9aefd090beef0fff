"""Effects that happen once, however often their job is delivered: `ctx.once(key)`.

The mark is written in the transaction of the effect, so both are there or neither is. How a mark is written is each
adapter's own business; here they come together under one name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Literal

from perdure.adapters.call import JobCall
from perdure.errors import UsageError

if TYPE_CHECKING:
    from perdure.adapters.toolbox import BlockingTools, JobTools

Scope = Literal["job", "global"]

#: The marks of the blocks that this task, or thread, is in.
_open_marks: ContextVar[frozenset[str]] = ContextVar("perdure_open_marks", default=frozenset())

#: A mark is a key of an index, and those have a limit in every database.
MOST_KEY_CHARS: Final = 256
#: Stands in the place of the job's id, which is a number, so that no key can look like another scope's mark.
_ALL_JOBS: Final = "all"


def make_mark(store_id: str, job: JobCall, key: object, scope: str = "job") -> str:
    """The mark of an effect, the same for each delivery: "STORE:JOB.CREATED_AT:KEY"; global: "STORE:all:KEY".

    Raises UsageError for a key that cannot be one.
    """
    if not isinstance(key, str) or not 1 <= len(key) <= MOST_KEY_CHARS or not key.isprintable():
        raise UsageError(
            f"once: a key has 1 to {MOST_KEY_CHARS} printable characters, got {key!r:.60}; hash a longer one"
        )
    if scope not in ("job", "global"):
        raise UsageError(f'once: scope is "job" or "global", got {scope!r:.60}')
    return f"{store_id}:{f'{job.id}.{job.created_at}' if scope == 'job' else _ALL_JOBS}:{key}"


class Once:
    """One effect of one job, for coroutines. `mark` names it in whatever store it is kept."""

    __slots__ = ("_tools", "mark")

    def __init__(self, mark: str, tools: JobTools) -> None:
        self.mark = mark
        self._tools = tools

    def postgres(self) -> AbstractAsyncContextManager[Any]:
        """One transaction with the mark: `async with once.postgres() as tx`; if `tx.first`, do it with `tx`."""
        return _alone(self.mark, self._tools.postgres.once(self.mark))

    def neo4j(self) -> AbstractAsyncContextManager[Any]:
        """One transaction with the mark: `async with once.neo4j() as tx`; if `tx.first`, do it with `tx`."""
        return _alone(self.mark, self._tools.neo4j.once(self.mark))

    def point_id(self, part: object = "") -> str:
        """The id for a point in Qdrant: the same at each delivery, so that the second one overwrites with the same."""
        return _point_id(self.mark, part)


class BlockingOnce:
    """The same for synchronous handlers: `with ctx.blocking.once("charge").postgres() as tx`."""

    __slots__ = ("_tools", "mark")

    def __init__(self, mark: str, tools: BlockingTools) -> None:
        self.mark = mark
        self._tools = tools

    def postgres(self) -> AbstractContextManager[Any]:
        """One transaction with the mark; if `tx.first`, do it with `tx`."""
        return _alone_blocking(self.mark, self._tools.postgres.once(self.mark))

    def neo4j(self) -> AbstractContextManager[Any]:
        """One transaction with the mark; if `tx.first`, do it with `tx`."""
        return _alone_blocking(self.mark, self._tools.neo4j.once(self.mark))

    def point_id(self, part: object = "") -> str:
        """The id for a point in Qdrant."""
        return _point_id(self.mark, part)


@asynccontextmanager
async def _alone(mark: str, block: AbstractAsyncContextManager[Any]) -> AsyncIterator[Any]:
    """The block, unless it is inside of another one with the same mark, for whose end it would wait for ever."""
    before = _enter(mark)
    try:
        async with block as tx:
            yield tx
    finally:
        _open_marks.set(before)


@contextmanager
def _alone_blocking(mark: str, block: AbstractContextManager[Any]) -> Iterator[Any]:
    before = _enter(mark)
    try:
        with block as tx:
            yield tx
    finally:
        _open_marks.set(before)


def _enter(mark: str) -> frozenset[str]:
    before = _open_marks.get()
    if mark in before:
        key = mark.split(":", 2)[-1]
        raise UsageError(f"once: a block with the key {key!r} is open already; one inside of it needs another key")
    _open_marks.set(before | {mark})
    return before


def _point_id(mark: str, part: object) -> str:
    from perdure.adapters.qdrant import point_id

    return point_id(mark, part)
