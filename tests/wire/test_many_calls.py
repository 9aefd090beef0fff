"""What many calls leave behind: nothing."""

from __future__ import annotations

import asyncio
import gc
import os
import random
from pathlib import Path
from typing import Any

import pytest

from perdure.errors import CallTimeout, ChannelClosed, NotFound
from perdure.wire import packet
from perdure.wire.calls import Caller, connect
from perdure.wire.channel import Channel
from perdure.wire.control import PauseQueue, RetryJobs, WaitJobs
from perdure.wire.data import Verdict
from perdure.wire.envelope import WithDescriptors
from perdure.wire.peer import Peer
from perdure.wire.session import Session, _Running
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
    """Answers at once, later, never, or with an error; by a value, a Future or a coroutine; with descriptors or not."""

    def __init__(self, path: Path, dice: random.Random) -> None:
        self.dice = dice
        self.spare = os.open("/dev/null", os.O_RDONLY)
        self.server = serving(path, self)

    def __call__(self, request: object, peer: Peer) -> Any:
        """One of them."""
        if self.dice.random() < 0.5:
            packet.close_all(self.server.take_fds(peer))
        luck = self.dice.random()
        if luck < 0.2:
            raise NotFound
        if luck < 0.4:
            return self._answer()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if luck < 0.9:
            asyncio.get_running_loop().call_later(self.dice.random() * 0.02, self._set, future, luck < 0.7)
        return future if luck < 0.7 else self._wait(future)

    def _answer(self) -> Any:
        return WithDescriptors(None, [os.dup(self.spare)]) if self.dice.random() < 0.1 else None

    def _set(self, future: asyncio.Future[Any], with_answer: bool) -> None:
        if not future.done():
            future.set_result(self._answer() if with_answer else None)

    async def _wait(self, future: asyncio.Future[Any]) -> Any:
        # Made after the last point at which this can be cancelled: what is returned is the server's to close.
        await future
        return self._answer()

    def hang_up(self) -> None:
        """End a connection from this side."""
        if sessions := list(self.server._sessions.values()):
            self.dice.choice(sessions).channel.close()


async def wild_client(chance: Chance, path: Path, calls: int) -> int:
    """Makes calls with short deadlines, cancels some, and may hang up at any moment; returns how many it made."""
    loop, dice = asyncio.get_running_loop(), chance.dice
    caller = await connect(str(path))
    tasks = []
    if dice.random() < 0.3:
        loop.call_later(dice.random() * 0.03, caller.close)
    elif dice.random() < 0.1:
        loop.call_later(dice.random() * 0.03, chance.hang_up)
    for _ in range(calls):
        fds = [chance.spare] * dice.randrange(1, 4) if dice.random() < 0.05 else ()
        tasks.append(loop.create_task(caller.request(PauseQueue("q"), dice.choice([0.001, 0.01, 0.02]), fds)))
        if dice.random() < 0.2:
            loop.call_later(dice.random() * 0.02, tasks[-1].cancel)
        if dice.random() < 0.1:
            await asyncio.sleep(0)
    if dice.random() < 0.3:
        caller.close()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    expected = (NotFound, CallTimeout, ChannelClosed, asyncio.CancelledError)
    assert [one for one in results if one is not None and not isinstance(one, expected)] == []
    assert len(caller.pending) == 0
    assert caller._arrived == {}
    caller.close()
    return len(results)


def left_over() -> list[object]:
    """What belongs to calls and connections, and is still somewhere."""
    gc.collect()
    return [one for one in gc.get_objects() if isinstance(one, (_Running, Session, Channel, Caller))]


@pytest.mark.parametrize(
    "calls", [10_000, pytest.param(1_000_000, marks=[pytest.mark.channels_long, pytest.mark.limit(1_800)])]
)
def test_many_calls_leave_nothing_behind(run: Run, path: Path, calls: int) -> None:
    """Time-outs, cancels and disconnects at any moment would leak pending calls, tasks, timers or descriptors."""

    async def work() -> None:
        chance = Chance(path, random.Random(20))
        done = 0
        while done < calls:
            done += sum(await asyncio.gather(*(wild_client(chance, path, 250) for _ in range(8))))
            # Of each round: what is left would add up.
            await async_wait_until(lambda: chance.server.calls_in_flight == 0)
            await async_wait_until(lambda: chance.server.clients == [])
        await shut(chance.server)
        os.close(chance.spare)
        await async_wait_until(lambda: not left_over())

    run(work())
