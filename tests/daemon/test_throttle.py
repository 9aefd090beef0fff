"""What the throttle and the group commit do together when the disk is full."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from perdure.clock import SystemClock
from perdure.config.settings import Settings
from perdure.daemon import commit
from perdure.daemon.commit import Committer
from perdure.daemon.throttle import Throttle
from perdure.daemon.waiters import Waiters
from perdure.errors import StoreFull
from perdure.store.models import Committed, Depth, NewBatch, NewJob, Turn


class FullOnce:
    """A store whose disk is full at the first commit. `turns`: how many batches and sheds came with each try."""

    def __init__(self) -> None:
        self.turns: list[tuple[int, int]] = []

    async def commit(self, turn: Turn) -> Committed:
        """Full, then not."""
        self.turns.append((len(turn.batches), len(turn.shed)))
        if len(self.turns) == 1:
            raise StoreFull("no space")
        return Committed()


async def test_a_full_disk_sheds_nothing_and_frees_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs would be thrown away for others that were refused, or a queue stay full of jobs that never came."""
    monkeypatch.setattr(commit, "FULL_DISK_RETRY_SECONDS", 0)
    settings = Settings(queue_overrides={"s": {"max_depth": 2, "when_full": "shed"}})
    batches: list[NewBatch] = []
    supervisor: Any = SimpleNamespace(clock=SystemClock())
    throttle = Throttle(supervisor, settings.queue_limits())
    store: Any = FullOnce()

    async def go_on() -> bool:
        return True

    supervisor.committer = Committer(store, settings, Waiters(), go_on, batches.clear, throttle)
    supervisor.core = SimpleNamespace(enqueue=batches.append)
    supervisor.pulse = SimpleNamespace(set=lambda: None)
    throttle.pressure.counted({"s": Depth(2, None)})
    placed = throttle.place(NewBatch([NewJob("k", "s", 0, "{}", 3, 2, None, None, None, None)], False), None)
    turn = Turn(1, batches=list(batches))
    await supervisor.committer.commit(turn)
    with pytest.raises(StoreFull):
        await placed
    assert store.turns == [(1, 1), (0, 0)]
    assert (throttle.pressure.gauges["s"].waiting, throttle.pressure.gauges["s"].coming) == (2, 0)
