"""Holds producers back before queues with limits: the part of perdure.daemon.pressure that asks, waits and wakes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from perdure.config.queues import QueueLimits
from perdure.daemon.pressure import Needs, Pressure, Waiting, unique_keys
from perdure.errors import PerdureError, QueueFull
from perdure.log import get_logger
from perdure.store.models import Committed, NewBatch, Turn
from perdure.wire.data import Enqueued

if TYPE_CHECKING:
    from perdure.daemon.supervisor import Supervisor

log = get_logger()

#: Every so many looks all queues with limits are counted, not only those of which something is not known.
THOROUGH: Final = 10


@dataclass(eq=False, slots=True)
class _Ticket:
    """Who waits, for how long at most, and the timer for that."""

    future: asyncio.Future[list[Enqueued]]
    patience_ms: int
    timer: asyncio.TimerHandle | None = None


class Throttle:
    """There is one only if the configuration has a limit.

    Counts come from the store's writer, which answers in the order in which it was asked: a count has exactly the turns
    in it that `committed` has seen when it arrives. What changes outside of turns is counted before the next decision.
    """

    def __init__(self, supervisor: Supervisor, limits: QueueLimits) -> None:
        self._supervisor = supervisor
        self.pressure = Pressure(limits)
        self._sheds: dict[str, int] = {}
        self._closed: PerdureError | None = None
        self._looks = 0
        self._counting = False
        self._counts = asyncio.Lock()

    # --- producers

    def place(self, batch: NewBatch, patience_ms: int | None) -> asyncio.Future[list[Enqueued]]:
        """New jobs into the next turn, when there is room; done when they are on disk.

        `patience_ms`: how long to wait for room; None: as configured. Whoever cancels the future leaves the line.
        """
        future: asyncio.Future[list[Enqueued]] = asyncio.get_running_loop().create_future()
        needs = self.pressure.needs(batch, self._now())
        if not needs:
            self._send(batch, future)
        elif self.pressure.doubtful(needs):
            self._supervisor.task(self._look_first(batch, needs, patience_ms, future))
        else:
            self._decide(batch, needs, patience_ms, future, may_ask=True)
        return future

    def _decide(
        self,
        batch: NewBatch,
        needs: Needs,
        patience_ms: int | None,
        future: asyncio.Future[list[Enqueued]],
        *,
        may_ask: bool,
    ) -> None:
        """In, refused, or into the line. `may_ask`: nobody has asked which of them are duplicates."""
        now = self._now()
        if may_ask and not self.pressure.fits(needs, now) and unique_keys(batch, needs):
            self._supervisor.task(self._look_first(batch, needs, patience_ms, future))
            return
        try:
            sheds = self.pressure.admit(batch, needs, now)
        except QueueFull as error:
            future.set_exception(error)
            return
        if sheds is not None:
            self._send(batch, future, sheds)
        else:
            self._wait(batch, needs, self.pressure.patience_ms(needs) if patience_ms is None else patience_ms, future)

    async def _look_first(
        self, batch: NewBatch, needs: Needs, patience_ms: int | None, future: asyncio.Future[list[Enqueued]]
    ) -> None:
        """Decide with all that the store knows."""
        try:
            keys = unique_keys(batch, needs)
            held = await self._supervisor.store.keys_held(keys) if keys else set()
            # One count for all who wait for it: a long queue takes the writer 40 ms for 100,000 jobs.
            async with self._counts:
                doubtful = () if future.done() else self.pressure.doubtful(needs)
                if doubtful:
                    self.pressure.counted(await self._supervisor.store.depths(self.pressure.bounds(doubtful)))
            # Nothing is awaited between the count and the decision.
        except Exception as error:
            if not future.done():
                future.set_exception(error)
            return
        if future.done():
            return
        if self._closed is not None:
            future.set_exception(self._closed)
            return
        self._decide(batch, self.pressure.needs(batch, self._now(), held), patience_ms, future, may_ask=False)

    def _send(
        self, batch: NewBatch, future: asyncio.Future[list[Enqueued]], sheds: dict[str, int] | None = None
    ) -> None:
        supervisor = self._supervisor
        supervisor.committer.expect(batch, future)
        if future.done():  # the disk is full, and nothing is coming
            self.pressure.refused()
            return
        for name, surplus in (sheds or {}).items():
            self._sheds[name] = self._sheds.get(name, 0) + surplus
        supervisor.core.enqueue(batch)
        supervisor.pulse.set()

    # --- the line

    def _wait(self, batch: NewBatch, needs: Needs, patience_ms: int, future: asyncio.Future[list[Enqueued]]) -> None:
        ticket = _Ticket(future, patience_ms)
        waiting = self.pressure.join(batch, needs, ticket)
        if patience_ms <= 0:
            self._give_up(waiting)
            return
        ticket.timer = asyncio.get_running_loop().call_later(patience_ms / 1000, self._give_up, waiting)
        future.add_done_callback(lambda _: self._leave(waiting))

    def _give_up(self, waiting: Waiting) -> None:
        ticket = _ticket(waiting)
        if not ticket.future.done():
            ticket.future.set_exception(self.pressure.gave_up(waiting, self._now(), ticket.patience_ms))
        self._leave(waiting)

    def _leave(self, waiting: Waiting) -> None:
        """It was told something, or has gone: perhaps there is room for those behind it."""
        timer = _ticket(waiting).timer
        if timer is not None:
            timer.cancel()
        if self.pressure.leave(waiting):
            self.advance()

    def advance(self) -> None:
        """Let in those for whom there is room now."""
        for waiting, outcome in self.pressure.advance(self._now(), _has_gone):
            ticket = _ticket(waiting)
            if ticket.timer is not None:
                ticket.timer.cancel()
            if isinstance(outcome, QueueFull):
                ticket.future.set_exception(outcome)
            else:
                self._send(waiting.batch, ticket.future, outcome)

    def close(self, error: PerdureError) -> None:
        """No more room for anybody: tell all who wait."""
        self._closed = error
        for waiting in self.pressure.in_line:
            self.pressure.leave(waiting)
            ticket = _ticket(waiting)
            if not ticket.future.done():
                ticket.future.set_exception(error)

    # --- turns

    def prepare(self, turn: Turn) -> None:
        """Add what must be shed for the new jobs of a turn: those let in since the turn before."""
        turn.shed = self.pressure.shed(self._sheds, turn.now)
        self._sheds = {}

    def committed(self, turn: Turn, result: Committed) -> None:
        """A turn is on disk: there may be room."""
        self.pressure.committed(turn, result)
        if result.shed:
            counts: dict[str, int] = {}
            for _, queue in result.shed:
                counts[queue] = counts.get(queue, 0) + 1
            log.warning("jobs.shed", queues=counts, advice="they are dead letters: perdure dead list")
            # One of them may have been let go to probe a breaker.
            self._supervisor.breakers.ended(job_id for job_id, _ in result.shed)
        self.advance()

    def answers(self, batch: NewBatch, places: list[Enqueued]) -> list[Enqueued]:
        """What the producer of a batch is told."""
        return self.pressure.answers(batch, places, self._now())

    def refused(self) -> None:
        """The disk is full: no new jobs, and nothing is shed for them."""
        self.pressure.refused()
        self._sheds = {}

    # --- now and then

    def doubt(self) -> None:
        """Jobs were cancelled or given another life, outside of a turn."""
        self.pressure.doubt()
        if self.pressure.in_line:
            self._supervisor.task(self._count())

    def look(self) -> None:
        """Count again what must be, beside the main loop."""
        if not self._counting:
            self._looks += 1
            self._supervisor.task(self._count(thorough=self._looks % THOROUGH == 0))

    async def _count(self, *, thorough: bool = False) -> None:
        wanted = self.pressure.to_count(all_of_them=thorough)
        if not wanted:
            return
        self._counting = True
        try:
            depths = await self._supervisor.store.depths(wanted)
            self.pressure.counted({name: depth for name, depth in depths.items() if wanted[name]})
            self.pressure.aged({name: depth for name, depth in depths.items() if not wanted[name]})
        finally:
            self._counting = False
        self.advance()

    @property
    def full(self) -> list[str]:
        """The queues that are full."""
        now = self._now()
        return sorted(name for name, gauge in self.pressure.gauges.items() if gauge.pressure(now) >= 1.0)

    def _now(self) -> int:
        return self._supervisor.clock.now_ms()


def _ticket(waiting: Waiting) -> _Ticket:
    assert isinstance(waiting.ticket, _Ticket)
    return waiting.ticket


def _has_gone(waiting: Waiting) -> bool:
    """Its producer has cancelled the call, or gone away."""
    return _ticket(waiting).future.done()
