"""Takes the news of turns, requests and workers, and gives each follower what it asked for.

While nobody listens it costs one look at `awake` a turn, and one at `followed` for each batch of jobs that is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from perdure.clock import Clock
from perdure.daemon.delivery import Delivery
from perdure.daemon.follower import Follower
from perdure.daemon.late import Latecomers
from perdure.daemon.news_of_turns import ENDS, Facts, TurnNews, ended_ids
from perdure.daemon.roll import UNKNOWN, ById, Roll
from perdure.daemon.subscriber import entry_bytes, topic_of
from perdure.daemon.wide import Wide
from perdure.errors import DaemonStopping
from perdure.store.contract import Store
from perdure.store.models import ClaimedJob, Committed, Turn
from perdure.store.states import RUNNING
from perdure.wire.control import Subscribe, Subscribed
from perdure.wire.peer import Peer
from perdure.wire.streams import Emitted, Entry, Grant, JobSkipped, LogText, Progress, StateChange
from perdure.wire.work import Follow, FollowQueues, Told, Unfollow

if TYPE_CHECKING:
    from perdure.daemon.ledger import Held

#: At the end: how often to look whether followers have been told everything.
LAST_LOOKS_SECONDS = 0.005


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
        self.roll = Roll()
        #: Followers by the ids that they asked for.
        self.followed: Mapping[int, set[Follower]] = self.roll.by_id
        loop = asyncio.get_running_loop()
        self._delivery = Delivery(loop, around.send, self._remove)
        self._wide = Wide(loop, self.roll, self._delivery)
        self._late = Latecomers(self, around)
        #: Jobs of `followed` with the workers that were told to tell them: all that ever had them.
        self._tellers: dict[int, set[int]] = {}
        self._last_number = 0
        self._stopping = False
        #: Somebody listens, or there is something to be forgotten in time.
        self.awake = False
        #: The newest progress of each job that runs.
        self.progress: dict[int, Progress] = {}
        #: What workers were told last of queues that are followed.
        self._queues_told = FollowQueues([])
        self._lookups: set[asyncio.Task[None]] = set()

    # --- clients

    async def subscribe(self, request: Subscribe, peer: Peer) -> Subscribed:
        """Begin; the story so far is on its way when this returns. Raises NotFound, InvalidOption, Refused."""
        if self._stopping:
            raise DaemonStopping
        self.roll.check(request, peer)
        self._last_number += 1
        follower = Follower(self._last_number, peer, request, self.roll.bounds)
        self.roll.enter(follower, self._around.claimed())
        self._settle()
        self._tell_queues()
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
        follower = self.roll.get(peer, number)
        if follower is not None:
            self._remove(follower)

    def granted(self, grant: Grant, peer: Peer) -> None:
        """A client takes more messages."""
        follower = self.roll.get(peer, grant.subscription)
        if follower is not None:
            follower.buffer.grant(grant.messages)
            self._delivery.wake(follower)

    def gone(self, peer: Peer) -> None:
        """A client is gone, and all its subscriptions with it."""
        for follower in self.roll.of(peer):
            self._remove(follower)

    async def tell_the_rest(self, timeout_s: float) -> None:
        """The daemon stops: take no more subscriptions, and tell those that there are what has happened until now.

        A worker that ends may have written down more than it told, so the end of its last job waits for files to be
        read; and a follower must take what it has before it can be sent more. No longer than `timeout_s` seconds.
        """
        self._stopping = True
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while self._more_to_tell() and loop.time() < until:  # noqa: ASYNC110 - once, at the end, for many things
            await asyncio.sleep(LAST_LOOKS_SECONDS)

    def _more_to_tell(self) -> bool:
        """Send what can be sent; whether more is to come."""
        for follower in self.roll.all():
            self._delivery.flush(follower)
        left = self.roll.all()
        return bool(left) and (
            bool(self._lookups or len(self._wide))
            or any(one.joins or one.buffer.ending or not one.buffer.empty for one in left)
        )

    def close(self) -> None:
        """The daemon stops: send what can be sent at once, and take no more subscriptions."""
        self._stopping = True
        for follower in self.roll.all():
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
        return self.roll.figures() | {
            "progress": len(self.progress),
            "pending": len(self._wide),
            "planned": len(self._delivery),
            "timers": int(self._delivery.armed),
            "tasks": len(self._lookups) + self._late.tasks,
            "stories": len(self._late.asked),
            "tellers": len(self._tellers),
        }

    # --- what happens

    def committed(self, turn: Turn, result: Committed) -> None:
        """A turn is on disk."""
        roll = self.roll
        if self.followed:
            for change in tuple(TurnNews(turn, result, ById(roll)).changes()):
                self._tell_state(change)
        if roll.wide:
            self._wide.tell(self._read(turn, result))
        followed, asked, progress = self.followed, self._late.asked, self.progress
        if followed or asked or progress:
            for job_id in ended_ids(turn):
                if job_id in progress:
                    del progress[job_id]
                if job_id in followed or job_id in asked:
                    self._late.left_worker(job_id)
        self._settle()

    def _read(self, turn: Turn, result: Committed) -> Iterator[tuple[Entry, str]]:
        """The news of a turn for those who follow queues, or everything. The next turn is read after this one."""
        for change in TurnNews(turn, result, self.roll).changes():
            yield change, change.queue
        self.roll.note_ended(ended_ids(turn))
        self.roll.note_claimed(result.claimed)

    def changed(self, ids: Iterable[int], state: str) -> None:
        """Jobs are in this state by request, without a turn."""
        if not self.roll.count:
            return
        now, others = self._around.clock.now_ms(), []
        for job_id in ids:
            if job_id in self.followed:
                known = self.roll.names.get(job_id, UNKNOWN)
                attempt = known.attempt if state in ENDS else 0
                change = StateChange(job_id, state, now, known.kind, known.queue, attempt)
                self._tell_state(change)
                self._tell_wide([change])
            else:
                others.append(job_id)
        if others and self.roll.wide:
            task = asyncio.ensure_future(self._look_up(others, state, now))
            self._lookups.add(task)
            task.add_done_callback(self._looked_up)

    def told(self, number: int, message: Told) -> None:
        """A worker has told something. What it does not hold (any more) it cannot speak for."""
        held = next((jobs for worker, jobs in self._around.held() if worker == number), None)
        if held is None:
            return
        wide, told = self.roll.wide, list[tuple[Entry, str]]()
        woken: set[Follower] = set()
        for entry in message.entries:
            holding = held.get(entry.id)
            if holding is None:
                continue
            if isinstance(entry, Progress):
                self.progress[entry.id] = entry
                self.awake = True
            elif entry.earlier:
                # Also with nobody there: how many stories are still to come is counted by their ends.
                self._late.story(entry, number)
                continue
            self._tell(entry, woken)
            if wide:
                told.append((entry, holding.job.queue))
        # Once for all entries: a worker in a flood tells hundreds at a time.
        for follower in woken:
            self._delivery.wake(follower)
        if told:
            self._wide.tell(told)
        if self.roll.count:
            for skipped in message.skipped:
                holding = held.get(skipped.id)
                if holding is not None:
                    self._tell_skipped(skipped, holding.job.queue)

    def sending(self, number: int, jobs: Sequence[ClaimedJob]) -> None:
        """These are about to be sent to a worker: it must know first which of them are followed."""
        ids = [job.id for job in jobs if any(one.listens for one in self.followed.get(job.id, ()))]
        worker = self._around.worker(number)
        if ids and worker is not None:
            self.have_told(number, worker, ids, self._late.sent_to(number, ids))

    def have_told(self, number: int, worker: Worker, ids: list[int], story: list[int]) -> None:
        """A worker must tell these from now on; those of `story` from their beginning."""
        for job_id in ids:
            self._tellers.setdefault(job_id, set()).add(number)
        worker.send(Follow(ids, story))

    def worker_ready(self, number: int) -> None:
        """A worker has said hello."""
        worker = self._around.worker(number)
        if worker is not None and self._queues_told != FollowQueues([]):
            worker.send(self._queues_told)

    def worker_gone(self, number: int) -> None:
        """A worker has ended: what it has written down and not told is told from the files."""
        self._late.worker_gone(number, [job_id for job_id, tellers in self._tellers.items() if number in tellers])

    def returned(self, ids: Iterable[int]) -> None:
        """A worker gave these back."""
        if self._late.asked:
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
                self._retire(follower)
                follower.buffer.ending = True
        self._delivery.wake(follower)

    def offer(self, follower: Follower, entry: Entry) -> None:
        """Something else for one follower, if it wants to hear that."""
        if not follower.closed and topic_of(entry) in follower.topics:
            follower.buffer.offer(entry, entry_bytes(entry))
            self._delivery.wake(follower)

    def _tell_state(self, change: StateChange) -> None:
        if change.id in self.roll.names:
            self.roll.names[change.id] = Facts(change.kind, change.queue, change.attempt)
        for follower in tuple(self.followed.get(change.id, ())):
            join = follower.joins.get(change.id)
            if join is None or not join.holds(change):
                self.tell_one(follower, change)

    def _tell(self, entry: Progress | LogText | Emitted, woken: set[Follower]) -> None:
        """Something live, for those who follow the job by its id. They are to be woken by the caller."""
        for follower in self.followed.get(entry.id, ()):
            if not isinstance(entry, Progress):
                # What is told before the story has come is a part of the story.
                if entry.id in follower.joins:
                    continue
                follower.heard[entry.id].new(entry)
            if topic_of(entry) in follower.topics:
                follower.buffer.offer(entry, entry_bytes(entry))
                woken.add(follower)

    def _tell_wide(self, changes: Iterable[StateChange]) -> None:
        if self.roll.wide:
            self._wide.tell([(change, change.queue) for change in changes])

    def _tell_skipped(self, skipped: JobSkipped, queue: str) -> None:
        by_id = (one for one in self.followed.get(skipped.id, ()) if skipped.id not in one.joins)
        for follower in (*by_id, *self.roll.of_queue(queue)):
            lines = skipped.lines if "log" in follower.topics else 0
            values = skipped.values if "emit" in follower.topics else 0
            follower.buffer.skip(lines=lines, values=values)
            self._delivery.wake(follower)

    async def _look_up(self, ids: Sequence[int], state: str, now: int) -> None:
        """Whoever follows queues wants to know which queues these jobs are in."""
        for job_id in ids:
            job = await self._around.store.get(job_id)
            if job is not None and self.roll.wide:
                self._tell_wide([StateChange(job_id, state, now, job.kind, job.queue, job.attempt)])

    def _looked_up(self, task: asyncio.Task[None]) -> None:
        self._lookups.discard(task)
        if not task.cancelled():
            task.exception()

    def _greet(self, follower: Follower) -> None:
        """What runs now, for one who follows queues or everything."""
        now = self._around.clock.now_ms()
        for _, jobs in self._around.held():
            for job_id, held in jobs.items():
                job = held.job
                if follower.everything or job.queue in follower.queues:
                    self.offer(follower, StateChange(job_id, RUNNING, now, job.kind, job.queue, job.attempt))
                    if job_id in self.progress:
                        self.offer(follower, self.progress[job_id])

    # --- the end of a subscription

    def _remove(self, follower: Follower) -> None:
        """Nothing is left of it here; again is harmless."""
        if follower.closed:
            return
        follower.closed = True
        self._retire(follower)
        self._late.forget(follower)
        self._delivery.forget(follower)
        self.roll.strike_off(follower)
        if not self.roll.wide:
            self._wide.clear()
        self._settle()

    def _retire(self, follower: Follower) -> None:
        silent = self.roll.retire(follower)
        # Also those that do not hold the job any more: they would listen to it for as long as they live.
        told: dict[int, list[int]] = {}
        for job_id in silent:
            for number in self._tellers.pop(job_id, ()):
                told.setdefault(number, []).append(job_id)
        for number, ids in told.items():
            worker = self._around.worker(number)
            if worker is not None:
                worker.send(Unfollow(ids))
        self._tell_queues()

    def _settle(self) -> None:
        self.awake = bool(self.roll.count or self.progress or self._late.asked)

    def _tell_queues(self) -> None:
        """Workers must know whose log lines and values anybody wants."""
        wanted = self.roll.queues_wanted()
        if wanted != self._queues_told:
            self._queues_told = wanted
            for worker in self._around.ready_workers():
                worker.send(wanted)
