"""The throttle beside the group commit on a full disk, and beside the store when many ask at once."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.clock import SystemClock
from perdure.config.settings import Settings
from perdure.daemon import commit
from perdure.daemon.commit import Committer
from perdure.daemon.throttle import Throttle
from perdure.daemon.waiters import Waiters
from perdure.errors import QueueFull, StoreFull
from perdure.store.models import Committed, Depth, NewBatch, NewJob, Turn
from tests.support.wait import async_wait_until


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


async def test_who_waits_for_new_jobs_is_told_when_a_full_disk_refuses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The turn that was to bring them never comes: a file that nobody needs would stay until some other one does."""
    monkeypatch.setattr(commit, "FULL_DISK_RETRY_SECONDS", 0)
    go = asyncio.Event()

    class FullWhenTold(FullOnce):
        async def commit(self, turn: Turn) -> Committed:
            await go.wait()
            return await super().commit(turn)

    async def go_on() -> bool:
        return True

    store: Any = FullWhenTold()
    committer = Committer(store, Settings(), Waiters(), go_on, lambda: None)
    turn = asyncio.ensure_future(committer.commit(Turn(1)))
    await asyncio.sleep(0)
    refused = committer.expect(NewBatch([], False))
    placed = asyncio.ensure_future(committer.placed())
    await asyncio.sleep(0)
    go.set()
    await turn
    assert isinstance(refused.exception(), StoreFull)
    await async_wait_until(placed.done)


async def test_a_turn_that_is_held_up_counts_until_it_is_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancellation would look at a row before the job's outcome is in it, and say that the job still runs."""
    monkeypatch.setattr(commit, "FULL_DISK_RETRY_SECONDS", 0)
    held: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    store: Any = FullOnce()
    committer = Committer(store, Settings(), Waiters(), lambda: held, lambda: None)
    first = asyncio.ensure_future(committer.commit(Turn(1)))
    await async_wait_until(lambda: committer.full is not None)
    settled = asyncio.ensure_future(committer.settled(lambda: False))
    await asyncio.sleep(0)
    await committer.commit(Turn(2))
    await asyncio.sleep(0)
    assert not settled.done()
    held.set_result(True)
    await first
    assert await settled


async def test_a_probe_that_is_shed_gives_way() -> None:
    """A breaker would wait for the verdict of a job that is in the dead letters."""
    ended: list[int] = []
    breakers = SimpleNamespace(ended=ended.extend)
    supervisor: Any = SimpleNamespace(clock=SystemClock(), breakers=breakers)
    throttle = Throttle(supervisor, Settings(queue_overrides={"s": {"max_depth": 2}}).queue_limits())
    throttle.committed(Turn(1), Committed(shed=[(7, "s")]))
    assert ended == [7]


class Counted:
    """A store that counts when it is let; `counts`: which queues each count was for."""

    def __init__(self) -> None:
        self.counts: list[list[str]] = []
        self.go = asyncio.Event()

    async def depths(self, queues: dict[str, int]) -> dict[str, Depth]:
        """Three jobs in each."""
        self.counts.append(sorted(queues))
        await self.go.wait()
        return {name: Depth(3, None) for name in queues}

    async def keys_held(self, keys: set[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those named "held"."""
        return {key for key in keys if key[1] == "held"}


async def test_one_count_serves_all_who_wait_for_it() -> None:
    """After a cancel, a thousand producers would have a long queue counted a thousand times, and no job would run."""
    settings = Settings(queue_overrides={"r": {"max_depth": 4}})
    store: Any = Counted()
    batches: list[NewBatch] = []
    supervisor: Any = SimpleNamespace(
        clock=SystemClock(),
        store=store,
        task=asyncio.ensure_future,
        core=SimpleNamespace(enqueue=batches.append),
        pulse=SimpleNamespace(set=lambda: None),
        committer=SimpleNamespace(expect=lambda batch, future: future),
    )
    throttle = Throttle(supervisor, settings.queue_limits())
    job = NewJob("k", "r", 0, "{}", 3, 2, None, None, None, None)
    placed = [throttle.place(NewBatch([job], False), None) for _ in range(5)]
    await async_wait_until(lambda: store.counts)
    placed[0].cancel()
    store.go.set()
    refused = await asyncio.gather(*placed[2:], return_exceptions=True)
    assert (len(batches), placed[1].done()) == (1, False), "one for which there is room"
    assert {type(error) for error in refused} == {QueueFull}
    assert store.counts == [["r"]]
    with pytest.raises(QueueFull):
        await throttle.place(NewBatch([replace(job, unique_key="new")], False), None)
    throttle.place(NewBatch([replace(job, unique_key="held")], False), None)
    await async_wait_until(lambda: len(batches) == 2)
    assert store.counts == [["r"]], "a full queue was counted again for a unique key"
