"""The async lane: many jobs at once, as tasks on the loop of the worker's second thread.

Each job has a task of its own, also one that waits for nothing: whoever has got hold of a task may cancel it late,
and must not hit the job after it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Set
from functools import partial
from typing import Final, NamedTuple

from perdure.daemon.stepping import Stepping
from perdure.daemon.worker.alarm import timeout_error
from perdure.daemon.worker.desk import JobDesk
from perdure.daemon.worker.handlers import Handler
from perdure.daemon.worker.lane import Bench, Outcome, fail, job_name, make_context, settle, unknown_kind
from perdure.daemon.worker.needs import refusal
from perdure.daemon.worker.outcome import Outbox
from perdure.daemon.worker.recorder import SlotWriter
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


class _Running(NamedTuple):
    """A job's task, and its desk if it has one."""

    task: asyncio.Task[Outcome]
    desk: JobDesk | None


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
        self._running: dict[int, _Running] = {}
        #: Those of them that were told to end.
        self._stopping: set[int] = set()
        self._flush_planned = False

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
            task, desk = self._running[job_id]
            if desk is not None:
                desk.cancelled = True
            task.cancel()

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
        while self._queue and self._free and self._outbox.count < _MOST_UNSENT:
            self._start(self._queue.popleft())

    def _start(self, row: JobRow) -> None:
        started_ns = self._bench.clock.monotonic_ns()
        handler = self._bench.handlers.get(row.kind)
        if handler is None:
            self._end_unbegun(row, unknown_kind(row), started_ns)
            return
        if handler.needs and (refused := refusal(self._bench, handler, row)) is not None:
            self._end_unbegun(row, refused, started_ns)
            return
        slot = self._free.pop()
        slot.begin(row.id, row.attempt, started_ns, row.timeout_ms)
        desk = JobDesk(self._bench, row) if handler.wants_context else None
        task = self._loop.create_task(self._perform(handler, row, started_ns, desk), name=job_name(row))
        self._running[row.id] = _Running(task, desk)
        task.add_done_callback(partial(self._finish, handler, row, slot, started_ns))

    def _end_unbegun(self, row: JobRow, failed: Failed, now_ns: int) -> None:
        self._outbox.add(None, row, failed, now_ns, now_ns)
        self._plan_flush()

    async def _perform(self, handler: Handler, row: JobRow, started_ns: int, desk: JobDesk | None) -> Outcome:
        """Bind the arguments, await the handler, encode its result; whatever is raised becomes a Failed."""
        log = self._bench.output.begin_async_job(row)
        try:
            return await self._call(handler, row, started_ns, desk)
        except BaseException as error:  # SystemExit would end the loop, and a cancellation from within is a failure
            return fail(row, handler, error)
        finally:
            if desk is not None:
                desk.close()
            if log is not None:
                log.close()

    async def _call(self, handler: Handler, row: JobRow, started_ns: int, desk: JobDesk | None) -> Outcome:
        result = await self._result(handler, row, started_ns, desk)
        if result is None and (desk is None or desk.result is None):
            return None
        outcome = settle(self._bench, row, result, desk)
        return await self._bench.spool.off_loop(outcome) if callable(outcome) else outcome

    async def _result(self, handler: Handler, row: JobRow, started_ns: int, desk: JobDesk | None) -> object:
        """What the handler returns. A time limit can only end a wait, so it is armed at the first one."""
        args = handler.bind(row.args)
        if handler.wants_context:
            stepping = Stepping(handler.function(make_context(self._bench, row, args, started_ns, desk), **args))
        else:
            stepping = Stepping(handler.function(**args))
        try:
            stepping.first_step()
        except StopIteration as end:
            return end.value
        return await self._wait(stepping, row, started_ns)

    async def _wait(self, stepping: Stepping, row: JobRow, started_ns: int) -> object:
        """The rest of a handler that waits for something. Raises JobTimeout when its time is over."""
        at = None
        if row.timeout_ms is not None:
            spent_ns = self._bench.clock.monotonic_ns() - started_ns
            at = self._loop.time() + row.timeout_ms / 1000 - spent_ns / 1e9
        limit = asyncio.timeout_at(at)
        try:
            async with limit:
                return await stepping
        except TimeoutError as error:
            # Only when it is ours: a handler may raise a TimeoutError of its own. (Python 3.11.2 names no cause.)
            cancelled = error.__cause__ or error.__context__
            if limit.expired() and isinstance(cancelled, asyncio.CancelledError):
                raise timeout_error(row.timeout_ms or 0) from cancelled
            raise

    def _finish(
        self, handler: Handler, row: JobRow, slot: SlotWriter, started_ns: int, task: asyncio.Task[Outcome]
    ) -> None:
        """Record the end. A callback, because a task that is cancelled before its first step never runs at all."""
        del self._running[row.id]
        if task.cancelled():
            outcome: Outcome = fail(row, handler, asyncio.CancelledError("cancelled within the worker"))
        else:
            outcome = task.result()
        if row.id in self._stopping:
            self._stopping.discard(row.id)
            if isinstance(outcome, Failed):
                outcome.stopped = True
        ended_ns = self._bench.clock.monotonic_ns()
        is_due = self._outbox.add(handler, row, outcome, started_ns, ended_ns)
        slot.finish()
        self._free.append(slot)
        if is_due:
            self._outbox.try_flush()
        self._start_next()
        self._plan_flush()

    # --- telling

    def _plan_flush(self) -> None:
        """Flush at once if that was the last job; else a little later, as jobs that finish together travel together."""
        if not self._flush_planned:
            self._flush_planned = True
            if self._queue or self._running:
                self._loop.call_later((GATHER_NS if self._queue else _SHORT_GATHER_NS) / 1e9, self._flush)
            else:
                self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_planned = False
        if not self._outbox.try_flush():
            self._flush_planned = True
            self._loop.call_later(_RETRY_SECONDS, self._flush)
            return
        self._start_next()
        if self.idle:
            self._on_idle()
