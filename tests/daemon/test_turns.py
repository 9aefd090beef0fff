"""Turns under way: their order, how many there are, and what happens when one of them fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from perdure.clock import SystemClock
from perdure.daemon.dispatch import Dispatch
from perdure.daemon.turns import LARGE, Turns
from perdure.errors import StoreError
from perdure.store.models import Claim, Committed, NewBatch, NewJob, Retried, Turn
from perdure.wire.data import KindSpec
from tests.daemon.world import LIMITS
from tests.support.wait import async_wait_until


class HandCommitter:
    """Turns are on disk when the test says so."""

    def __init__(self) -> None:
        self.begun: list[tuple[Turn, asyncio.Future[Committed]]] = []

    def begin(self, turn: Turn) -> Awaitable[Committed]:
        """Take it down."""
        future: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
        self.begun.append((turn, future))
        return future


class Rig:
    """Turns over the real core."""

    def __init__(self, most: int = 2) -> None:
        self.core = Dispatch(LIMITS, lambda failures: failures, 1 << 32)
        self.core.kinds_loaded([KindSpec("job", "sync", [])])
        self.core.worker_started(1)
        self.core.worker_ready(1)
        self.committer = HandCommitter()
        self.landed: list[Turn] = []
        self.turns = Turns(
            self.core,
            self.committer,  # type: ignore[arg-type]  # the part of it that is used
            SystemClock(),
            self.hand_out,
            lambda: None,
            most,
        )

    def hand_out(self, turn: Turn, result: Committed) -> None:
        """As the supervisor does."""
        self.core.take_over(turn, result)
        self.landed.append(turn)

    def enqueue(self, count: int) -> None:
        """New jobs, and a look whether they make a turn."""
        job = NewJob("job", "default", 0, "{}", 3, 3, None, None, None, None)
        self.core.enqueue(NewBatch([job] * count, False))
        self.turns.begin()

    async def land(self, number: int, result: Committed | BaseException | None = None) -> None:
        """The turn of this number is on disk, or has failed."""
        turn, future = self.committer.begun[number]
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result or Committed(drained=[claim.queue for claim in turn.claims]))
        for _ in range(3):
            await asyncio.sleep(0)


async def test_a_second_turn_is_begun_once_it_is_large() -> None:
    """The store would wait for the loop after every turn, or each job that comes alone would cost a commit."""
    rig = Rig()
    rig.enqueue(1)
    rig.enqueue(LARGE - 1)
    assert len(rig.committer.begun) == 1
    rig.enqueue(1)
    assert [sum(len(batch.jobs) for batch in turn.batches) for turn, _ in rig.committer.begun] == [1, LARGE]
    rig.enqueue(2 * LARGE)
    assert len(rig.committer.begun) == 2, "no more than two"
    await rig.land(0)
    assert len(rig.committer.begun) == 3, "the next one is begun when the first is on disk"


async def test_where_limits_are_judged_one_turn_is_under_way() -> None:
    """What is shed or refused is judged by what is on disk."""
    rig = Rig(most=1)
    rig.enqueue(1)
    rig.enqueue(2 * LARGE)
    assert len(rig.committer.begun) == 1
    await rig.land(0)
    assert len(rig.committer.begun) == 2


async def test_turns_are_learnt_of_as_they_are_on_disk() -> None:
    """Behind a turn that a full disk holds up, a queue that is filled meanwhile would count as empty again."""
    rig = Rig()
    rig.enqueue(1)
    rig.enqueue(LARGE)
    await rig.land(1, Committed(drained=["default"]))
    assert rig.landed == [rig.committer.begun[1][0]]
    rig.core.queues.fill("default")
    await rig.land(0, Committed())
    assert rig.landed[1] is rig.committer.begun[0][0]
    assert rig.committer.begun[2][0].claims


async def test_what_is_due_is_not_forgotten_behind_a_turn_that_was_held_up() -> None:
    """A job would wait for its next attempt until some other one becomes due."""
    rig = Rig()
    rig.enqueue(1)
    rig.enqueue(LARGE)
    held_up, promoting = (turn for turn, _ in rig.committer.begun)
    held_up.retried.append(Retried(1, 1, 2_000_000_000_000, "{}"))
    promoting.promote = True
    await rig.land(1, Committed(next_due=None))
    await rig.land(0, Committed())
    assert rig.core.next_due == 2_000_000_000_000


async def test_a_queue_that_was_empty_is_not_forgotten_when_jobs_are_on_their_way() -> None:
    """Jobs would wait until the next one of their queue comes: the first turn finds nothing, the second brings them."""
    rig = Rig()
    rig.core.queues.fill("default")
    rig.turns.begin()
    first = rig.committer.begun[0][0]
    assert first.claims == [Claim("default", first.claim_total)]
    rig.enqueue(LARGE)
    await rig.land(0, Committed(drained=["default"]))
    await rig.land(1, Committed())
    assert rig.committer.begun[2][0].claims == first.claims


async def test_what_is_asked_for_counts_as_taken() -> None:
    """Two turns would claim for the same room, and half of it would have to be given back."""
    rig = Rig()
    rig.core.queues.fill("default")
    rig.turns.begin()
    rig.enqueue(LARGE)
    first, second = (turn.claim_total for turn, _ in rig.committer.begun)
    assert first > 0
    assert second == 0
    await rig.land(0)
    await rig.land(1, Committed())
    assert rig.committer.begun[2][0].claim_total == first


async def test_settle_waits_for_all_and_begins_nothing() -> None:
    """A duty would run beside a commit."""
    rig = Rig()
    rig.enqueue(1)
    rig.enqueue(LARGE)
    settled = asyncio.ensure_future(rig.turns.settle())
    await asyncio.sleep(0)
    rig.enqueue(LARGE)
    await rig.land(0)
    assert not settled.done()
    await rig.land(1)
    await async_wait_until(settled.done)
    assert len(rig.committer.begun) == 2
    rig.turns.begin()
    assert len(rig.committer.begun) == 3


async def test_a_turn_that_fails_ends_the_main_loop() -> None:
    """The daemon would run on with claims and outcomes that nobody knows of; what came after it is void, too."""
    rig = Rig()
    rig.enqueue(1)
    rig.enqueue(LARGE)
    await rig.land(0, StoreError("broken"))
    await rig.land(1)
    assert rig.turns.under_way, "a stop would take that for a good end"
    with pytest.raises(StoreError, match="broken"):
        rig.turns.begin()
    assert not rig.landed
