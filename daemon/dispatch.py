"""The dispatch core: which jobs to claim, who runs them, and what becomes of them.

Pure: events come in as method calls, `next_turn()` gives what to commit and `take_actions()` what to do. It has no
clock, no randomness, no process and no socket of its own, so a test can drive a week of faults through it in a second.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping, Set
from operator import attrgetter

from perdure.daemon.actions import Action, DrainWorker, Send, StopJobs, TakeBack
from perdure.daemon.filling import take_batch
from perdure.daemon.gate import Gate, NoBreakers
from perdure.daemon.isolation import SUSPECT_REASON, Isolation, is_suspect
from perdure.daemon.judge import Judge
from perdure.daemon.ledger import Backoff, Death, Held, Ledger
from perdure.daemon.room import Room
from perdure.daemon.rotation import Rotation
from perdure.daemon.run_times import RunTimes
from perdure.daemon.wishes import Wish
from perdure.daemon.worker_state import DispatchLimits, WorkerState
from perdure.store.models import Committed, NewBatch, Turn
from perdure.wire.data import KindSpec, Lane
from perdure.wire.work import Done

_QUEUE_AND_KIND = attrgetter("queue", "kind")
#: Most jobs that one turn claims from a queue before the next one has its go. Jobs of many queues often came in turns,
#: so that neighbours in the file are of different queues: larger bites touch a page for each job.
QUEUE_QUANTUM = 16


class Dispatch:
    """The state of everything that is claimed, and the rules for it."""

    def __init__(self, limits: DispatchLimits, backoff: Backoff, first_lease: int, gate: Gate | None = None) -> None:
        self.limits = limits
        self.gate: Gate = gate or NoBreakers()
        self.ledger = Ledger(backoff, Turn(0))
        self.workers: dict[int, WorkerState] = {}
        self.kinds: dict[str, KindSpec] = {}
        self.queues = Rotation(QUEUE_QUANTUM)
        self.ready: dict[Lane, deque[Held]] = {"sync": deque(), "async": deque()}
        self.isolation = Isolation()
        self.judge = Judge(self.ledger, self.gate)
        self.wishes = self.judge.wishes
        self.stopping = False
        self.next_due: int | None = None
        self._lease = first_lease
        self._batches: list[NewBatch] = []
        self._run_times = RunTimes(limits.async_slots)
        self._claimable = Room(limits, self._run_times)
        self._actions: list[Action] = []
        #: Turns that are not known to be on disk yet, with the room that their claims are to fill.
        self._under_way: list[tuple[Turn, dict[Lane, int]]] = []
        #: Queues and kinds of what the last turn has claimed, until it is taken over.
        self._claimed: Counter[tuple[str, str]] = Counter()
        #: Lanes for which something was claimed in vain: nothing more until their load changes.
        self._saturated: set[Lane] = set()

    # --- events

    def kinds_loaded(self, specs: Iterable[KindSpec]) -> None:
        """The handlers that workers know from now on; what waits here is sorted anew, by its kind as it is now."""
        self.kinds = {spec.name: spec for spec in specs}
        self.queues.unblock_all()
        self._saturated.clear()
        self._sort_anew()

    def breaker_opened(self, name: str) -> None:
        """A dependency is away: what needs it and has not begun is taken back, so that it holds no slot."""
        needy = {kind for kind, spec in self.kinds.items() if name in spec.needs}
        if not needy:
            return
        self._sort_anew()
        for state in self.workers.values():
            ids = [job_id for job_id, held in state.held.items() if held.job.kind in needy]
            if ids:
                self._actions.append(TakeBack(state.id, 0, ids))

    def worker_started(self, worker: int, *, isolated: bool = False) -> None:
        """A worker was forked; it gets jobs once it is ready. One that was under way when the stop came ends again."""
        self.workers[worker] = WorkerState(worker, isolated)
        if self.stopping:
            self.drain_worker(worker)

    def worker_ready(self, worker: int) -> None:
        """A worker said hello."""
        self.workers[worker].ready = True
        self._saturated.clear()

    def isolation_failed(self) -> None:
        """The isolated worker could not be forked: ask again if it is still needed."""
        self.isolation.worker_missing()

    def drop_batches(self) -> None:
        """Forget the new jobs that wait for the next turn: their producers were refused."""
        self._batches = []

    def drain_worker(self, worker: int) -> None:
        """Send a worker nothing more; it exits when it has finished what runs."""
        state = self.workers[worker]
        if not state.draining:
            state.draining = True
            self._actions.append(DrainWorker(worker))

    def enqueue(self, batch: NewBatch) -> None:
        """New jobs for the next turn."""
        self._batches.append(batch)

    def done(self, worker: int, message: Done, now: int) -> list[int]:
        """Outcomes of a worker; returns the ids that it does not hold (late results of jobs taken away from it)."""
        state = self.workers[worker]
        stale: list[int] = []
        self.ledger.completed(self._drop_all(state, message.completed, stale))
        for job_id, result_json in message.results:
            for held in self._drop_all(state, (job_id,), stale):
                self.ledger.result(held, result_json)
        for job_id, blob_json in message.spooled:
            for held in self._drop_all(state, (job_id,), stale):
                self.ledger.spooled(held, blob_json)
        for failure in message.failed:
            for held in self._drop_all(state, (failure.id,), stale):
                self.judge.failed(held, failure, now, worker)
        for timing in message.timings:
            self._run_times.learn(timing.kind, timing.total_ns / max(timing.count, 1), self.kinds)
            state.lanes[self._lane(timing.kind)].stuck = False
        self._saturated.clear()
        with_result = [job_id for job_id, _ in (*message.results, *message.spooled)]
        self.judge.completed((*message.completed, *with_result))
        self.gate.ended(message.completed)
        self.gate.ended(with_result)
        self.gate.ended(failure.id for failure in message.failed)
        return stale

    def returned(self, worker: int, ids: Iterable[int]) -> None:
        """A worker gave back what it had not begun."""
        state = self.workers[worker]
        state.recalling = False
        self._saturated.clear()
        for held in self._drop_all(state, ids, []):
            self._given_back(held)

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
        `timed_out`: jobs it was killed for: they fail (or are stopped, if somebody wished that), and the others
        executing beside them are innocent. `charge` False: the daemon itself ended it (stop), so nobody is charged.
        Jobs it had not begun go to other workers.
        """
        state = self.workers.pop(worker)
        if state.isolated:
            self.isolation.worker_missing()
        self._saturated.clear()
        charged = []
        self.judge.completed(finished)
        for job_id, held in state.held.items():
            if job_id in finished:
                self.ledger.completed([held])
            elif job_id in timed_out:
                self.judge.killed_for(held, death, now, worker)
            elif job_id in executing and self.wishes.died(held, death, now, worker):
                continue
            elif job_id in executing and charge and not timed_out:
                self.ledger.interrupted(held, death, now, worker)
                charged.append(job_id)
            else:
                self._given_back(held)
        # After the placing: a probe that nobody began is still the probe.
        self.gate.ended(job_id for job_id in state.held if job_id in executing or job_id in finished)
        return charged

    def cancel(self, ids: Set[int], wish: Wish) -> tuple[set[int], dict[int, Wish]]:
        """Take back claimed jobs: those that no worker had yet, and what is wished for each that a worker has.

        The workers are told, once a job: it is given back, or ended. Whatever comes of it but success, the job is
        cancelled.
        """
        taken: set[int] = set()
        for queue in self._waiting():
            for held in [held for held in queue if held.job.id in ids]:
                queue.remove(held)
                self.ledger.cancelled(held)
                taken.add(held.job.id)
        self.gate.ended(taken)
        wishes: dict[int, Wish] = {}
        for state in self.workers.values():
            news = []
            for job_id in state.held.keys() & ids:
                wishes[job_id], is_new = self.wishes.make(job_id, wish)
                if is_new:
                    news.append(job_id)
            if news:
                self._actions.append(StopJobs(state.id, news))
        return taken, wishes

    def claimed(self, ids: Iterable[int]) -> set[int]:
        """Those of `ids` that are claimed: here, or with a worker."""
        here = {held.job.id for queue in self._waiting() for held in queue}
        return {job_id for job_id in ids if job_id in here or any(job_id in w.held for w in self.workers.values())}

    def worker_doomed(self, worker: int) -> None:
        """A worker is about to be killed: it gets nothing more."""
        self.workers[worker].draining = True

    def stop(self) -> None:
        """Claim nothing more, give back what has not begun, let workers finish what runs."""
        self.stopping = True
        for queue in self._waiting():
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

    def learn(self, turn: Turn, result: Committed) -> None:
        """A turn that was under way is on disk: which queues have jobs, what is due, what was claimed.

        After this the next turn may be made; what was claimed counts for it, and is still to be taken over.
        """
        self._under_way = [one for one in self._under_way if one[0] is not turn]
        for batch in turn.batches:
            for job in batch.jobs:
                if job.scheduled_at is not None and job.scheduled_at > turn.now:
                    self._due(job.scheduled_at)
        for at in [job.scheduled_at for job in turn.retried] + [job.scheduled_at for job in turn.postponed]:
            self._due(at)
        if turn.promote:
            self.next_due = result.next_due
        self._claimed = Counter(map(_QUEUE_AND_KIND, result.claimed))
        self._rotate(result, self._claimed)

    def take_over(self, turn: Turn, result: Committed) -> None:
        """Hand out what a turn has claimed, or put it where it can go on from."""
        claimed, self._claimed = self._claimed, Counter()
        for row in result.claimed:
            self._place(Held(row, turn.lease))
        self._fill_workers()
        self._adapt(claimed, self._give_back_surplus())

    # --- what to do

    def next_turn(self, now: int) -> Turn | None:
        """Everything that waits for a commit, and the next claims; None when there is nothing to do."""
        self._fill_workers()
        self._give_back_surplus()
        for batch in self._batches:
            for queue, kind in set(map(_QUEUE_AND_KIND, batch.jobs)):
                self._unblock_for(queue, kind)
            for name in {job.queue for job in batch.jobs if job.scheduled_at is None or job.scheduled_at <= now}:
                self.queues.fill(name)
        room = self._room() if self.queues.active else {}
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
        self._under_way.append((turn, room if claims else {}))
        return turn

    def take_actions(self) -> list[Action]:
        """What is to be done with workers, in order."""
        self._fill_workers()
        taken, self._actions = self._actions, []
        return taken

    @property
    def gathered(self) -> int:
        """How many outcomes and new jobs wait for the next turn."""
        return self.ledger.entries + sum([len(batch.jobs) for batch in self._batches])

    @property
    def idle(self) -> bool:
        """Whether nothing is claimed and nothing waits for a commit."""
        held = any(state.held for state in self.workers.values())
        claimed = held or self._claimed or any(self._waiting())
        return not (claimed or self._under_way or self.ledger.entries or self._batches)

    # --- rules

    def _due(self, at: int) -> None:
        if self.next_due is None or at < self.next_due:
            self.next_due = at

    def _waiting(self) -> tuple[deque[Held], ...]:
        """What is claimed and that no worker has."""
        return (*self.ready.values(), self.isolation.suspects)

    def _drop_all(self, state: WorkerState, ids: Iterable[int], stale: list[int]) -> list[Held]:
        """Take jobs from a worker; the ids that it does not hold go to `stale`."""
        dropped: list[Held] = []
        take, lanes = state.held.pop, state.lanes
        for job_id in ids:
            held = take(job_id, None)
            if held is None:
                stale.append(job_id)
                continue
            dropped.append(held)
            load = lanes[held.lane]
            load.count -= 1
            load.backlog_ns = load.backlog_ns - held.estimate_ns if load.count else 0.0
        return dropped

    def _lane(self, kind: str) -> Lane:
        spec = self.kinds.get(kind)
        return "sync" if spec is None else spec.lane

    def _sort_anew(self) -> None:
        """What is claimed and waits here goes where it belongs by now."""
        waiting = [held for queue in self._waiting() for held in queue]
        for queue in self._waiting():
            queue.clear()
        for held in waiting:
            self._place(held)

    def _given_back(self, held: Held) -> None:
        """A worker had it, and has not begun it."""
        if self.judge.unbegun(held):
            self.gate.ended((held.job.id,))
        else:
            self._place(held)

    def _place(self, held: Held) -> None:
        """A claimed job that no worker has: to where it can go on from."""
        job = held.job
        spec = self.kinds.get(job.kind)
        if self.stopping:
            self.ledger.released(held)
        elif spec is None:
            self.judge.park_kind(held)
        elif spec.needs and (reason := self.gate.parks(spec.needs, job.id)) is not None:
            self.ledger.parked(held, reason)
        elif is_suspect(held):
            if not self.isolation.take(held):
                self.ledger.parked(held, SUSPECT_REASON)
                self.gate.ended((job.id,))
        else:
            held.estimate_ns, held.lane = self._run_times.estimate_ns(job.kind, spec.lane), spec.lane
            self.ready[held.lane].append(held)

    def _unblock_for(self, queue: str, kind: str) -> None:
        """A queue whose head waits for a full lane may get more urgent jobs of the other lane."""
        lane = self.queues.blocked(queue)
        if lane is not None and self._lane(kind) != lane:
            self.queues.unblock(queue)

    def _rotate(self, result: Committed, claimed: Iterable[tuple[str, str]]) -> None:
        """Learn from what the claims found: `claimed` are queues and kinds."""
        if result.drained:  # a turn that is under way may bring jobs for them
            coming = {job.queue for turn, _ in self._under_way for batch in turn.batches for job in batch.jobs}
            for name in set(result.drained) - coming:
                self.queues.empty(name)
        for name in result.filled:
            self.queues.fill(name)
        served: dict[str, set[Lane]] = {}
        for queue, kind in claimed:
            served.setdefault(queue, set()).add(self._lane(kind))
        for name, lanes in served.items():
            blocked = self.queues.blocked(name)
            if blocked is not None and lanes != {blocked}:
                self.queues.unblock(name)
        self.queues.served(served)

    def _adapt(self, claimed: Mapping[tuple[str, str], int], released: Counter[str]) -> None:
        """Claim from each queue about as much as finds a worker: less after a surplus, more again without one."""
        counts: Counter[str] = Counter()
        for (queue, _), count in claimed.items():
            counts[queue] += count
        for queue, count in counts.items():
            self.queues.adapt(queue, count, released[queue])

    def _room(self) -> dict[Lane, int]:
        """How many more jobs each lane can take."""
        lanes = set() if self.stopping else {spec.lane for spec in self.kinds.values()}
        waiting = {lane: len(ready) for lane, ready in self.ready.items()}
        for (_, kind), count in self._claimed.items():
            waiting[self._lane(kind)] += count
        for _, asked in self._under_way:
            for lane, count in asked.items():
                waiting[lane] += count
        return self._claimable.free(lanes, self.workers.values(), waiting, self._saturated)

    def _give_back_surplus(self) -> Counter[str]:
        """Release what was claimed but finds no worker, so that it can be cancelled and is seen as waiting.

        Returns how many of each queue's jobs that were.
        """
        released: Counter[str] = Counter()
        for lane, ready in self.ready.items():
            allowed = self._claimable.reserve(lane, sum(state.open for state in self.workers.values())) if ready else 0
            while len(ready) > allowed:
                held = ready.pop()
                self.ledger.released(held)
                self.queues.block(held.job.queue, lane)
                released[held.job.queue] += 1
                self._saturated.add(lane)
        return released

    def _fill_workers(self) -> None:
        if self.isolation.suspects:
            action = self.isolation.next_action(self.workers.values(), self.stopping)
            if action is not None:
                self._actions.append(action)
        else:
            self._end_isolation()
        for lane, ready in self.ready.items():
            if ready:
                self._fill_lane(lane, ready)

    def _fill_lane(self, lane: Lane, ready: deque[Held]) -> None:
        able = [state for state in self.workers.values() if state.open]
        # Of equals, the one with less in its other lane: a job there may hold the GIL, or the loop.
        able.sort(key=lambda state: (state.lanes[lane].backlog_ns, len(state.held)))
        for position, state in enumerate(able):
            share = -(-len(ready) // (len(able) - position))
            batch = take_batch(state, lane, ready, share, self.limits)
            if batch:
                self._actions.append(Send(state.id, batch))

    def _end_isolation(self) -> None:
        for state in self.workers.values():
            if state.isolated and not state.held:
                self.drain_worker(state.id)
