"""What many calls leave behind: nothing."""

from __future__ import annotations

import asyncio
import gc
import random
from pathlib import Path
from typing import Any

from perdure.errors import CallTimeout, ChannelClosed, NotFound
from perdure.wire.calls import connect
from perdure.wire.control import PauseQueue, RetryJobs, WaitJobs
from perdure.wire.data import Verdict
from perdure.wire.peer import Peer
from tests.support.wait import async_wait_until
from tests.wire.conftest import Run
from tests.wire.office import Office, serving, shut


class Timekeeper(asyncio.SelectorEventLoop):
    """A loop that remembers its timers."""

    def __init__(self) -> None:
        super().__init__()
        self.timers: list[asyncio.TimerHandle] = []

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        """As ever."""
        self.timers.append(super().call_later(delay, callback, *args, context=context))
        return self.timers[-1]


def test_deadlines_are_forgotten_with_their_calls(path: Path) -> None:
    """A million calls with a deadline of an hour would keep a million timers for an hour, at both ends."""

    async def work() -> None:
        office = Office()
        server, caller = serving(path, office), await connect(str(path))
        assert await caller.request(RetryJobs([1]), 3600) == [Verdict(1)]
        waiting = asyncio.ensure_future(caller.request(WaitJobs([1]), 3600))
        await async_wait_until(lambda: office.begun == 2)
        waiting.cancel()
        await asyncio.wait([waiting])
        last = asyncio.ensure_future(caller.request(WaitJobs([1]), 3600))
        await async_wait_until(lambda: office.begun == 3)
        await shut(server, caller)
        await asyncio.wait([last])
        assert isinstance(last.exception(), ChannelClosed)

    with asyncio.Runner(loop_factory=Timekeeper) as runner:
        runner.run(work())
        loop = runner.get_loop()
        assert isinstance(loop, Timekeeper)
        long = [timer for timer in loop.timers if timer.when() > loop.time() + 1000]
        assert len(long) == 6
        assert [timer for timer in long if not timer.cancelled()] == []


class Chance:
    """Answers at once, later, never, or with an error; by a value, a Future or a coroutine."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice

    def __call__(self, request: object, peer: Peer) -> Any:
        """One of them."""
        luck = self.dice.random()
        if luck < 0.2:
            raise NotFound
        if luck < 0.4:
            return None
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if luck < 0.9:
            asyncio.get_running_loop().call_later(self.dice.random() * 0.02, self._set, future)
        return future if luck < 0.7 else self._wait(future)

    def _set(self, future: asyncio.Future[None]) -> None:
        if not future.done():
            future.set_result(None)

    async def _wait(self, future: asyncio.Future[None]) -> None:
        await future


async def wild_client(path: Path, calls: int, dice: random.Random) -> int:
    """Makes calls with short deadlines, cancels some, and may hang up; returns how many it made."""
    loop = asyncio.get_running_loop()
    caller = await connect(str(path))
    tasks = []
    for _ in range(calls):
        tasks.append(asyncio.ensure_future(caller.request(PauseQueue("q"), dice.choice([0.001, 0.01, 0.02]))))
        if dice.random() < 0.2:
            loop.call_later(dice.random() * 0.02, tasks[-1].cancel)
        if dice.random() < 0.1:
            await asyncio.sleep(0)
    if dice.random() < 0.5:
        caller.close()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    expected = (NotFound, CallTimeout, ChannelClosed, asyncio.CancelledError)
    assert [one for one in results if one is not None and not isinstance(one, expected)] == []
    assert len(caller.pending) == 0
    caller.close()
    return len(results)


def test_ten_thousand_calls_leave_nothing_behind(run: Run, path: Path) -> None:
    """Time-outs, cancels and disconnects at any moment would leak pending calls, tasks, timers or descriptors."""

    async def work() -> None:
        dice = random.Random(20)
        server = serving(path, Chance(dice))
        done = 0
        while done < 10_000:
            done += sum(await asyncio.gather(*(wild_client(path, 250, dice) for _ in range(8))))
        await async_wait_until(lambda: server.calls_in_flight == 0)
        await shut(server)
        gc.collect()

    run(work())
