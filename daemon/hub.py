"""Who follows what: takes the news of turns, requests and workers, and gives each follower what it asked for.

While nobody listens it costs one look at `awake` a turn, and one at `followed` for each batch of jobs that is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from perdure.clock import Clock
from perdure.daemon.delivery import Delivery
from perdure.daemon.follower import Follower, Join
from perdure.daemon.late import Latecomers
from perdure.daemon.news_of_turns import ENDS, Facts, TurnNews, ended_ids
from perdure.daemon.subscriber import BUFFER_BYTES, Bounds, entry_bytes
from perdure.errors import DaemonStopping, InvalidOption, Refused
from perdure.store.contract import Store
from perdure.store.models import ClaimedJob, Committed, Turn
from perdure.store.states import RUNNING
from perdure.wire.control import Subscribe, Subscribed
from perdure.wire.peer import Peer
from perdure.wire.streams import TOPICS, Emitted, Entry, Grant, JobSkipped, LogText, Progress, StateChange
from perdure.wire.work import Follow, FollowQueues, Told, Unfollow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from perdure.daemon.ledger import Held

#: Jobs that one subscription may name: the last state of each is kept for it, however slowly it reads.
MOST_IDS = 1_000
#: Subscriptions at the same time: of one client, and of all.
MOST_OF_ONE = 1_000
MOST_OF_ALL = 10_000
#: What may wait for all followers together, about; so each may have less when there are many, but never less than this.
ALL_BYTES = 64 * BUFFER_BYTES
LEAST_BYTES = 64 * 1024

_UNKNOWN = Facts("", "", 0)


class Worker(Protocol):
    """A worker, as far as the hub needs it."""

    def send(self, message: object) -> None:
        """Tell it something; one that is gone hears nothing."""
        ...


class Surroundings(Protocol):
    """What is around the hub: the supervisor, or a test."""

    store: Store
    clock: Clock
    logs_dir: Path

    def send(self, peer: Peer, message: object) -> object:
        """Tell a client something; one that is gone hears nothing."""
        ...

    def worker(self, number: int) -> Worker | None:
        """The worker of this number, if it is there."""
        ...

    def ready_workers(self) -> Iterable[Worker]:
        """All that have said hello."""
        ...

    def held(self) -> Iterable[tuple[int, Mapping[int, Held]]]:
        """What each worker holds, by id of the job."""
        ...

    def claimed(self) -> Iterable[ClaimedJob]:
        """All jobs that are claimed, also those that no worker has yet."""
        ...


class Hub:
    """All subscriptions. Nothing of a client is left here when it is gone."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        loop = asyncio.get_running_loop()
        self._delivery = Delivery(loop, around.send, self._remove)
        self._late = Latecomers(self, around)
        self._bounds = Bounds()
        self._numbers = 0
        self._stopping = False
        #: Somebody listens, or there is progress to be forgotten in time.
        self.awake = False
        #: Followers by the ids that they asked for; and what is known of those jobs.
        self.followed: dict[int, set[Follower]] = {}
        self.names: dict[int, Facts] = {}
        #: The newest progress of each job that runs.
        self.progress: dict[int, Progress] = {}
        self._by_queue: dict[str, set[Follower]] = {}
        self._everything: set[Follower] = set()
        self._by_peer: dict[Peer, dict[int, Follower]] = {}
        #: Claimed jobs, while somebody follows a queue or everything.
        self._rows: dict[int, Facts] = {}
        #: What workers were told last of queues that are followed.
        self._queues_told = FollowQueues([])
        self._lookups: set[asyncio.Task[None]] = set()
        self._count = 0

    # --- clients

    async def subscribe(self, request: Subscribe, peer: Peer) -> Subscribed:
        """Begin; the story so far is on its way when this returns. Raises NotFound, InvalidOption, Refused."""
        self._check(request, peer)
        self._numbers += 1
        follower = Follower(self._numbers, peer, request, self._bounds)
        self._add(follower)
        try:
            if follower.ids:
                await self._late.find(follower)
            else:
                self._greet(follower)
        except BaseException:
            self._remove(follower)
            raise
        self._delivery.wake(follower)
        return Subscribed(follower.number)

    def unsubscribe(self, number: int, peer: Peer) -> None:
        """End it; one that has ended already is no mistake."""
        follower = self._by_peer.get(peer, {}).get(number)
        if follower is not None:
            self._remove(follower)

    def granted(self, grant: Grant, peer: Peer) -> None:
        """A client takes more messages."""
        follower = self._by_peer.get(peer, {}).get(grant.subscription)
        if follower is not None:
            follower.buffer.grant(grant.messages)
            self._delivery.wake(follower)

    def gone(self, peer: Peer) -> None:
        """A client is gone, and all its subscriptions with it."""
        for follower in list(self._by_peer.get(peer, {}).values()):
            self._remove(follower)

    def close(self) -> None:
        """The daemon stops: send what can be sent, and take no more subscriptions."""
        self._stopping = True
        for followers in list(self._by_peer.values()):
            for follower in list(followers.values()):
                self._delivery.flush(follower)
                self._remove(follower)
        for task in self._lookups:
            task.cancel()
        self._delivery.close()

    @property
    def skipped(self) -> int:
        """How many entries were left out since the start, for all subscribers together."""
        return self._delivery.skipped

    def figures(self) -> dict[str, int]:
        """What there is of everything, for people and for tests."""
        followers = [one for some in self._by_peer.values() for one in some.values()]
        return {
            "subscribers": self._count,
            "clients": len(self._by_peer),
            "followed": len(self.followed) + len(self._by_queue) + len(self._everything),
            "names": len(self.names) + len(self._rows),
            "progress": len(self.progress),
            "waiting_entries": sum(len(one.buffer) for one in followers),
            "waiting_bytes": sum(one.buffer.bytes for one in followers),
            "planned": len(self._delivery),
            "timers": int(self._delivery.armed),
            "tasks": len(self._lookups) + len(self._late),
        }

    # --- what happens

    def committed(self, turn: Turn, result: Committed) -> None:
        """A turn is on disk."""
        if self._count:
            # First all, then one by one: who ends with one of them asks for no more of the others.
            for change in list(TurnNews(turn, result, self._facts, all_new=self._wide).changes()):
                self._tell_state(change)
            for job_id in ended_ids(turn):
                self._rows.pop(job_id, None)
                if job_id in self.followed:
                    self._late.left_worker(job_id)
            for row in result.claimed:
                if self._wide:
                    self._rows[row.id] = Facts(row.kind, row.queue, row.attempt)
                if row.id in self.followed:
                    self.names[row.id] = Facts(row.kind, row.queue, row.attempt)
        if self.progress:
            for job_id in ended_ids(turn):
                self.progress.pop(job_id, None)
        self._settle()

    def changed(self, ids: Iterable[int], state: str) -> None:
        """Jobs are in this state by request, without a turn."""
        if not self._count:
            return
        now, unknown = self._around.clock.now_ms(), []
        for job_id in ids:
            known = self.names.get(job_id)
            if known is not None:
                attempt = known.attempt if state in ENDS else 0
                self._tell_state(StateChange(job_id, state, now, known.kind, known.queue, attempt))
            else:
                unknown.append(job_id)
        if unknown and self._wide:
            self._look_up(unknown, state, now)

    def told(self, number: int, message: Told) -> None:
        """A worker has told something. What it does not hold (any more) it cannot speak for."""
        held = next((jobs for worker, jobs in self._around.held() if worker == number), None)
        if held is None:
            return
        for entry in message.entries:
            holding = held.get(entry.id)
            if holding is None:
                continue
            if isinstance(entry, Progress):
                self.progress[entry.id] = entry
                self.awake = True
            if self._count:
                self._tell(entry, holding.job.queue, number)
        if self._count:
            for skipped in message.skipped:
                holding = held.get(skipped.id)
                if holding is not None:
                    self._tell_skipped(skipped, holding.job.queue)

    def sending(self, number: int, jobs: Sequence[ClaimedJob]) -> None:
        """These are about to be sent to a worker: it must know first which of them are followed."""
        ids = [job.id for job in jobs if any(one.listens for one in self.followed.get(job.id, ()))]
        worker = self._around.worker(number)
        if ids and worker is not None:
            worker.send(Follow(ids, self._late.sent_to(number, ids)))

    def worker_ready(self, number: int) -> None:
        """A worker has said hello."""
        worker = self._around.worker(number)
        if worker is not None and self._queues_told != FollowQueues([]):
            worker.send(self._queues_told)

    def worker_gone(self, number: int) -> None:
        """A worker has ended: no story comes from it any more."""
        if self.followed:
            self._late.worker_gone(number)

    def returned(self, ids: Iterable[int]) -> None:
        """A worker gave these back."""
        if self.followed:
            for job_id in ids:
                self._late.left_worker(job_id)

    # --- telling followers

    def tell_one(self, follower: Follower, change: StateChange) -> None:
        """A state of a job that a follower has asked for by id."""
        mark = (change.state, change.attempt)
        if follower.closed or follower.last_told.get(change.id) == mark:
            return  # the store knew of it before we heard of it
        follower.last_told[change.id] = mark
        if "state" in follower.topics:
            follower.buffer.offer(change, entry_bytes(change))
        if change.state not in ENDS:
            follower.left.add(change.id)
        else:
            follower.left.discard(change.id)
            if not follower.left:
                self._unregister(follower)
                follower.buffer.ending = True
        self._delivery.wake(follower)

    def offer(self, follower: Follower, entry: Entry) -> None:
        """Something else for one follower, if it wants to hear that."""
        if not follower.closed and topic_of(entry) in follower.topics:
            follower.buffer.offer(entry, entry_bytes(entry))
            self._delivery.wake(follower)

    def _tell_state(self, change: StateChange) -> None:
        for follower in tuple(self.followed.get(change.id, ())):
            join = follower.joins.get(change.id)
            if join is None or not join.holds(change):
                self.tell_one(follower, change)
        if self._wide:
            self._tell_wide(change, change.queue)

    def _tell(self, entry: Progress | LogText | Emitted, queue: str, worker: int) -> None:
        if not isinstance(entry, Progress) and entry.earlier:
            self._late.story(entry, worker)
            return
        for follower in self.followed.get(entry.id, ()):
            # What is told before the story has come is a part of the story.
            if entry.id not in follower.joins or isinstance(entry, Progress):
                self.offer(follower, entry)
        if self._wide:
            self._tell_wide(entry, queue)

    def _tell_wide(self, entry: Entry, queue: str) -> None:
        size, topic = entry_bytes(entry), topic_of(entry)
        for followers in (self._by_queue.get(queue, ()), self._everything):
            for follower in followers:
                if topic in follower.topics:
                    follower.buffer.offer(entry, size)
                    self._delivery.wake(follower)

    def _tell_skipped(self, skipped: JobSkipped, queue: str) -> None:
        by_id = (one for one in self.followed.get(skipped.id, ()) if skipped.id not in one.joins)
        for follower in (*by_id, *self._by_queue.get(queue, ()), *self._everything):
            lines = skipped.lines if "log" in follower.topics else 0
            values = skipped.values if "emit" in follower.topics else 0
            follower.buffer.skip(lines=lines, values=values)
            self._delivery.wake(follower)

    def _facts(self, job_id: int) -> Facts | None:
        """What is known of a job that somebody listens to."""
        if job_id in self.followed:
            return self.names.get(job_id) or self._rows.get(job_id, _UNKNOWN)
        return self._rows.get(job_id, _UNKNOWN) if self._wide else None

    # --- coming and going

    @property
    def _wide(self) -> bool:
        """Whether somebody follows queues, or everything."""
        return bool(self._by_queue or self._everything)

    def _check(self, request: Subscribe, peer: Peer) -> None:
        if self._stopping:
            raise DaemonStopping
        if (bool(request.ids) + bool(request.queues) + request.everything) != 1:
            raise InvalidOption("a subscription is for jobs by id, or for queues, or for everything: for one of these")
        if len(request.ids) > MOST_IDS:
            raise InvalidOption(
                f"{len(request.ids):,} ids in one subscription; the most is {MOST_IDS:,}. Follow their queue instead"
            )
        if not request.topics:
            raise InvalidOption(f"a subscription without topics; there are: {', '.join(TOPICS)}")
        if self._count >= MOST_OF_ALL or len(self._by_peer.get(peer, ())) >= MOST_OF_ONE:
            raise Refused(
                f"there are {self._count:,} subscriptions already; the most is {MOST_OF_ONE:,} of one client and "
                f"{MOST_OF_ALL:,} of all. Subscribe to several jobs at once"
            )

    def _add(self, follower: Follower) -> None:
        was_wide = self._wide
        for job_id in follower.ids:
            self.followed.setdefault(job_id, set()).add(follower)
        for queue in follower.queues:
            self._by_queue.setdefault(queue, set()).add(follower)
        if follower.everything:
            self._everything.add(follower)
        self._by_peer.setdefault(follower.peer, {})[follower.number] = follower
        self._count += 1
        if self._wide and not was_wide:
            self._rows = {row.id: Facts(row.kind, row.queue, row.attempt) for row in self._around.claimed()}
        self._settle()
        self._tell_queues()

    def _remove(self, follower: Follower) -> None:
        """Nothing is left of it here; again is harmless."""
        if follower.closed:
            return
        follower.closed = True
        self._unregister(follower)
        self._late.forget(follower)
        self._delivery.forget(follower)
        mine = self._by_peer[follower.peer]
        del mine[follower.number]
        if not mine:
            del self._by_peer[follower.peer]
        self._count -= 1
        self._settle()

    def _unregister(self, follower: Follower) -> None:
        """It gets nothing new; what waits for it still does."""
        silent: list[int] = []
        for job_id in follower.ids:
            others = self.followed.get(job_id)
            if others is None or follower not in others:
                continue
            others.remove(follower)
            if follower.listens and not any(one.listens for one in others):
                silent.append(job_id)
            if not others:
                del self.followed[job_id]
                self.names.pop(job_id, None)
        for queue in follower.queues:
            others = self._by_queue.get(queue, set())
            others.discard(follower)
            if not others:
                self._by_queue.pop(queue, None)
        self._everything.discard(follower)
        if not self._wide:
            self._rows.clear()
        self._tell_unfollow(silent)
        self._tell_queues()

    def _settle(self) -> None:
        self.awake = bool(self._count or self.progress)
        self._bounds.bytes = max(LEAST_BYTES, min(BUFFER_BYTES, ALL_BYTES // max(1, self._count)))

    def _tell_unfollow(self, ids: Sequence[int]) -> None:
        if ids:
            for number, jobs in self._around.held():
                mine = [job_id for job_id in ids if job_id in jobs]
                worker = self._around.worker(number)
                if mine and worker is not None:
                    worker.send(Unfollow(mine))

    def _tell_queues(self) -> None:
        """Workers must know whose log lines and values anybody wants."""
        queues = sorted(name for name, some in self._by_queue.items() if any(one.listens for one in some))
        wanted = FollowQueues(queues, any(one.listens for one in self._everything))
        if wanted != self._queues_told:
            self._queues_told = wanted
            for worker in self._around.ready_workers():
                worker.send(wanted)

    def _greet(self, follower: Follower) -> None:
        """What runs now, for one who follows queues or everything."""
        now = self._around.clock.now_ms()
        for _, jobs in self._around.held():
            for job_id, held in jobs.items():
                if follower.everything or held.job.queue in follower.queues:
                    job = held.job
                    self.offer(follower, StateChange(job_id, RUNNING, now, job.kind, job.queue, job.attempt))
                    if job_id in self.progress:
                        self.offer(follower, self.progress[job_id])

    def _look_up(self, ids: Sequence[int], state: str, now: int) -> None:
        """Whoever follows queues wants to know which queues these jobs are in."""
        task = asyncio.ensure_future(self._tell_found(ids, state, now))
        self._lookups.add(task)
        task.add_done_callback(self._looked_up)

    async def _tell_found(self, ids: Sequence[int], state: str, now: int) -> None:
        for job_id in ids:
            job = await self._around.store.get(job_id)
            if job is not None and self._wide:
                self._tell_wide(StateChange(job_id, state, now, job.kind, job.queue, job.attempt), job.queue)

    def _looked_up(self, task: asyncio.Task[None]) -> None:
        self._lookups.discard(task)
        if not task.cancelled():
            task.exception()


def topic_of(entry: Entry) -> str:
    """What a follower must have asked for to get this."""
    match entry:
        case StateChange():
            return "state"
        case Progress():
            return "progress"
        case LogText():
            return "log"
    return "emit"
