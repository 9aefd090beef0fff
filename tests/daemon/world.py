"""A simulated world around the pure dispatch core: a store in memory, workers without processes, time as a number."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from perdure.daemon.actions import DrainWorker, ForkIsolated, Send, StopJobs, TakeBack
from perdure.daemon.dispatch import Dispatch
from perdure.daemon.gate import Gate
from perdure.daemon.isolation import SUSPECT_REASON
from perdure.daemon.ledger import Death
from perdure.daemon.wishes import Wish
from perdure.daemon.worker_state import DispatchLimits
from perdure.store.models import ClaimedJob, Committed, NewBatch, NewJob, Turn
from perdure.wire.data import Enqueued, ErrorData, KindSpec, Lane
from perdure.wire.work import Done, Failed, Timing

LIMITS = DispatchLimits(prefetch_ns=20e6, prefetch_jobs=64, async_slots=4)


@dataclass
class Row:
    """A job in the simulated store."""

    job: NewJob
    state: str = "available"
    attempt: int = 0
    interruptions: int = 0
    lease: int = 0
    due: int = 0
    finished: int = 0
    runs: int = 0
    history: list[str] = field(default_factory=list)


class MemoryStore:
    """The group commit of the store's contract, over a dict: small enough to be obviously right."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.next_id = 1

    def commit(self, turn: Turn) -> Committed:
        """What the contract says, in its order."""
        result = Committed()
        for lease, ids in turn.completed.items():
            for job_id in ids:
                self._end(job_id, lease, "completed", result)
        for job_id, lease, _ in turn.results:
            self._end(job_id, lease, "completed", result)
        for buried in turn.buried:
            self._end(buried.id, buried.lease, f"dead:{buried.reason}", result)
        for taken in turn.cancelled:
            if (row := self._held(taken.id, taken.lease, result)) is not None:
                row.state, row.attempt, row.finished = "cancelled", row.attempt - 1, row.finished + 1
        for stopped in turn.stopped:
            self._end(stopped.id, stopped.lease, "cancelled", result)
            self.rows[stopped.id].history.append(stopped.error_json)
        for retried in turn.retried:
            if (row := self._held(retried.id, retried.lease, result)) is not None:
                row.state, row.due = "retryable", retried.scheduled_at
        for postponed in turn.postponed:
            if (row := self._held(postponed.id, postponed.lease, result)) is not None:
                row.state, row.due, row.attempt = "retryable", postponed.scheduled_at, row.attempt - 1
        for interrupted in turn.interrupted:
            if (row := self._held(interrupted.id, interrupted.lease, result)) is not None:
                row.state, row.interruptions = "available", row.interruptions + 1
                result.filled.append(row.job.queue)
        for released in turn.released:
            if (row := self._held(released.id, released.lease, result)) is not None:
                row.state, row.attempt = "available", row.attempt - 1
                result.filled.append(row.job.queue)
        for parked in turn.parked:
            if (row := self._held(parked.id, parked.lease, result)) is not None:
                row.state, row.attempt = parked.reason, row.attempt - 1
        if turn.promote:
            for row in self.rows.values():
                if row.state in ("scheduled", "retryable") and row.due <= turn.now:
                    row.state = "available"
                    result.filled.append(row.job.queue)
        for batch in turn.batches:
            result.placed.append([self._insert(job, turn.now) for job in batch.jobs])
        if turn.promote:  # after the new jobs, as in the real store: they may be due first
            waiting = [row.due for row in self.rows.values() if row.state in ("scheduled", "retryable")]
            result.next_due = min(waiting, default=None)
        self._claim(turn, result)
        return result

    def _insert(self, job: NewJob, now: int) -> Enqueued:
        job_id, self.next_id = self.next_id, self.next_id + 1
        due = job.scheduled_at or 0
        self.rows[job_id] = Row(job, "available" if due <= now else "scheduled", due=due)
        return Enqueued(job_id, False)

    def _claim(self, turn: Turn, result: Committed) -> None:
        left = turn.claim_total
        for claim in turn.claims:
            if not left:
                break
            waiting = [i for i, row in self.rows.items() if row.state == "available" and row.job.queue == claim.queue]
            waiting.sort(key=lambda i: (self.rows[i].job.priority, i))
            asked = min(claim.limit, left)
            chosen = waiting[:asked]
            if len(chosen) < asked:
                result.drained.append(claim.queue)
            left -= len(chosen)
            for job_id in chosen:
                row = self.rows[job_id]
                row.state, row.lease, row.attempt = "running", turn.lease, row.attempt + 1
                job = row.job
                result.claimed.append(
                    ClaimedJob(
                        job_id, job.kind, job.args, row.attempt, job.queue, job.max_attempts, job.timeout_ms,
                        row.interruptions, job.max_interruptions, job.priority,
                    )
                )  # fmt: skip

    def _held(self, job_id: int, lease: int, result: Committed) -> Row | None:
        row = self.rows[job_id]
        if row.state != "running" or row.lease != lease:
            result.stale.append((job_id, lease))
            return None
        return row

    def _end(self, job_id: int, lease: int, state: str, result: Committed) -> None:
        if (row := self._held(job_id, lease, result)) is not None:
            row.state = state
            row.finished += 1


