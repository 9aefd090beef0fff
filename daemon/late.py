"""Followers that come late: they get the story so far, and then what happens, without a gap and without repetition.

The story of a job that a worker holds is told by that worker, which knows exactly where the log stands
(`Follow(story=…)`). That of any other job is read from its files; if it is sent to a worker meanwhile, what was read is
thrown away and the worker tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from perdure.daemon.follower import Follower, Join
from perdure.daemon.joblog import read_story
from perdure.daemon.news_of_turns import ENDS, Facts, last_wrong, small
from perdure.errors import NotFound
from perdure.log import get_logger
from perdure.store.states import DEAD
from perdure.wire.streams import Emitted, LogText, StateChange

if TYPE_CHECKING:
    from perdure.daemon.hub import Hub, Surroundings

log = get_logger()


class Latecomers:
    """Knows where each story comes from that somebody waits for."""

    def __init__(self, hub: Hub, around: Surroundings) -> None:
        self._hub = hub
        self._around = around
        #: Followers that stories are read for from the files, and the task of each.
        self._readers: dict[Follower, asyncio.Task[None]] = {}
        #: By job: the worker that holds it, and how many stories it was asked for and has not told.
        self.asked: dict[int, tuple[int, int]] = {}

    @property
    def tasks(self) -> int:
        """How many tasks read files."""
        return len(self._readers)

    async def find(self, follower: Follower) -> None:
        """Look for all jobs that a new follower asks for. Raises NotFound."""
        for job_id in follower.ids:
            change = await self._state_of(job_id)
            if follower.closed:
                return
            self._found(follower, change)
        self._read_files(follower)

    async def _state_of(self, job_id: int) -> StateChange:
        store = self._around.store
        # Twice, because a dead job may be replayed between the two looks.
        for _ in range(2):
            job = await store.get(job_id)
            if job is not None:
                at = job.finalized_at or job.attempted_at or job.created_at
                error = last_wrong(job.errors) if job.result is None else None
                return StateChange(job_id, job.state, at, job.kind, job.queue, job.attempt, error, small(job.result))
            dead = await store.get_dead(job_id)
            if dead is not None:
                return StateChange(
                    job_id, DEAD, dead.died_at, dead.kind, dead.queue, dead.attempt, last_wrong(dead.errors)
                )
        raise NotFound(
            f"no job {job_id}; it never was, or it finished and was pruned. `perdure jobs` lists what there is"
        )

    def _found(self, follower: Follower, change: StateChange) -> None:
        """What the store says of a job; what was heard since is newer than that, or the same."""
        job_id = change.id
        join = follower.joins.get(job_id)
        if join is None:
            return
        join.found = True
        self._hub.roll.names.setdefault(job_id, Facts(change.kind, change.queue, change.attempt))
        if not join.held:
            join.held.append(change)
        for heard in join.held:
            if not heard.kind:
                heard.kind, heard.queue = change.kind, change.queue
                heard.attempt = heard.attempt or change.attempt
        if not follower.listens:
            self._joined(follower, job_id)
            return
        while join.held and join.held[0].state not in ENDS:
            self._hub.tell_one(follower, join.held.popleft())
        holder = next((number for number, jobs in self._around.held() if job_id in jobs), None)
        worker = None if holder is None else self._around.worker(holder)
        if holder is not None and worker is not None:
            self._expect([join], holder, job_id)
            self._hub.have_told(holder, worker, [job_id], [job_id])

    # --- stories of workers

    def sent_to(self, number: int, ids: Sequence[int]) -> list[int]:
        """These go to a worker now. Returns those of which it must tell the story."""
        story = []
        for job_id in ids:
            waiting = [join for one in self._hub.followed[job_id] if (join := one.joins.get(job_id)) and join.found]
            if waiting:
                self._expect(waiting, number, job_id)
                story.append(job_id)
        return story

    def _expect(self, joins: Iterable[Join], number: int, job_id: int) -> None:
        """One more story of a worker, after those that others have asked it for."""
        asked = self.asked.get(job_id, (number, 0))[1]
        for join in joins:
            join.worker, join.others = number, asked
        self.asked[job_id] = (number, asked + 1)

    def story(self, entry: LogText | Emitted, number: int) -> None:
        """A piece of a story, for those who wait for this one; an empty text is its end."""
        over = isinstance(entry, LogText) and not entry.text
        for follower in tuple(self._hub.followed.get(entry.id, ())):
            join = follower.joins.get(entry.id)
            if join is None or join.worker != number:
                continue
            if join.others:
                join.others -= over
            elif over:
                self._joined(follower, entry.id)
            else:
                self._tell(follower, entry)
        asked = self.asked.get(entry.id)
        if over and asked is not None:
            if asked[1] > 1:
                self.asked[entry.id] = (number, asked[1] - 1)
            else:
                del self.asked[entry.id]

    def left_worker(self, job_id: int) -> None:
        """No worker holds this job any more: its files are complete, and nobody tells its story."""
        self.asked.pop(job_id, None)
        for follower in tuple(self._hub.followed.get(job_id, ())):
            join = follower.joins.get(job_id)
            if join is not None and join.worker is not None:
                join.worker = None
                self._read_files(follower)

    def worker_gone(self, number: int, told: Iterable[int]) -> None:
        """It tells no story any more; and of these jobs it may have written down more than it has told."""
        for job_id in [job_id for job_id, (worker, _) in self.asked.items() if worker == number]:
            self.left_worker(job_id)
        held = {job_id for _, jobs in self._around.held() for job_id in jobs}
        for job_id in told:
            if job_id in held:
                continue  # another worker has it by now, and told its story from there
            for follower in tuple(self._hub.followed.get(job_id, ())):
                if follower.listens and job_id in follower.left and job_id not in follower.joins:
                    follower.joins[job_id] = Join()
                    follower.joins[job_id].found = True
                    self._read_files(follower)

    def _tell(self, follower: Follower, entry: LogText | Emitted) -> None:
        """What of it the follower has not heard live, before a worker died."""
        new = follower.heard[entry.id].new(entry)
        if new is not None:
            self._hub.offer(follower, new)

    # --- stories of files

    def _read_files(self, follower: Follower) -> None:
        """See that all stories of files are read for this follower."""
        if follower not in self._readers and not follower.closed and self._next_to_read(follower) is not None:
            task = asyncio.ensure_future(self._read(follower))
            self._readers[follower] = task
            task.add_done_callback(lambda done: self._read_done(follower, done))

    def _next_to_read(self, follower: Follower) -> int | None:
        return next((job_id for job_id, join in follower.joins.items() if join.found and join.worker is None), None)

    async def _read(self, follower: Follower) -> None:
        while (job_id := self._next_to_read(follower)) is not None:
            join = follower.joins[job_id]
            try:
                story = await asyncio.to_thread(read_story, self._around.logs_dir, job_id)
            except OSError as error:
                log.warning("story.unreadable", job=job_id, reason=str(error))
                story = []
            if join.worker is not None or job_id not in follower.joins:
                continue  # it was sent to a worker meanwhile, which tells
            for entry in story:
                self._tell(follower, entry)
            self._joined(follower, job_id)

    def _read_done(self, follower: Follower, task: asyncio.Task[None]) -> None:
        if self._readers.get(follower) is task:
            del self._readers[follower]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("story.failed", reason=str(error))

    # --- the end of it

    def _joined(self, follower: Follower, job_id: int) -> None:
        """The story was told: what was held back, and from now on all that happens."""
        join = follower.joins.pop(job_id)
        if job_id in self._hub.progress:
            self._hub.offer(follower, self._hub.progress[job_id])
        for change in join.held:
            self._hub.tell_one(follower, change)

    def forget(self, follower: Follower) -> None:
        """It is closed."""
        follower.joins.clear()
        task = self._readers.pop(follower, None)
        if task is not None:
            task.cancel()
