"""The dispatch core: which jobs to claim, who runs them, and what becomes of them.

Pure: events come in as method calls, `next_turn()` gives what to commit and `take_actions()` what to do. It has no
clock, no randomness, no process and no socket of its own, so a test can drive a week of faults through it in a second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from perdure.daemon.ledger import Backoff, Death, Held, Ledger
from perdure.daemon.rotation import Rotation
from perdure.daemon.run_times import RunTimes
from perdure.store.models import ClaimedJob, Committed, NewBatch, Turn
from perdure.wire.data import ErrorData, KindSpec, Lane
from perdure.wire.work import Done, Failed

#: Most jobs that one turn claims from a queue before the next queue has its go.
QUEUE_QUANTUM = 64


class Send(NamedTuple):
    """Send these jobs to a worker."""

    worker: int
    jobs: list[ClaimedJob]


class TakeBack(NamedTuple):
    """Ask a worker for up to `most` jobs that it has not begun, or for those of `ids`."""

    worker: int
    most: int
    ids: list[int]


class DrainWorker(NamedTuple):
    """Tell a worker to finish what runs, give back the rest, and exit."""

    worker: int


Action = Send | TakeBack | DrainWorker


@dataclass(slots=True)
class LaneLoad:
    """What a worker holds in one lane: how many jobs, and how long they should take together.

    `stuck`: what it executes there has taken so long that nothing is sent behind it.
    """

    count: int = 0
    backlog_ns: float = 0.0
    stuck: bool = False


@dataclass(slots=True)
class WorkerState:
    """A worker as the core sees it. `alone`: the suspect that has this worker to itself, 0 while it empties for one."""

    id: int
    ready: bool = False
    draining: bool = False
    recalling: bool = False
    alone: int | None = None
    held: dict[int, Held] = field(default_factory=dict)
    lanes: dict[Lane, LaneLoad] = field(default_factory=lambda: {"sync": LaneLoad(), "async": LaneLoad()})

    @property
    def open(self) -> bool:
        """Whether new jobs may be sent to it."""
        return self.ready and not self.draining and self.alone is None


@dataclass(frozen=True, slots=True)
class DispatchLimits:
    """Settings of the core: how much work is sent ahead (ns and jobs a worker), how many async jobs a worker runs."""

    prefetch_ns: float
    prefetch_jobs: int
    async_slots: int


class Dispatch:
    """The state of everything that is claimed, and the rules for it."""

    def __init__(self, limits: DispatchLimits, backoff: Backoff, first_lease: int) -> None:
        self.limits = limits
        self.ledger = Ledger(backoff, Turn(0))
        self.workers: dict[int, WorkerState] = {}
        self.kinds: dict[str, KindSpec] = {}
        self.queues = Rotation(QUEUE_QUANTUM)
        self.ready: dict[Lane, deque[Held]] = {"sync": deque(), "async": deque()}
        self.suspects: deque[Held] = deque()
        self.stopping = False
        self.next_due: int | None = None
        self._lease = first_lease
        self._batches: list[NewBatch] = []
        self._run_times = RunTimes()
        self._actions: list[Action] = []

    # --- events

    def kinds_loaded(self, specs: Iterable[KindSpec]) -> None:
        """The handlers that workers know from now on."""
        self.kinds = {spec.name: spec for spec in specs}

    def worker_started(self, worker: int) -> None:
        """A worker was forked; it gets jobs once it is ready. One that was under way when the stop came ends again."""
        self.workers[worker] = WorkerState(worker)
        if self.stopping:
            self.drain_worker(worker)

    def worker_ready(self, worker: int) -> None:
        """A worker said hello."""
        self.workers[worker].ready = True

    def drain_worker(self, worker: int) -> None:
        """Send a worker nothing more; it exits when it has finished what runs."""
        state = self.workers[worker]
        if not state.draining:
            state.draining = True
            state.alone = None
            self._actions.append(DrainWorker(worker))

    def enqueue(self, batch: NewBatch) -> None:
        """New jobs for the next turn."""
        self._batches.append(batch)

    def done(self, worker: int, message: Done, now: int) -> list[int]:
        """Outcomes of a worker; returns the ids that it does not hold (late results of jobs taken away from it)."""
        state, stale = self.workers[worker], []
        completed = self.ledger.completed
        for job_id in message.completed:
            held = self._drop(state, job_id)
            if held is None:
                stale.append(job_id)
            else:
                completed(held)
        for job_id, result_json in message.results:
            held = self._drop(state, job_id)
            if held is None:
                stale.append(job_id)
            else:
                self.ledger.result(held, result_json)
        for failure in message.failed:
            held = self._drop(state, failure.id)
            if held is None:
                stale.append(failure.id)
            else:
                self.ledger.failed(held, failure, now, worker)
        for timing in message.timings:
            self._run_times.learn(timing.kind, timing.total_ns / max(timing.count, 1), self.kinds)
            state.lanes[self._lane(timing.kind)].stuck = False
        return stale

    def returned(self, worker: int, ids: Iterable[int], cancelled: Collection[int] = ()) -> None:
        """A worker gave back what it had not begun. `cancelled`: those of them whose producer took them back."""
        state = self.workers[worker]
        state.recalling = False
        for job_id in ids:
            held = self._drop(state, job_id)
            if held is None:
                continue
            if job_id in cancelled:
                self.ledger.cancelled(held)
            else:
                self._place(held)

    def worker_died(
        self,
        worker: int,
        death: Death,
        now: int,
        *,
        executing: Collection[int] = (),
        finished: Collection[int] = (),
        timed_out: Collection[int] = (),
        charge: bool = True,
    ) -> list[int]:
        """A worker is gone. Returns the jobs that are charged for it.

        `executing`: jobs it had begun (flight recorder); `finished`: jobs it had completed without having said so;
        `timed_out`: jobs it was killed for: they fail, and the others executing beside them are innocent. `charge`
        False: the daemon itself ended it (stop), so nobody is charged. Jobs it had not begun go to other workers.
        """
        state = self.workers.pop(worker)
        charged = []
        for job_id, held in state.held.items():
            if job_id in finished:
                self.ledger.completed(held)
            elif job_id in timed_out:
                limit = f"no end within its limit of {(held.job.timeout_ms or 0) / 1000:g} s; its worker was killed"
                failure = Failed(job_id, ErrorData("JobTimeout", limit, True), True)
                self.ledger.failed(held, failure, now, worker, death.stacks)
            elif job_id in executing and charge and not timed_out:
                self.ledger.interrupted(held, death, now, worker)
                charged.append(job_id)
            else:
                self._place(held)
        return charged

    def cancel(self, job_id: int) -> bool:
        """Take back a claimed job that no worker has yet; True if that was possible. Workers are asked otherwise."""
        for queue in (*self.ready.values(), self.suspects):
            for held in queue:
                if held.job.id == job_id:
                    queue.remove(held)
                    self.ledger.cancelled(held)
                    self._end_reservation()
                    return True
        for state in self.workers.values():
            if job_id in state.held:
                self._actions.append(TakeBack(state.id, 0, [job_id]))
        return False

    def holds(self, job_id: int) -> bool:
        """Whether a worker has this job."""
        return any(job_id in state.held for state in self.workers.values())

    def worker_doomed(self, worker: int) -> None:
        """A worker is about to be killed: it gets nothing more."""
        self.workers[worker].draining = True

    def stop(self) -> None:
        """Claim nothing more, give back what has not begun, let workers finish what runs."""
        self.stopping = True
        for queue in (*self.ready.values(), self.suspects):
            while queue:
                self.ledger.released(queue.popleft())
        for worker in list(self.workers):
            self.drain_worker(worker)

    def stuck_behind(self, worker: int, kind: str, elapsed_ns: float) -> None:
        """A worker's sync lane has been executing one job of `kind` for long: take back what waits behind it."""
        self._run_times.at_least(kind, "sync", elapsed_ns)
        state = self.workers[worker]
        state.lanes["sync"].stuck = True
        waiting = state.lanes["sync"].count - 1
        if waiting > 0 and not state.recalling:
            state.recalling = True
            self._actions.append(TakeBack(worker, waiting, []))

    def committed(self, turn: Turn, result: Committed) -> None:
        """A turn is on disk: take over what it claimed, and learn which queues have jobs."""
        for batch in turn.batches:
            for job in batch.jobs:
                if job.scheduled_at is not None:
                    self._due(job.scheduled_at)
        for retried in turn.retried:
            self._due(retried.scheduled_at)
        if turn.promote:
            self.next_due = result.next_due
        for row in result.claimed:
            self._place(Held(row, turn.lease, self._run_times.estimate_ns(row.kind), self._lane(row.kind)))
        self._rotate(result)
        self._fill_workers()
        self._give_back_surplus()

    # --- what to do

    def next_turn(self, now: int) -> Turn | None:
        """Everything that waits for a commit, and the next claims; None when there is nothing to do."""
        self._fill_workers()
        self._give_back_surplus()
        for batch in self._batches:
            for name in {job.queue for job in batch.jobs if job.scheduled_at is None}:
                self.queues.fill(name)
        room = self._room()
        claims = self.queues.claims(room)
        due = self.next_due is not None and self.next_due <= now
        if not (self.ledger.entries or self._batches or due or claims):
            return None
        turn = self.ledger.take(now)
        turn.promote = due
        turn.batches, self._batches = self._batches, []
        if claims:
            self._lease += 1
            turn.lease, turn.claims, turn.claim_total = self._lease, claims, sum(room.values())
        return turn

    def take_actions(self) -> list[Action]:
        """What is to be done with workers, in order."""
        self._fill_workers()
        taken, self._actions = self._actions, []
        return taken

    @property
    def idle(self) -> bool:
        """Whether nothing is claimed and nothing waits for a commit."""
        held = any(state.held for state in self.workers.values())
        waiting = self.suspects or any(self.ready.values())
        return not (held or waiting or self.ledger.entries or self._batches)

    # --- rules

    def _due(self, at: int) -> None:
        if self.next_due is None or at < self.next_due:
            self.next_due = at

    def _drop(self, state: WorkerState, job_id: int) -> Held | None:
        held = state.held.pop(job_id, None)
        if held is None:
            return None
        load = state.lanes[held.lane]
        load.count -= 1
        load.backlog_ns = load.backlog_ns - held.estimate_ns if load.count else 0.0
        if state.alone == job_id:
            state.alone = None
        return held

    def _lane(self, kind: str) -> Lane:
        spec = self.kinds.get(kind)
        return "sync" if spec is None else spec.lane

    def _place(self, held: Held) -> None:
        """A claimed job that no worker has: to where it can go on from."""
        job = held.job
        if self.stopping:
            self.ledger.released(held)
        elif job.kind not in self.kinds:
            self.ledger.parked(held, f"kind:{job.kind}")
        elif 0 < job.interruptions == job.max_interruptions - 1:
            # Its last life: alone, so that it cannot take neighbours along, and cannot be blamed for theirs.
            self.suspects.append(held)
        else:
            self.ready[held.lane].append(held._replace(estimate_ns=self._run_times.estimate_ns(job.kind)))

    def _rotate(self, result: Committed) -> None:
        """Learn from what the claims found."""
        for name in result.drained:
            self.queues.empty(name)
        for name in result.filled:
            self.queues.fill(name)
        served: dict[str, set[Lane]] = {}
        for job in result.claimed:
            served.setdefault(job.queue, set()).add(self._lane(job.kind))
        for name, lanes in served.items():
            blocked = self.queues.blocked(name)
            if blocked is not None and lanes != {blocked}:
                self.queues.unblock(name)
        self.queues.served(served)

    def _jobs_ahead(self, lane: Lane) -> int:
        """How many jobs of the usual length one worker should hold in a lane."""
        short = int(min(self.limits.prefetch_jobs, self.limits.prefetch_ns / self._run_times.by_lane[lane]))
        return max(short, self.limits.async_slots if lane == "async" else 1)

    def _room(self) -> dict[Lane, int]:
        """How many more jobs each lane can take: what workers should hold, and for short jobs as much again in reserve.

        The reserve lets a worker be refilled at once, without waiting for the commit that is under way.
        """
        if self.stopping:
            return {}
        able = [state for state in self.workers.values() if state.open]
        room: dict[Lane, int] = {}
        for lane in {spec.lane for spec in self.kinds.values()}:
            wanted = self._jobs_ahead(lane) * len(able) + self._reserve(lane, len(able))
            held = sum(state.lanes[lane].count for state in able)
            room[lane] = max(0, wanted - held - len(self.ready[lane]))
        return room

    def _reserve(self, lane: Lane, workers: int) -> int:
        """How many jobs may wait in the supervisor, claimed and not sent: none where jobs are long."""
        short = self._run_times.by_lane[lane] * self.limits.prefetch_jobs <= self.limits.prefetch_ns
        return self.limits.prefetch_jobs * workers if short else 0

    def _give_back_surplus(self) -> None:
        """Release what was claimed but finds no worker, so that it can be cancelled and is seen as waiting."""
        able = sum(state.open for state in self.workers.values())
        for lane, ready in self.ready.items():
            allowed = self._reserve(lane, able)
            while len(ready) > allowed:
                held = ready.pop()
                self.ledger.released(held)
                self.queues.block(held.job.queue, lane)

    def _fill_workers(self) -> None:
        if self.suspects:
            self._isolate_suspect()
        for lane, ready in self.ready.items():
            if ready:
                self._fill_lane(lane, ready)

    def _fill_lane(self, lane: Lane, ready: deque[Held]) -> None:
        able = [state for state in self.workers.values() if state.open]
        # Of equals, the one with less in its other lane: a job there may hold the GIL, or the loop.
        able.sort(key=lambda state: (state.lanes[lane].backlog_ns, len(state.held)))
        for position, state in enumerate(able):
            share = -(-len(ready) // (len(able) - position))
            batch = self._take(state, lane, ready, share)
            if batch:
                self._actions.append(Send(state.id, batch))

    def _take(self, state: WorkerState, lane: Lane, ready: deque[Held], share: int) -> list[ClaimedJob]:
        """Up to `share` jobs for one worker, as far as it should hold more."""
        load = state.lanes[lane]
        batch: list[ClaimedJob] = []
        free = self.limits.async_slots if lane == "async" else 1
        while ready and len(batch) < share:
            held = ready[0]
            ahead = load.backlog_ns + held.estimate_ns <= self.limits.prefetch_ns
            full = load.stuck or not ahead or load.count >= self.limits.prefetch_jobs
            if load.count >= free and full:
                break
            ready.popleft()
            load.count += 1
            load.backlog_ns += held.estimate_ns
            state.held[held.job.id] = held
            batch.append(held.job)
        return batch

    def _end_reservation(self) -> None:
        """The suspect that a worker was being emptied for is gone: the worker is as any other again."""
        for state in self.workers.values():
            if state.alone == 0 and not self.suspects:
                state.alone = None

    def _isolate_suspect(self) -> None:
        """Empty one worker and give it to the next suspect."""
        reserved = next((state for state in self.workers.values() if state.alone is not None), None)
        if reserved is None:
            able = [state for state in self.workers.values() if state.open]
            if not able:
                return
            reserved = min(able, key=lambda state: len(state.held))
            reserved.alone = 0
            if reserved.held:
                self._actions.append(TakeBack(reserved.id, len(reserved.held), []))
        if not reserved.held and reserved.alone == 0:
            held = self.suspects.popleft()
            load = reserved.lanes[held.lane]
            load.count, load.backlog_ns = 1, held.estimate_ns
            reserved.alone = held.job.id
            reserved.held[held.job.id] = held
            self._actions.append(Send(reserved.id, [held.job]))
