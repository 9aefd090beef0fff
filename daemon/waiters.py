"""Those who wait for jobs to end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from perdure.errors import PerdureError
from perdure.store.contract import Store
from perdure.store.models import Turn
from perdure.store.states import FINAL


class Waiters:
    """Wakes waiting calls when their jobs end. Costs nothing while nobody waits, and keeps nothing of who has left."""

    def __init__(self) -> None:
        self._waiting: dict[int, set[asyncio.Future[None]]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait_ended(self, ids: Sequence[int], store: Store) -> None:
        """Return when each of these is completed, cancelled, dead or unknown."""
        for job_id in ids:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(job_id, set()).add(future)
            try:
                # Looked up after registering, so that an end in between is not missed; and again after a wake-up,
                # because an outcome may have been refused by its lease.
                while await _unfinished(store, job_id):
                    await future
                    self._waiting[job_id].discard(future)
                    future = asyncio.get_running_loop().create_future()
                    self._waiting[job_id].add(future)
            finally:
                self._forget(job_id, future)

    def committed(self, turn: Turn) -> None:
        """Wake those whose jobs ended in this turn."""
        if self._waiting:
            for ids in turn.completed.values():
                self.ended(ids)
            self.ended(entry[0] for entry in (*turn.results, *turn.spooled))
            self.ended(entry.id for entry in turn.buried)
            self.ended(entry.id for entry in turn.cancelled)
            self.ended(entry.id for entry in turn.stopped)

    def ended(self, ids: Iterable[int]) -> None:
        """These jobs ended."""
        for job_id in ids:
            for future in self._waiting.get(job_id, ()):
                if not future.done():
                    future.set_result(None)

    def close(self, error: PerdureError) -> None:
        """Nothing will end any more: tell all who wait."""
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_exception(error)

    def _forget(self, job_id: int, future: asyncio.Future[None]) -> None:
        futures = self._waiting.get(job_id)
        if futures is not None:
            futures.discard(future)
            if not futures:
                del self._waiting[job_id]


async def _unfinished(store: Store, job_id: int) -> bool:
    job = await store.get(job_id)
    return job is not None and job.state not in FINAL
