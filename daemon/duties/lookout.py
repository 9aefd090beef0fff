"""Looks whether jobs wait of which nobody has told: a missed wake-up costs this interval and no more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from perdure.daemon.isolation import LOOKS, SUSPECT_REASON

if TYPE_CHECKING:
    from perdure.daemon.supervisor import Supervisor

#: Suspects that come back at a time; they run one after the other.
SUSPECTS_AT_ONCE = 8


class Lookout:
    """Asks the store for queues with available jobs, for suspects when there is room for them, and for jobs that were
    parked for a kind which is known by now."""

    interval_seconds = 2.0
    busy_only = False

    def __init__(self) -> None:
        self._looking: asyncio.Task[None] | None = None

    async def run(self, supervisor: Supervisor) -> None:
        """One look, beside the main loop: a long list may keep the reader busy for a while."""
        if not supervisor.core.stopping and (self._looking is None or self._looking.done()):
            self._looking = supervisor.task(self._look(supervisor))

    async def _look(self, supervisor: Supervisor) -> None:
        core = supervisor.core
        isolation = core.isolation
        if isolation.looks and not isolation.suspects:
            # Before the question: a suspect may be parked while the store answers.
            isolation.looks -= 1
            try:
                count, _ = await supervisor.store.unpark([SUSPECT_REASON], SUSPECTS_AT_ONCE, supervisor.clock.now_ms())
            except BaseException:
                isolation.looks = LOOKS
                raise
            if count:
                isolation.looks = LOOKS
        # All at once: the store's thread and this one are woken once, and not for each question.
        settled, _, available = await asyncio.gather(
            supervisor.breakers.settled_needs(), supervisor.breakers.look(), supervisor.store.available_queues()
        )
        back = core.judge.kinds_parked & core.kinds.keys()
        if back or settled:
            core.judge.kinds_parked -= back
            await supervisor.engine.unpark_known()
        core.queues.unblock_all()
        supervisor.engine.queues_filled(available)
