"""Subscribers by the thousand that come, listen for a moment and die in every way there is: nothing of them is left."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from perdure.daemon.follower import Follower, Join
from perdure.daemon.joblog import log_path
from perdure.daemon.subscriber import Buffer
from perdure.errors import DaemonUnreachable, NotFound
from perdure.wire.calls import Caller, connect
from perdure.wire.control import Subscribe, Unsubscribe
from perdure.wire.peer import Peer
from perdure.wire.server import Server
from perdure.wire.streams import Emitted, LogText, Progress
from perdure.wire.subscription import subscribe
from perdure.wire.work import Follow
from tests.daemon.hub_rig import HubRig, ScriptedWorker
from tests.support.wait import async_wait_until

#: As many are connected at the same time.
AT_A_TIME = 64
DONE, UNKNOWN = 1, 9_999


class TellingWorker(ScriptedWorker):
    """Tells the stories that it is asked for, a moment later."""

    def __init__(self, rig: CrowdRig, number: int) -> None:
        super().__init__()
        self._rig = rig
        self._number = number

    def send(self, message: object) -> None:
        if isinstance(message, Follow):
            for job_id in message.story:
                asyncio.get_running_loop().call_soon(self._rig.story, self._number, job_id, "before\n")


class CrowdRig(HubRig):
    """A hub behind a real server, with two jobs that run all the time and end now and then."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.workers = {number: TellingWorker(self, number) for number in (1, 2)}
        self.server = Server(
            str(folder / "s"),
            self._handle,
            lambda _: True,
            max_clients=4 * AT_A_TIME,
            on_event=self.hub.granted,
            on_gone=self.hub.gone,
        )
        #: The most of each figure at a time: what came and went.
        self.most: Counter[str] = Counter()
        self.next_id = 100
        self.running = {1: 0, 2: 0}
        self.job(DONE, "completed", attempt=1)
        path = log_path(folder, DONE)
        path.parent.mkdir(parents=True)
        path.write_text("of old\n" * 100)
        for worker in self.running:
            self.begin(worker)

    def send(self, peer: Peer, message: object) -> bool:
        return self.server.send(peer, message)

    def begin(self, worker: int) -> None:
        """The next job on this worker."""
        self.next_id += 1
        self.running[worker] = self.next_id
        self.new_job(self.next_id)
        self.run(self.next_id, worker)

    async def be_busy(self) -> None:
        """Tell, end and begin, until it is cancelled."""
        rng = random.Random(1)
        for step in range(10**9):
            await asyncio.sleep(0)
            self.most |= Counter(self.hub.figures())
            worker = rng.choice((1, 2))
            job_id = self.running[worker]
            self.tell(
                worker, LogText(job_id, "x" * rng.randrange(3_000), 1), Progress(job_id, step), Emitted(job_id, "1", 1)
            )
            if step % 50 == 0:
                self.complete(job_id)
                self.begin(worker)

    def _handle(self, request: Any, peer: Peer) -> Any:
        if isinstance(request, Unsubscribe):
            return self.hub.unsubscribe(request.subscription, peer)
        return self.hub.subscribe(request, peer)


async def listen_and_die(rig: CrowdRig, rng: random.Random) -> None:
    """The life of one subscriber."""
    caller = await connect(rig.server.path)
    what = rng.choice([{"ids": [DONE, *rig.running.values()]}, {"ids": [DONE]}, {"queues": ["default"]}, None])
    request = Subscribe(everything=True) if what is None else Subscribe(**what)
    request.credit = rng.choice([1, 2, 16])
    if request.ids and rng.random() < 0.1:
        request.ids.append(UNKNOWN)
    with contextlib.suppress(DaemonUnreachable, NotFound, asyncio.CancelledError):
        match rng.choice(["read", "leave", "cut off", "cancelled", "silent"]):
            case "read":
                await _read(caller, request, rng.randrange(4))
            case "leave":
                async with subscribe(caller, request):
                    await asyncio.sleep(0)
            case "cut off":
                asking = asyncio.ensure_future(caller.request(request))
                for _ in range(rng.randrange(6)):
                    await asyncio.sleep(0)
                caller.close()
                await asyncio.wait([asking])
                asking.exception()
            case "cancelled":
                task = asyncio.ensure_future(_read(caller, request, 99))
                for _ in range(rng.randrange(12)):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
            case "silent":
                # It reads nothing from its socket any more, and then it is gone.
                await caller.request(request)
                caller.channel.pause_reading()
                await asyncio.sleep(0)
    caller.close()


async def _read(caller: Caller, request: Subscribe, messages: int) -> None:
    async with subscribe(caller, request) as news:
        async for _ in news:
            messages -= 1
            if messages <= 0:
                return


async def crowd(folder: Path, count: int) -> None:
    """All of them, and then a look at what is left."""
    rig = CrowdRig(folder)
    rig.server.start()
    busy = asyncio.create_task(rig.be_busy())
    fds, tasks = len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())
    seats, rng = asyncio.Semaphore(AT_A_TIME), random.Random(7)

    async def one(seed: int) -> None:
        async with seats:
            await listen_and_die(rig, random.Random(seed))

    await asyncio.gather(*(one(rng.getrandbits(32)) for _ in range(count)))
    await async_wait_until(lambda: rig.server.clients == [], 20, "all clients to be gone")
    busy.cancel()
    await asyncio.wait([busy])
    for job_id in rig.running.values():
        rig.complete(job_id)
    await async_wait_until(lambda: rig.server.calls_in_flight == 0, 20, "all calls to be answered")
    await async_wait_until(lambda: len(asyncio.all_tasks()) <= tasks - 1, 20, "all tasks to be over")
    rig.assert_nothing_left()
    assert rig.most["subscribers"] > AT_A_TIME // 4
    assert set(rig.hub.figures()) - {"pending"} <= set(rig.most), f"something never happened: {rig.most}"
    assert len(os.listdir("/proc/self/fd")) <= fds
    gc.collect()
    left = [one for one in gc.get_objects() if isinstance(one, Follower | Buffer | Join)]
    assert left == []
    rig.server.close()
    await rig.server.wait_closed()


def run_crowd(folder: Path, count: int, factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    complaints: list[dict[str, Any]] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        # The threads that read files stay, with the descriptors of the loop.
        await asyncio.gather(*(asyncio.to_thread(os.getpid) for _ in range(32)))
        await crowd(folder, count)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(watched())
    assert not complaints, complaints[:3]


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_thousand_subscribers_leave_nothing(tmp_path: Path, factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Each client that dies in an unlucky moment would cost a task, a descriptor, a timer or a buffer for ever."""
    run_crowd(tmp_path, 1_000, factory)


@pytest.mark.channels_long
@pytest.mark.limit(600)
def test_ten_thousand_subscribers_leave_nothing(tmp_path: Path) -> None:
    """The same with as many as the specification says."""
    run_crowd(tmp_path, 10_000, uvloop.new_event_loop)
