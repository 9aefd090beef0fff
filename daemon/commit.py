"""Carries turns to the store, and the news of them to those who wait for it."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from perdure.config.settings import Settings
from perdure.daemon.stepping import Stepping
from perdure.daemon.waiters import Waiters
from perdure.errors import StoreFull
from perdure.log import get_logger
from perdure.store.contract import Store
from perdure.store.models import Committed, NewBatch, Turn
from perdure.wire.data import Enqueued

if TYPE_CHECKING:
    from perdure.daemon.throttle import Throttle

log = get_logger()

#: How often a full disk is tried again, in seconds.
FULL_DISK_RETRY_SECONDS = 1.0


class Committer:
    """Turns go to the store in the order in which they are begun.

    On a full disk nothing is dropped: producers are refused, outcomes are kept and tried again every second, until
    there is space or `store.full_disk_wait` is over; then the error goes up and the daemon stops. `keep_waiting` does
    what the main loop cannot do meanwhile, and says whether to go on.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        waiters: Waiters,
        keep_waiting: Callable[[], Awaitable[bool]],
        drop_batches: Callable[[], None],
        throttle: Throttle | None = None,
    ) -> None:
        self._store = store
        self._patience_seconds = settings.store.full_disk_wait_ms / 1000
        self._waiters = waiters
        self._keep_waiting = keep_waiting
        self._drop_batches = drop_batches
        self._throttle = throttle
        self._placing: collections.deque[asyncio.Future[list[Enqueued]]] = collections.deque()
        #: How many turns were begun, and the numbers of those that have not ended.
        self._begun = 0
        self._under_way: set[int] = set()
        #: Made by whoever waits for the end of what is under way.
        self._done: asyncio.Event | None = None
        self.full: StoreFull | None = None

    def expect(
        self, batch: NewBatch, future: asyncio.Future[list[Enqueued]] | None = None
    ) -> asyncio.Future[list[Enqueued]]:
        """What the producer of a batch waits on: `future`, or a new one. On a full disk it has failed already."""
        if future is None:
            future = asyncio.get_running_loop().create_future()
        if self.full is not None:
            future.set_exception(StoreFull(str(self.full)))
        else:
            self._placing.append(future)
        return future

    def begin(self, turn: Turn) -> Stepping:
        """`commit`, with the store at work when this returns; await it for the result."""
        commit = Stepping(self.commit(turn))
        commit.first_step()
        return commit

    async def commit(self, turn: Turn) -> Committed:
        """Commit, then tell: every outcome and every new job of the turn is on disk when this returns."""
        futures = [self._placing.popleft() for _ in turn.batches]
        self._begun = number = self._begun + 1
        self._under_way.add(number)
        if self._throttle is not None:
            self._throttle.prepare(turn)
        try:
            result = await self._commit_patiently(turn, futures)
        finally:
            self._under_way.discard(number)
            if self._done is not None:
                self._done.set()
                self._done = None
        if self._throttle is not None:
            self._throttle.committed(turn, result)
        for future, batch, places in zip(futures, turn.batches, result.placed, strict=False):
            if future.done():
                continue
            if isinstance(places, Exception):
                future.set_exception(places)
            elif self._throttle is not None:
                future.set_result(self._throttle.answers(batch, places))
            else:
                future.set_result(places)
        if result.stale:
            log.warning("outcome.refused", jobs=[job_id for job_id, _ in result.stale], reason="the lease is not held")
        self._waiters.committed(turn)
        if result.shed:
            self._waiters.ended(job_id for job_id, _ in result.shed)
        return result

    async def settled(self, more: Callable[[], bool]) -> bool:
        """Return when what is being committed now, and what waits for the next turn (`more`), is on disk.

        False: nothing was, and nothing did.
        """
        last = self._begun + more()
        waited = False
        # A turn that a full disk holds up may end after a later one; and what was to come may be dropped meanwhile.
        while any(number <= last for number in self._under_way) or (self._begun < last and more()):
            waited = True
            if self._done is None:
                self._done = asyncio.Event()
            await self._done.wait()
        return waited

    async def placed(self) -> None:
        """Return when all new jobs that were expected so far are on disk, or refused."""
        await self.settled(lambda: bool(self._placing))

    async def _commit_patiently(self, turn: Turn, futures: list[asyncio.Future[list[Enqueued]]]) -> Committed:
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._patience_seconds
        while True:
            try:
                result = await self._store.commit(turn)
            except StoreFull as error:
                self._refuse(turn, futures, error)
                if loop.time() >= give_up or not await self._keep_waiting():
                    raise
                log.error("store.full", reason=str(error), kept_outcomes=True, retry_in_s=FULL_DISK_RETRY_SECONDS)
                await asyncio.sleep(FULL_DISK_RETRY_SECONDS)
            except BaseException as error:
                self._refuse(turn, futures, error)
                raise
            else:
                if self.full is not None:
                    log.info("store.has_space_again")
                    self.full = None
                return result

    def _refuse(self, turn: Turn, futures: list[asyncio.Future[list[Enqueued]]], error: BaseException) -> None:
        """Producers are told now; only outcomes and claims are tried again."""
        if isinstance(error, StoreFull):
            self.full = error
        turn.batches, turn.shed = [], []
        self._drop_batches()
        if self._throttle is not None:
            self._throttle.refused()
        for future in (*futures, *self._placing):
            if not future.done():
                future.set_exception(error if isinstance(error, Exception) else StoreFull())
        futures.clear()
        self._placing.clear()
