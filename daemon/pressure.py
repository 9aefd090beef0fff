"""Full queues: which new jobs go in, which wait for room, which are refused, and what is shed for them.

Pure: it is told what is in the queues (`counted`) and what every turn has changed (`committed`), and has no clock. Its
numbers are those of the disk, but for what changes outside of turns; whoever does that says so with `doubt`.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from perdure.config.queues import BLOCK, SHED, QueueLimits, QueueSettings
from perdure.duration import format_duration
from perdure.errors import QueueFull
from perdure.store.models import Committed, Depth, NewBatch, NewJob, Shed, Turn
from perdure.store.states import AVAILABLE, PARKED, RETRYABLE, SCHEDULED
from perdure.wire.data import Enqueued, QueueView

#: Jobs that count: those that run have their place already, those that have ended need none.
WAITING: Final = (AVAILABLE, SCHEDULED, RETRYABLE, PARKED)
#: A queue that is over its limit, after retries or a restart with a lower one, is counted so much further.
BEYOND: Final = 1_000

_encode = msgspec.json.Encoder().encode


class Need(NamedTuple):
    """New jobs for one queue: so many that are available at once, and so many for later."""

    ready: int
    later: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.ready + self.later


#: The new jobs of a batch, by queue; only queues with limits are in it.
Needs = dict[str, Need]


class Gauge:
    """What is known of one queue with a limit.

    `waiting`: jobs on disk that count; `more`: there are even more, which nobody has counted. `coming`: jobs that were
    let in and are not on disk yet. `oldest_at`: since when the oldest available job could have run. `doubtful`:
    something has changed that nobody has counted.
    """

    __slots__ = ("coming", "doubtful", "limits", "more", "name", "oldest_at", "waiting")

    def __init__(self, name: str, limits: QueueSettings) -> None:
        self.name = name
        self.limits = limits
        self.waiting = 0
        self.coming = 0
        self.more = False
        self.doubtful = True
        self.oldest_at: int | None = None

    @property
    def bound(self) -> int:
        """How far to count."""
        return self.limits.max_depth + BEYOND

    @property
    def idle(self) -> bool:
        """Whether nothing is in it, so that it need not be kept."""
        return not (self.waiting or self.coming or self.more)

    def counted(self, depth: Depth) -> None:
        """This is on disk."""
        self.waiting, self.oldest_at = depth.waiting, depth.oldest_at
        self.more = depth.waiting >= self.bound
        self.doubtful = False

    def change(self, count: int) -> None:
        """So many more, or less, wait."""
        if count > 0 or not self.more:
            self.waiting = max(0, self.waiting + count)
        if not (self.waiting or self.more):
            self.oldest_at = None

    def age_ms(self, now: int) -> int:
        """For how long its oldest available job could have run."""
        return 0 if self.oldest_at is None else max(0, now - self.oldest_at)

    def too_old(self, now: int) -> bool:
        """Whether it is full because of its age."""
        return 0 < self.limits.max_age_ms < self.age_ms(now)

    def excess(self, count: int, now: int) -> int:
        """How many of `count` new jobs are too many."""
        if self.too_old(now):
            return count
        if not self.limits.max_depth:
            return 0
        return min(count, max(0, self.waiting + self.coming + count - self.limits.max_depth))

    def pressure(self, now: int) -> float:
        """How near it is to a limit: 0.0 to 1.0 and above."""
        return pressure(self.limits, self.waiting + self.coming, self.age_ms(now))

    def why(self, count: int, now: int) -> str:
        """Why `count` more do not go in, in words."""
        limits = self.limits
        if self.too_old(now):
            age, limit = format_duration(self.age_ms(now), approx=True), format_duration(limits.max_age_ms)
            return f"its oldest job has been ready for {age}, and its limit is {limit} (max_age)"
        there = f"{self.waiting + self.coming:,}{' or more' if self.more else ''}"
        jobs = "job waits" if there == "1" else "jobs wait"
        limit = f"its limit is {limits.max_depth:,} (max_depth)"
        return f"{there} {jobs} in it, {limit}" + (f", and {count:,} came at once" if count > 1 else "")


@dataclass(eq=False, slots=True)
class Waiting:
    """A batch in the line for room. `ticket` is its owner's."""

    batch: NewBatch
    needs: Needs
    ticket: object


