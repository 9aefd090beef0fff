"""The turns that are under way, and what each of them leads to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from perdure.clock import Clock
from perdure.daemon.commit import Committer
from perdure.daemon.dispatch import Dispatch
from perdure.store.models import Committed, Turn

#: So many turns are under way at most: the store has the second one at hand when the first is on disk, instead of
#: waiting for the loop.
MOST: Final = 2
#: A second turn is begun once so much has been gathered for it: outcomes and new jobs. Smaller ones would cost more
#: commits than the wait does, and what comes alone is on disk sooner in a turn of its own after the first.
LARGE: Final = 512


class Turns:
    """Begins turns, and does what each leads to as soon as it is on disk: the next turn, then work for the workers.

    When more has been gathered, the next turn is begun before the jobs that the last one claimed are handed out, so
    that the store has work meanwhile. `landed(turn, result)` hands them out; `most`: how many turns may be under way.
    """

    def __init__(
        self,
        core: Dispatch,
        committer: Committer,
        clock: Clock,
        landed: Callable[[Turn, Committed], None],
        wake: Callable[[], None],
        most: int = MOST,
    ) -> None:
        self._core = core
        self._committer = committer
        self._clock = clock
        self._landed = landed
        self._wake = wake
        self._most = most
        #: One for each turn until it is handed out; so many of them are not known to be on disk.
        self._tasks: set[asyncio.Task[None]] = set()
        self._committing = 0
        self._held = False
        self._failure: BaseException | None = None

    @property
    def under_way(self) -> bool:
        """Whether anything is not on disk yet, not handed out, or has failed, which `begin` is still to tell."""
        return bool(self._tasks) or self._failure is not None

    def begin(self) -> None:
        """Begin a turn, if there is something for one. Raises what went wrong with an earlier one."""
        if self._failure is not None:
            raise self._failure
        if self._held or (self._committing and (self._committing >= self._most or self._core.gathered < LARGE)):
            return
        turn = self._core.next_turn(self._clock.now_ms())
        if turn is not None:
            commit = self._committer.begin(turn)
            self._committing += 1
            task = asyncio.get_running_loop().create_task(self._land(turn, commit))
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    async def settle(self) -> None:
        """Return when all that was begun is on disk and handed out, or has failed. Nothing is begun meanwhile."""
        self._held = True
        try:
            while self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            self._held = False

    def close(self) -> None:
        """Wait for nothing any more."""
        for task in self._tasks:
            task.cancel()

    async def _land(self, turn: Turn, commit: Awaitable[Committed]) -> None:
        try:
            result = await commit
            if self._failure is None:
                # In the same step of the loop: what the store answers after this turn is heard of after it, too. So
                # the core hears of turns in the order in which they are on disk: that in which they were begun, but
                # for one that a full disk holds up. Were it heard of in another order, a queue would count as empty
                # that was filled since, and what is due would be forgotten.
                self._core.learn(turn, result)
                self._committing -= 1
                if self._core.gathered:
                    self.begin()
                self._landed(turn, result)
                self.begin()
        except BaseException as error:
            self._failure = self._failure or error

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.remove(task)
        self._wake()
