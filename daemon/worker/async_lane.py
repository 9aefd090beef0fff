"""The async lane: many jobs at once on the loop of the worker's second thread.

A slot that is in use has a task, which runs one job after the other as long as they wait for nothing. When one waits,
another slot's task takes the next job, and the task ends with the one that has waited: somebody may know the task by
then, and cancel it later.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Set
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Final, NamedTuple

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
#: With so many outcomes unsent, nothing more is begun.
_MOST_UNSENT: Final = 256
#: How long jobs that do not wait may keep the loop from everything else, nanoseconds.
_TURN_NS: Final = 2_000_000


class _Running(NamedTuple):
    """The task that runs a job, and the job's desk if it has one."""

    task: asyncio.Task[None]
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
        #: The task that takes the next job; the others have one that waits, or are about to end.
        self._next: asyncio.Task[None] | None = None

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

    # --- a slot: one job after the other

    def _start_next(self) -> None:
        """Have a task take the next job, if there is one, and a slot; unless one is about to.

        Not when the supervisor does not even take what is done.
        """
        if self._next is None and self._queue and self._free and self._outbox.count < _MOST_UNSENT:
            slot = self._free.pop()
            self._next = task = self._loop.create_task(self._serve(slot))
            task.add_done_callback(partial(self._served, slot))

    async def _serve(self, slot: SlotWriter) -> None:
        """Run jobs until there are none, or one has waited, so that another task takes the next one.

        A task that was cancelled ends with its job: no other job shall hear of that.
        """
        task = asyncio.current_task()
        assert task is not None
        turn_ends_ns = self._bench.clock.monotonic_ns() + _TURN_NS
        while self._queue and self._outbox.count < _MOST_UNSENT:
            ended_ns = await self._run(self._queue.popleft(), slot, task)
            if task.cancelling() or self._next is not task:
                return
            if ended_ns > turn_ends_ns:
                await asyncio.sleep(0)
                turn_ends_ns = self._bench.clock.monotonic_ns() + _TURN_NS

    def _served(self, slot: SlotWriter, task: asyncio.Task[None]) -> None:
        """A callback, because a task that is cancelled before its first step never runs at all."""
        self._free.append(slot)
        if self._next is task:
            self._next = None
        self._start_next()
        if not task.cancelled():
            task.result()

    async def _run(self, row: JobRow, slot: SlotWriter, task: asyncio.Task[None]) -> int:
        """Run one job: record its start, perform it, record its end, which is returned (CLOCK_MONOTONIC, ns)."""
        bench = self._bench
        started_ns = bench.clock.monotonic_ns()
        handler = bench.handlers.get(row.kind)
        if handler is None:
            return self._end_unbegun(row, unknown_kind(row), started_ns)
        if handler.needs and (refused := refusal(bench, handler, row)) is not None:
            return self._end_unbegun(row, refused, started_ns)
        slot.begin(row.id, row.attempt, started_ns, row.timeout_ms)
        desk = JobDesk(bench, row) if handler.wants_context else None
        self._running[row.id] = _Running(task, desk)
        task.set_name(job_name(row))
        outcome = await self._perform(handler, row, started_ns, desk)
        del self._running[row.id]
        if row.id in self._stopping:
            self._stopping.discard(row.id)
            if isinstance(outcome, Failed):
                outcome.stopped = True
        ended_ns = bench.clock.monotonic_ns()
        is_due = self._outbox.add(handler, row, outcome, started_ns, ended_ns)
        slot.finish()
        if is_due:
            self._outbox.try_flush()
        self._plan_flush()
        return ended_ns

    def _end_unbegun(self, row: JobRow, failed: Failed, now_ns: int) -> int:
        self._outbox.add(None, row, failed, now_ns, now_ns)
        self._plan_flush()
        return now_ns

    async def _perform(self, handler: Handler, row: JobRow, started_ns: int, desk: JobDesk | None) -> Outcome:
        """Bind the arguments, await the handler, encode its result; whatever is raised becomes a Failed."""
        context = copy_context()
        log = context.run(self._bench.output.begin_async_job, row)
        try:
            result = await self._call(handler, row, started_ns, desk, context)
            if result is None and (desk is None or desk.result is None):
                return None
            outcome = settle(self._bench, row, result, desk)
            if not callable(outcome):
                return outcome
            if self._next is asyncio.current_task():
                self._hand_over()
            return await self._bench.spool.off_loop(outcome)
        except BaseException as error:  # SystemExit would end the loop, and a cancellation from within is a failure
            return context.run(fail, row, handler, error)
        finally:
            if desk is not None:
                desk.close()
            if log is not None:
                log.close()

    async def _call(
        self, handler: Handler, row: JobRow, started_ns: int, desk: JobDesk | None, context: Context
    ) -> object:
        """What the handler returns. Its time limit can only end a wait, so without one it costs nothing."""
        stepping = Stepping(context.run(self._begin, handler, row, started_ns, desk), context)
        try:
            stepping.first_step()
        except StopIteration as end:
            return end.value
        self._hand_over()
        return await self._wait(stepping, row, started_ns)

    def _begin(self, handler: Handler, row: JobRow, started_ns: int, desk: JobDesk | None) -> Awaitable[Any]:
        """Bind the arguments and call the handler. In the job's context: both may run code of the user."""
        args = handler.bind(row.args)
        awaitable: Awaitable[Any]
        if handler.wants_context:
            awaitable = handler.function(make_context(self._bench, row, args, started_ns, desk), **args)
        else:
            awaitable = handler.function(**args)
        return awaitable

    def _hand_over(self) -> None:
        """The job of the task that took jobs until now is about to wait: another one takes the next."""
        self._next = None
        self._start_next()

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

    # --- telling

    def _plan_flush(self) -> None:
        """Flush once this turn of the loop is over: what finishes together travels together."""
        if not self._flush_planned:
            self._flush_planned = True
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