class Pressure:
    """The gauges of all queues with limits, and the lines before those that let producers wait."""

    def __init__(self, limits: QueueLimits) -> None:
        self._limits = limits
        self.gauges: dict[str, Gauge] = {}
        self._lines: dict[str, OrderedDict[Waiting, None]] = {}
        #: Claimed jobs of queues with limits: what comes back takes room again.
        self._claimed: dict[int, str] = {}
        #: What was let in and is not on disk yet, by the identity of its batch.
        self._on_the_way: dict[int, Needs] = {}
        #: Jobs of the next turn that need no room, as they are known to be duplicates.
        self._known: Counter[str] = Counter()

    # --- what new jobs need

    def needs(self, batch: NewBatch, now: int, held: Collection[tuple[str, str]] | None = None) -> Needs:
        """What a batch needs. `held`: unique keys that unfinished jobs have; a duplicate needs no room. None: nobody
        has asked for them, and every job counts."""
        jobs: Sequence[NewJob] = batch.jobs
        limited = [name for name in sorted({job.queue for job in jobs}) if name in self.gauges or self._new_gauge(name)]
        if not limited:
            return {}
        if held is not None:
            jobs = _without_duplicates(jobs, set(held))
        counts = Counter([job.queue for job in jobs])
        later = Counter([job.queue for job in jobs if job.scheduled_at is not None and job.scheduled_at > now])
        return {name: Need(counts[name] - later[name], later[name]) for name in limited if counts[name]}

    def _new_gauge(self, name: str) -> Gauge | None:
        limits = self._limits.of(name)
        if limits is None:
            return None
        gauge = self.gauges[name] = Gauge(name, limits)
        return gauge

    # --- what is in the queues

    def doubtful(self, names: Iterable[str]) -> list[str]:
        """Those of these queues that must be counted before anything is decided."""
        return [name for name in names if (gauge := self.gauges.get(name)) is None or gauge.doubtful]

    def doubt(self) -> None:
        """Something has changed outside of a turn."""
        for gauge in self.gauges.values():
            gauge.doubtful = True

    def counted(self, depths: dict[str, Depth]) -> None:
        """This is on disk, after every turn that `committed` has seen and before any other."""
        for name, depth in depths.items():
            gauge = self.gauges.get(name) or self._new_gauge(name)
            if gauge is not None:
                gauge.counted(depth)

    def aged(self, depths: dict[str, Depth]) -> None:
        """So old are these queues; nobody has counted their jobs."""
        for name, depth in depths.items():
            if (gauge := self.gauges.get(name)) is not None:
                gauge.oldest_at = depth.oldest_at

    def bounds(self, names: Iterable[str]) -> dict[str, int]:
        """How far to count these queues."""
        return {name: gauge.bound for name in names if (gauge := self.gauges.get(name) or self._new_gauge(name))}

    def to_count(self, *, all_of_them: bool = False) -> dict[str, int]:
        """What to count now and then, and how far; 0: only its age is asked for. Empty queues are forgotten."""
        wanted = {name for waiting in self.in_line for name in waiting.needs}
        for name in [name for name, gauge in self.gauges.items() if gauge.idle and name not in wanted]:
            del self.gauges[name]
        count = {name: all_of_them or gauge.doubtful or gauge.more for name, gauge in self.gauges.items()}
        return {
            name: gauge.bound if count[name] else 0
            for name, gauge in self.gauges.items()
            if count[name] or gauge.limits.max_age_ms
        }

    def committed(self, turn: Turn, result: Committed) -> None:
        """A turn is on disk."""
        for batch, places in zip(turn.batches, result.placed, strict=True):
            self._placed(batch, places, turn.now)
        for _, queue in result.shed:
            self._change(queue, -1)
        if self._claimed:
            self._came_back(turn)
        # Also of queues that nobody has counted yet: their jobs may come back after a count.
        limited = {claim.queue for claim in turn.claims if self._limits.of(claim.queue) is not None}
        if limited:
            for job in result.claimed:
                if job.queue in limited:
                    self._claimed[job.id] = job.queue
                    self._change(job.queue, -1)
        if result.stale:
            self.doubt()

    def refused(self) -> None:
        """Nothing of what is coming comes: the disk is full."""
        for gauge in self.gauges.values():
            gauge.coming = 0
        self._on_the_way.clear()
        self._known.clear()

    def _placed(self, batch: NewBatch, places: list[Enqueued] | Exception, now: int) -> None:
        on_the_way = self._on_the_way.pop(id(batch), None)
        for name, need in (self.needs(batch, now) if on_the_way is None else on_the_way).items():
            gauge = self.gauges.get(name)
            if gauge is None:
                continue
            gauge.coming = max(0, gauge.coming - need.total)
            if isinstance(places, Exception):
                continue
            pairs = zip(batch.jobs, places, strict=True)
            gauge.change(sum([job.queue == name and not place.duplicate for job, place in pairs]))
            if gauge.oldest_at is None and need.ready and gauge.waiting:
                gauge.oldest_at = now

    def _came_back(self, turn: Turn) -> None:
        """Of the claimed jobs some have ended, and some wait again."""
        claimed = self._claimed
        for ids in turn.completed.values():
            for job_id in ids:
                claimed.pop(job_id, None)
        for ended in (turn.results, turn.spooled, turn.buried, turn.cancelled, turn.stopped):
            for one in ended:
                claimed.pop(one[0], None)
        for back in (turn.retried, turn.postponed, turn.interrupted, turn.released, turn.parked):
            for again in back:
                queue = claimed.pop(again.id, None)
                if queue is not None:
                    self._change(queue, 1)

    def _change(self, queue: str, count: int) -> None:
        gauge = self.gauges.get(queue)
        if gauge is not None:
            gauge.change(count)

    # --- who goes in

    def fits(self, needs: Needs, now: int) -> bool:
        """Whether these go in at once, at nobody's expense."""
        return not any(self.gauges[name].excess(need.total, now) or name in self._lines for name, need in needs.items())

    def admit(self, batch: NewBatch, needs: Needs, now: int) -> dict[str, int] | None:
        """Let a batch in: what must be shed for it, by queue. None: it has to wait. Raises QueueFull."""
        if any(name in self._lines for name in needs):
            self._refuse_if(needs, now)
            return None
        return self._let_in(batch, needs, now)

    def join(self, batch: NewBatch, needs: Needs, ticket: object) -> Waiting:
        """Stand in the line of every queue that lets producers wait."""
        waiting = Waiting(batch, needs, ticket)
        for name in self._waited_for(needs):
            self._lines.setdefault(name, OrderedDict())[waiting] = None
        return waiting

    def leave(self, waiting: Waiting) -> bool:
        """Stand there no more; False: it has left already."""
        was_there = False
        for name in self._waited_for(waiting.needs):
            line = self._lines.get(name)
            if line is not None and waiting in line:
                was_there = True
                del line[waiting]
                if not line:
                    del self._lines[name]
        return was_there

    def advance(self, now: int, gone: Callable[[Waiting], bool]) -> list[tuple[Waiting, dict[str, int] | QueueFull]]:
        """Let in who is first in all of its lines and finds room, in the order of arrival.

        With each, what must be shed for it, or why it is refused after all. Those who are `gone` only leave.
        """
        told: list[tuple[Waiting, dict[str, int] | QueueFull]] = []
        names = list(self._lines)
        while names:
            name = names.pop()
            first = self._first(name)
            if first is None:
                continue
            if not gone(first):
                if any(self._first(other) is not first for other in self._waited_for(first.needs)):
                    continue
                if self.doubtful(first.needs):
                    continue
                try:
                    outcome = self._let_in(first.batch, first.needs, now)
                except QueueFull as error:
                    told.append((first, error))
                else:
                    if outcome is None:
                        continue
                    told.append((first, outcome))
            self.leave(first)
            names += self._waited_for(first.needs)
        return told

    @property
    def in_line(self) -> list[Waiting]:
        """All who wait."""
        return list(dict.fromkeys(waiting for line in self._lines.values() for waiting in line))

    def _first(self, name: str) -> Waiting | None:
        line = self._lines.get(name)
        return next(iter(line)) if line else None

    def _waited_for(self, needs: Needs) -> list[str]:
        return [name for name in needs if self.gauges[name].limits.when_full == BLOCK]

    def _let_in(self, batch: NewBatch, needs: Needs, now: int) -> dict[str, int] | None:
        sheds = self._refuse_if(needs, now)
        if any(self.gauges[name].excess(needs[name].total, now) for name in self._waited_for(needs)):
            return None
        on_the_way = self._on_the_way[id(batch)] = {}
        for name, every in self.needs(batch, now).items():
            need = on_the_way[name] = needs.get(name, Need(0, 0))
            self.gauges[name].coming += need.total
            if need.total < every.total:
                self._known[name] += every.total - need.total
        return sheds

    def _refuse_if(self, needs: Needs, now: int) -> dict[str, int]:
        """What must be shed; raises QueueFull when waiting would not help, or is not what the queue wants."""
        sheds = {}
        for name, need in needs.items():
            gauge = self.gauges[name]
            excess, policy = gauge.excess(need.total, now), gauge.limits.when_full
            if policy == BLOCK and need.total > gauge.limits.max_depth > 0:
                raise QueueFull(
                    f"{need.total:,} jobs at once never fit into queue {name}, whose limit is "
                    f"{gauge.limits.max_depth:,} (max_depth). Nothing was enqueued; send fewer at a time"
                )
            if excess and policy == SHED and not need.later:
                sheds[name] = excess
            elif excess and policy != BLOCK:
                raise QueueFull(self.message([name], needs, now))
        return sheds

    # --- words and figures

    def message(self, names: Sequence[str], needs: Needs, now: int, patience_ms: int | None = None) -> str:
        """That nothing was enqueued, and why. `patience_ms`: after so long in the line."""
        name = next((name for name in names if self.gauges[name].excess(needs[name].total, now)), names[0])
        still = f" still, after {format_duration(patience_ms)}" if patience_ms else ""
        later = ""
        if self.gauges[name].limits.when_full == SHED:
            later = " Jobs for later shed no others."
        return (
            f"queue {name} is full{still}: {self.gauges[name].why(needs[name].total, now)}. Nothing was enqueued."
            f"{later} Try again later, or raise the limit ([queues.{name}])"
        )

    def gave_up(self, waiting: Waiting, now: int, patience_ms: int) -> QueueFull:
        """What is said to one who has waited for so long."""
        return QueueFull(self.message(self._waited_for(waiting.needs), waiting.needs, now, patience_ms))

    def patience_ms(self, needs: Needs) -> int:
        """How long one may wait who has not said so."""
        return max(self.gauges[name].limits.patience_ms for name in self._waited_for(needs))

    def shed(self, sheds: dict[str, int], now: int) -> list[Shed]:
        """What a turn is told."""
        known, self._known = self._known, Counter()
        return [Shed(name, surplus, self._shed_entry(name, now), known[name]) for name, surplus in sheds.items()]

    def _shed_entry(self, name: str, now: int) -> str:
        gauge = self.gauges[name]
        message = f"queue {name} was full, and this was the least urgent of its available jobs: {gauge.why(1, now)}"
        return _encode({"at": now, "type": "QueueFull", "message": message}).decode()

    def answers(self, batch: NewBatch, places: Sequence[Enqueued], now: int) -> list[Enqueued]:
        """What a producer is told, with the pressure of each job's queue."""
        levels: dict[str, float] = {}
        for job in batch.jobs:
            if job.queue not in levels:
                gauge = self.gauges.get(job.queue)
                levels[job.queue] = gauge.pressure(now) if gauge else 0.0
        pairs = zip(batch.jobs, places, strict=True)
        return [Enqueued(place.id, place.duplicate, place.shed, levels[job.queue]) for job, place in pairs]


