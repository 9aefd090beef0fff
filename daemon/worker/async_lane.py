"""The async lane: many jobs at once, as tasks on the loop of the worker's second thread.

Each job has a task of its own, also one that waits for nothing: whoever has got hold of a task may cancel it late,
and must not hit the job after it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator, Iterable, Set
from contextvars import copy_context
from types import coroutine
from typing import Final

from perdure.daemon.worker.alarm import timeout_error
from perdure.daemon.worker.desk import JobDesk
from perdure.daemon.worker.handlers import Handler
from perdure.daemon.worker.lane import Bench, Outcome, fail, job_name, make_context, settle, unknown_kind
from perdure.daemon.worker.needs import refusal
from perdure.daemon.worker.outcome import Outbox
from perdure.daemon.worker.recorder import SlotWriter
from perdure.deadlines import Deadlines
from perdure.wire.work import Failed, JobRow

#: How long to wait when the supervisor reads slowly, seconds.
_RETRY_SECONDS: Final = 0.005
#: How long outcomes may wait for others while there is more to begin, nanoseconds. An async job costs more than a sync
#: one, so that it takes longer until a batch is worth a turn of the supervisor.
GATHER_NS: Final = 4_000_000
#: The same while other jobs run, and there is none to begin.
_SHORT_GATHER_NS: Final = 1_000_000
#: With so many outcomes unsent, nothing more is begun.
_MOST_UNSENT: Final = 256


class _Run:
    """One job from its start to its end."""

    __slots__ = ("begun", "desk", "ends_ns", "expired", "handler", "outcome", "row", "slot", "started_ns", "task")

    task: asyncio.Task[None]

    def __init__(self, handler: Handler, row: JobRow, slot: SlotWriter, started_ns: int) -> None:
        self.handler = handler
        self.row = row
        self.slot = slot
        self.started_ns = started_ns
        limit_ms = row.timeout_ms
        #: When its time is over (CLOCK_MONOTONIC); 0: never, or it does not matter any more.
        self.ends_ns = 0 if limit_ms is None else started_ns + limit_ms * 1_000_000
        #: It was cancelled because its time was over.
        self.expired = False
        #: Its task has made the first step.
        self.begun = False
        self.desk: JobDesk | None = None
        self.outcome: Outcome = None

    def cut(self) -> bool:
        """Its time is over: cancel what it waits for. Before the first step it may yet end without waiting."""
        if self.begun and not self.expired:
            self.expired = True
            self.task.cancel()
        return self.begun


@coroutine
def _task() -> Generator[None, None, None]:
    """Wait for the first step of the task."""
    yield


class AsyncLane:
    """Runs up to one job per slot; the others wait in line. Used in the loop's thread only."""

    def __init__(
        self,
        bench: Bench,
        slots: Iterable[SlotWriter],
        outbox: Outbox,
        loop: asyncio.AbstractEventLoop,
        on_idle: Callable[[], None],
    ) -> None:
        self._bench = bench
        self._free = list(slots)
        self._outbox = outbox
        self._loop = loop
        self._on_idle = on_idle
        self._queue: deque[JobRow] = deque()
        self._running: dict[int, _Run] = {}
        #: Those of them that have ended in this turn of the loop.
        self._ended: list[_Run] = []
        #: Those of them that were told to end.
        self._stopping: set[int] = set()
        self._flush_planned = False
        #: When outcomes were sent last (CLOCK_MONOTONIC).
        self._sent_ns = 0
        self._deadlines = Deadlines(bench.clock, self._running.values())
        #: The lane's own: what it does at the end of a job must not be done in that job's.
        self._context = copy_context()

    def offer(self, rows: Iterable[JobRow]) -> None:
        """Start these jobs, or put them in line."""
        self._queue.extend(rows)
        self._start_next()

    def take_back(self, count: int) -> list[int]:
        """Remove up to `count` jobs that have not begun, the last ones first; their ids."""
        return [self._queue.pop().id for _ in range(min(count, len(self._queue)))]

    def take_back_ids(self, ids: set[int]) -> list[int]:
        """Remove those of `ids` that have not begun; their ids."""
        taken = [row.id for row in self._queue if row.id in ids]
        if taken:
            self._queue = deque(row for row in self._queue if row.id not in ids)
        return taken

    def stop(self, ids: Set[int]) -> None:
        """Cancel those of `ids` that run, each once."""
        for job_id in (ids & self._running.keys()) - self._stopping:
            self._stopping.add(job_id)
            run = self._running[job_id]
            if run.desk is not None:
                run.desk.cancelled = True
            run.task.cancel()

    @property
    def waiting(self) -> int:
        """How many jobs have not begun."""
        return len(self._queue)

    @property
    def idle(self) -> bool:
        """Nothing runs, nothing waits, everything has been told. `on_idle` is called when this becomes true."""
        return not self._running and not self._queue and not self._outbox.count

    # --- one job: start, perform, finish

    def _start_next(self) -> None:
        """Fill the free slots, unless the supervisor does not even take what is done."""
        if self._queue and self._free:
            now_ns = self._bench.clock.monotonic_ns()
            while self._queue and self._free and self._outbox.count < _MOST_UNSENT:
                self._start(self._queue.popleft(), now_ns)

    def _start(self, row: JobRow, now_ns: int) -> None:
        handler = self._bench.handlers.get(row.kind)
        if handler is None:
            self._end_unbegun(row, unknown_kind(row), now_ns)
            return
        if handler.needs and (refused := refusal(self._bench, handler, row)) is not None:
            self._end_unbegun(row, refused, now_ns)
            return
        slot = self._free.pop()
        slot.begin(row.id, row.attempt, now_ns, row.timeout_ms)
        self._running[row.id] = run = _Run(handler, row, slot, now_ns)
        if handler.wants_context:
            run.desk = JobDesk(self._bench, row)
        steps = self._perform(run)
        # To where it waits for its task: a task that is cancelled before its first step then still gets to the end.
        steps.send(None)
        run.task = self._loop.create_task(steps, name=job_name(row))
        if run.ends_ns:
            self._deadlines.watch(run.ends_ns, now_ns)

    def _end_unbegun(self, row: JobRow, failed: Failed, now_ns: int) -> None:
        self._outbox.add(None, row, failed, now_ns, now_ns)
        self._plan_flush()

    async def _perform(self, run: _Run) -> None:
        """Bind the arguments, await the handler, encode its result; whatever is raised becomes a Failed."""
        voice = None
        try:
            await _task()
            run.begun = True
            voice = self._bench.output.begin_async_job(run.row)
            run.outcome = await self._outcome(run)
        except BaseException as error:  # SystemExit would end the loop, and a cancellation from within is a failure
            run.outcome = fail(run.row, run.handler, error)
        finally:
            if run.desk is not None:
                run.desk.close()
            if voice is not None:
                voice.end()
            if not self._ended:
                self._loop.call_soon(self._finish_ended, context=self._context)
            self._ended.append(run)

    async def _outcome(self, run: _Run) -> Outcome:
        bench, row, handler, desk = self._bench, run.row, run.handler, run.desk
        args = handler.bind(row.args)
        try:
            if desk is None:
                result = await handler.function(**args)
            else:
                result = await handler.function(make_context(bench, row, args, run.started_ns, desk), **args)
        except asyncio.CancelledError as cancelled:
            if run.expired and run.task.cancelling() == 1:  # else somebody has cancelled it besides
                raise timeout_error(row.timeout_ms or 0) from cancelled
            raise
        finally:
            run.ends_ns = 0
            if run.expired:
                run.task.uncancel()
        if result is None and (desk is None or desk.result is None):
            return None
        outcome = settle(bench, row, result, desk)
        return await bench.spool.off_loop(outcome) if callable(outcome) else outcome

    def _finish_ended(self) -> None:
        """Record the end of all jobs that have ended in the last turn of the loop."""
        ended, self._ended = self._ended, []
        ended_ns = self._bench.clock.monotonic_ns()
        is_due = False
        for run in ended:
            row, outcome = run.row, run.outcome
            del self._running[row.id]
            if row.id in self._stopping:
                self._stopping.discard(row.id)
                if isinstance(outcome, Failed):
                    outcome.stopped = True
            is_due |= self._outbox.add(run.handler, row, outcome, run.started_ns, ended_ns)
            run.slot.finish()
            self._free.append(run.slot)
        if is_due:
            self._outbox.try_flush()
        self._start_next()
        self._plan_flush()

    # --- telling

    def _plan_flush(self) -> None:
        """Flush a little later, as jobs that finish together travel together; but at once if that was the last job, or
        the first one after a pause: for all that is known, nothing comes that it could wait for."""
        if self._flush_planned:
            return
        self._flush_planned = True
        is_pause = self._bench.clock.monotonic_ns() - self._sent_ns > GATHER_NS
        if (self._queue or self._running) and not is_pause:
            self._loop.call_later((GATHER_NS if self._queue else _SHORT_GATHER_NS) / 1e9, self._flush)
        else:
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_planned = False
        if not self._outbox.try_flush():
            self._flush_planned = True
            self._loop.call_later(_RETRY_SECONDS, self._flush)
            return
        self._sent_ns = self._bench.clock.monotonic_ns()
        self._start_next()
        if self.idle:
            self._on_idle()