@dataclass
class SimWorker:
    """A worker that executes when it is told to."""

    lanes: dict[Lane, list[ClaimedJob]] = field(default_factory=lambda: {"sync": [], "async": []})
    executing: list[ClaimedJob] = field(default_factory=list)
    draining: bool = False
    #: What it was told to end while it executed it.
    told: list[int] = field(default_factory=list)


class World:
    """Core, store and workers; each method is one thing that can happen."""

    def __init__(
        self,
        kinds: list[KindSpec],
        workers: int,
        seed: int = 0,
        limits: DispatchLimits = LIMITS,
        gate: Gate | None = None,
    ) -> None:
        self.now = 1_000_000
        self.seed = seed
        self.rng = random.Random(seed)
        self.store = MemoryStore()
        self.last: tuple[Turn, Committed] | None = None
        self.landing: deque[tuple[Turn, Committed]] = deque()
        self.core = Dispatch(limits, lambda failures: 1_000 * failures, 1 << 32, gate)
        self.core.kinds_loaded(kinds)
        self.workers: dict[int, SimWorker] = {}
        self.next_worker = 1
        self.most_sent = 0
        self.fork_isolated = True
        self.isolated_asked = 0
        for _ in range(workers):
            self.start_worker()

    def start_worker(self, *, isolated: bool = False) -> int:
        """Fork one, which says hello at once."""
        worker, self.next_worker = self.next_worker, self.next_worker + 1
        self.workers[worker] = SimWorker()
        self.core.worker_started(worker, isolated=isolated)
        self.core.worker_ready(worker)
        return worker

    def enqueue(self, count: int = 1, kind: str = "job", queue: str = "default", **fields: int | None) -> None:
        """New jobs, in one batch."""
        job = replace(NewJob(kind, queue, 0, "{}", 3, 3, None, None, None, None), **fields)
        self.core.enqueue(NewBatch([job] * count, False))

    def learn(self, kind: str, run_ns: float) -> None:
        """As if a job of the kind had run so long."""
        number = next(iter(self.workers))
        self.core.done(number, Done([], [], [], [Timing(kind, 1, int(run_ns))]), self.now)

    def turn(self) -> bool:
        """One round of the main loop; False when there was nothing to commit.

        What a turn claims is handed out in the next round, beside a commit, or before that; and the next turn may be
        begun before a turn is known to be on disk: with a seed, either.
        """
        turn = self.core.next_turn(self.now) if len(self.landing) < 2 else None
        if turn is not None:
            self.landing.append((turn, self.store.commit(turn)))
        before = self.last is not None
        self.hand_out()
        if self.landing and (turn is None or not self.seed or self.rng.random() < 0.5):
            self.last = self.landing.popleft()
            self.core.learn(*self.last)
            if not self.seed or self.rng.random() < 0.5:
                self.hand_out()
        return before or turn is not None or bool(self.last or self.landing)

    def turn_of_new_jobs(self) -> None:
        """Commit what was enqueued, and forget what that claimed: the test makes of the rows what it needs."""
        turn = self.core.next_turn(self.now)
        assert turn is not None
        self.store.commit(turn)
        self.core.learn(turn, Committed())

    def hand_out(self) -> None:
        """Take over what the last turn has claimed."""
        last, self.last = self.last, None
        if last is not None:
            self.core.take_over(*last)
        self.act()

    def settle(self) -> None:
        """Rounds until nothing is left to commit."""
        for _ in range(1_000):
            if not self.turn():
                return
        raise AssertionError("the main loop never comes to rest")

    def act(self) -> None:
        """Do what the core says."""
        for action in self.core.take_actions():
            if isinstance(action, ForkIsolated):
                self.isolated_asked += 1
                if self.fork_isolated:
                    self.start_worker(isolated=True)
                continue
            worker = self.workers.get(action.worker)
            if worker is None:
                continue
            match action:
                case Send(_, jobs):
                    for job in jobs:
                        worker.lanes[self.core.kinds[job.kind].lane].append(job)
                    self.most_sent = max(self.most_sent, sum(map(len, worker.lanes.values())))
                case TakeBack(number, most, ids):
                    self._take_back(number, worker, most, ids)
                case StopJobs(number, ids):
                    worker.told += [job.id for job in worker.executing if job.id in ids]
                    self._take_back(number, worker, 0, ids)
                case DrainWorker(number):
                    worker.draining = True
                    self._take_back(number, worker, 1_000_000, [])

    def begin(self, number: int) -> None:
        """The worker starts what it can: one sync job, and async ones up to its slots."""
        worker = self.workers[number]
        running = {job.id for job in worker.executing}
        for lane, slots in (("sync", 1), ("async", LIMITS.async_slots)):
            busy = sum(self.core.kinds[job.kind].lane == lane for job in worker.executing)
            while worker.lanes[lane] and busy < slots:
                job = worker.lanes[lane].pop(0)
                assert job.id not in running
                self.store.rows[job.id].runs += 1
                worker.executing.append(job)
                busy += 1

    def finish(
        self, number: int, how: str = "ok", took_ns: int = 1_000_000, dependency: str | None = None
    ) -> ClaimedJob | None:
        """One executing job ends: ok, value, error, permanent, refused (by a breaker of `dependency`) or busy."""
        worker = self.workers[number]
        if not worker.executing:
            return None
        job = worker.executing.pop(self.rng.randrange(len(worker.executing)))
        done = Done([], [], [], [Timing(job.kind, 1, took_ns)])
        if how == "ok":
            done.completed.append(job.id)
        elif how == "value":
            done.results.append((job.id, "1"))
        else:
            error = ErrorData("ValueError", "no")
            done.failed.append(
                Failed(
                    job.id,
                    error,
                    how != "permanent",
                    dependency=dependency,
                    refused=how == "refused",
                    busy=how == "busy",
                )
            )
        assert self.core.done(number, done, self.now) == []
        return job

    def cancel(self, *ids: int, who: str = "ann") -> tuple[set[int], dict[int, Wish]]:
        """Somebody cancels jobs that are claimed, and the workers are told."""
        cancelled = self.core.cancel(set(ids), Wish(who, self.now, self.now * 1_000_000))
        self.act()
        return cancelled

    def die(self, number: int, charge: bool = True, killed_for: Sequence[int] = ()) -> list[int]:
        """The worker is killed; another takes its place."""
        isolated = self.core.workers[number].isolated
        worker = self.workers.pop(number)
        executing = [job.id for job in worker.executing]
        charged = self.core.worker_died(
            number,
            Death("it was killed", {"signal": "SIGKILL"}, "its stacks"),
            self.now,
            executing=executing,
            timed_out=killed_for,
            charge=charge,
        )
        if not self.core.stopping and not isolated:
            self.start_worker()
        return charged

    def end_drained(self) -> None:
        """Workers that were told to drain and have nothing left exit."""
        for number, worker in list(self.workers.items()):
            if worker.draining and not worker.executing and not any(worker.lanes.values()):
                del self.workers[number]
                self.core.worker_died(number, Death("", {}), self.now)

    def unpark_suspects(self) -> None:
        """What the duty does from time to time."""
        if self.core.isolation.looks and not self.core.isolation.suspects:
            for row in self.store.rows.values():
                if row.state == SUSPECT_REASON:
                    row.state = "available"
                    self.core.queues.fill(row.job.queue)

    def run_all(self, limit: int = 20_000) -> None:
        """Go on until every job has ended; time passes when nothing else happens."""
        for _ in range(limit):
            moved = self.turn()
            self.end_drained()
            self.unpark_suspects()
            for number in list(self.workers):
                self.begin(number)
                moved = self.finish(number) is not None or moved
            if not moved:
                if all(row.state in END or row.state.startswith(("dead", "kind")) for row in self.store.rows.values()):
                    return
                self.now += 1_000
        states = {job_id: row.state for job_id, row in self.store.rows.items()}
        raise AssertionError(f"jobs never ended: {states}")

    def _take_back(self, number: int, worker: SimWorker, most: int, ids: list[int]) -> None:
        back = []
        for jobs in worker.lanes.values():
            for job in reversed(list(jobs)):
                if len(back) < most or job.id in ids:
                    jobs.remove(job)
                    back.append(job.id)
        self.core.returned(number, back)


END = ("completed", "cancelled")


def spec(name: str = "job", lane: Lane = "sync", needs: Sequence[str] = ()) -> KindSpec:
    """A kind without arguments."""
    return KindSpec(name, lane, [], needs=list(needs))