def pressure(limits: QueueSettings, waiting: int, age_ms: int) -> float:
    """How near a queue is to one of its limits."""
    by_depth = waiting / limits.max_depth if limits.max_depth else 0.0
    by_age = age_ms / limits.max_age_ms if limits.max_age_ms else 0.0
    return round(max(by_depth, by_age), 3)


def _without_duplicates(jobs: Sequence[NewJob], held: set[tuple[str, str]]) -> list[NewJob]:
    """Those that would go in, when unfinished jobs have the keys of `held`."""
    left = []
    for job in jobs:
        if job.unique_key is not None:
            if (job.kind, job.unique_key) in held:
                continue
            held.add((job.kind, job.unique_key))
        left.append(job)
    return left


def unique_keys(batch: NewBatch, needs: Needs) -> set[tuple[str, str]]:
    """The (kind, unique key) of a batch's jobs in queues with limits."""
    return {(job.kind, job.unique_key) for job in batch.jobs if job.unique_key is not None and job.queue in needs}


def show_limits(views: list[QueueView], limits: QueueLimits, oldest: dict[str, Depth], now: int) -> list[QueueView]:
    """The queues with their limits; `oldest` has those that are limited by age. Those with a section are there, too."""
    named = {view.name for view in views}
    views += [QueueView(name, {}) for name in limits.named() if name not in named]
    for view in views:
        found = limits.of(view.name)
        if found is None:
            continue
        view.max_depth, view.max_age_ms, view.when_full = found.max_depth, found.max_age_ms, found.when_full
        waiting = sum(view.counts.get(state, 0) for state in WAITING)
        depth = oldest.get(view.name)
        age_ms = 0 if depth is None or depth.oldest_at is None else max(0, now - depth.oldest_at)
        view.pressure = pressure(found, waiting, age_ms)
    return sorted(views, key=lambda view: view.name)
