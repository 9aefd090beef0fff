"""The sync lane: one job after the other in the main thread, where signals and soft time limits work."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Set
from queue import SimpleQueue
from typing import Final

from perdure.daemon.worker.alarm import Alarm
from perdure.daemon.worker.desk import JobDesk
from perdure.daemon.worker.handlers import Handler
from perdure.daemon.worker.lane import Bench, Outcome, fail, make_context, settle, unknown_kind
from perdure.daemon.worker.needs import refusal
from perdure.daemon.worker.outcome import Outbox
from perdure.daemon.worker.recorder import SlotWriter
from perdure.wire.work import JobRow

#: Outcomes do not wait after a job that took so long, nanoseconds: the next one may, too.
LONG_JOB_NS: Final = 1_000_000


class SyncLane:
    """Jobs come from the loop's thread through `offer`, and may be taken back: two ends of a deque.

    Each operation of a deque is atomic, so a job is run or given back, never both.
    """

    def __init__(self, bench: Bench, slot: SlotWriter, outbox: Outbox, alarm: Alarm) -> None:
        self._bench = bench
        self._slot = slot
        self.outbox = outbox
        self._alarm = alarm
        self._queue: deque[JobRow] = deque()
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._draining = False
        #: The executing job, if it has a desk, and that.
        self._desk: tuple[int, JobDesk] | None = None
        #: True while the main thread waits for work. Not yet: it looks at the queue before it first waits.
        self.idle = False
        #: In a child that a handler forked: it must not go on with our jobs.
        self._forked = False
        os.register_at_fork(after_in_child=self._note_fork)

    # --- the loop's thread

    def offer(self, rows: Iterable[JobRow]) -> None:
        """Append jobs, and wake the lane if it waits. Seen too late, `idle` costs a spare token, never a lost one."""
        self._queue.extend(rows)
        if self.idle:
            self._wake.put(None)

    def take_back(self, count: int) -> list[int]:
        """Remove up to `count` jobs that have not begun, the last ones first; their ids."""
        taken: list[int] = []
        try:
            while len(taken) < count:
                taken.append(self._queue.pop().id)
        except IndexError:
            pass
        return taken

    def take_back_ids(self, ids: set[int]) -> list[int]:
        """Remove those of `ids` that have not begun; their ids."""
        taken: list[int] = []
        for row in list(self._queue):
            if row.id in ids:
                try:
                    self._queue.remove(row)
                except ValueError:
                    continue  # it has begun meanwhile
                taken.append(row.id)
        return taken

    def stop(self, ids: Set[int]) -> None:
        """End these, if they have begun, or are about to: JobCancelled is raised in the handler."""
        desk = self._desk
        if desk is not None and desk[0] in ids:
            desk[1].cancelled = True
        self._alarm.stop(ids)

    def drain(self) -> None:
        """End when the queue is empty."""
        self._draining = True
        self._wake.put(None)

    @property
    def waiting(self) -> int:
        """How many jobs have not begun."""
        return len(self._queue)

    @property
    def at_rest(self) -> bool:
        """Nothing waits, nothing runs, and nothing will before the next `offer`."""
        # In this order: what was waiting a moment ago has been run to its end if the lane is idle now.
        return not self._queue and self.idle

    # --- the main thread

    def serve(self) -> None:
        """Run jobs until `drain`. Everything is told to the supervisor before it returns."""
        take, read_clock = self._queue.popleft, self._bench.clock.monotonic_ns
        now_ns = read_clock()
        while True:
            try:
                row = take()
            except IndexError:
                if not self._wait_for_work():
                    return
                now_ns = read_clock()
                continue
            now_ns = self._run(row, now_ns)

    def _wait_for_work(self) -> bool:
        """Flush, then sleep until there is something to do. False: there will be nothing more."""
        self.outbox.flush()
        self.idle = True
        # Looked at after `idle` is set: whoever appended before that has not put a token.
        if not self._queue:
            if self._draining:
                return False
            self._wake.get()
        self.idle = False
        return True

    def _run(self, row: JobRow, started_ns: int) -> int:
        """Run one job: record its start, perform it, record its end, and send the outcomes if they should leave now.

        The outcome is in the outbox (and in the done ring) before the slot is cleared: whenever the process dies, the
        page tells the truth. Returns when the next job can start (CLOCK_MONOTONIC): the clock is read once a job.
        """
        bench, outbox = self._bench, self.outbox
        handler = bench.handlers.get(row.kind)
        refused = unknown_kind(row) if handler is None else refusal(bench, handler, row) if handler.needs else None
        if handler is None or refused is not None:
            if outbox.add(None, row, refused, started_ns, started_ns):
                outbox.flush()
            return started_ns
        if handler.slow and outbox.count:
            outbox.flush()
            started_ns = bench.clock.monotonic_ns()
        bench.output.sync_job = row
        self._slot.begin(row.id, row.attempt, started_ns, row.timeout_ms)
        outcome = self._perform(handler, row, started_ns)
        if self._forked:
            os._exit(0)
        bench.output.end_sync_job()
        ended_ns = bench.clock.monotonic_ns()
        handler.slow = ended_ns - started_ns > LONG_JOB_NS
        is_due = outbox.add(handler, row, outcome, started_ns, ended_ns)
        self._slot.finish()
        if is_due or handler.slow:
            outbox.flush()
            ended_ns = bench.clock.monotonic_ns()
        return ended_ns

    def _perform(self, handler: Handler, row: JobRow, started_ns: int) -> Outcome:
        """Bind the arguments, call the handler, encode its result; whatever is raised becomes a Failed.

        The handler is called with the alarm armed: JobTimeout or JobCancelled can be raised from the first statement of
        the inner `try` until its `finally` has disarmed the alarm, also in between, after the handler has returned. In
        each of these places it is caught like an exception of the handler. After the `finally` nothing is armed.
        """
        bench, alarm, desk, context = self._bench, self._alarm, None, None
        limit_ms = row.timeout_ms
        try:
            args = handler.bind(row.args)
            if handler.wants_context:
                desk = JobDesk(bench, row)
                self._desk = row.id, desk
                context = make_context(bench, row, args, started_ns, desk)
            alarm.limit_ms = limit_ms or 0
            alarm.due_ns = 0 if limit_ms is None else started_ns + limit_ms * 1_000_000
            try:
                alarm.job_id = row.id
                if alarm.stopping:
                    alarm.ring()
                result = handler.function(**args) if context is None else handler.function(context, **args)
            finally:
                alarm.job_id = 0
            if self._forked or (result is None and (desk is None or desk.result is None)):
                return None
            outcome = settle(bench, row, result, desk)
            return outcome() if callable(outcome) else outcome
        except BaseException as error:  # SystemExit and KeyboardInterrupt too: a job does not end its worker
            failed = fail(row, handler, error)
            failed.stopped = row.id in alarm.stopping
            return failed
        finally:
            if desk is not None:
                self._desk = None
                if not self._forked:  # else what it holds is still its parent's
                    desk.close()

    def _note_fork(self) -> None:
        self._forked = True
