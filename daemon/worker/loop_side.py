"""The worker's second thread: the channel, the heartbeat, the watch over the sync lane, and the way out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from typing import Final

import msgspec

from perdure.daemon.lag import LagMeter
from perdure.daemon.worker import stacks
from perdure.daemon.worker.alarm import Alarm
from perdure.daemon.worker.async_lane import AsyncLane
from perdure.daemon.worker.lane import Bench
from perdure.daemon.worker.port import ORPHANED
from perdure.daemon.worker.sync_lane import SyncLane
from perdure.log import get_logger
from perdure.wire.channel import Channel
from perdure.wire.work import (
    Breakers,
    Drain,
    DumpStacks,
    Follow,
    FollowQueues,
    JobRow,
    Observed,
    PortOffered,
    PortTaken,
    Recall,
    Returned,
    Run,
    StacksDumped,
    Stop,
    ToWorker,
    Unfollow,
)

#: How often the sync lane is looked at while it is busy: how late a soft time limit may come.
WATCH_SECONDS: Final = 0.025
#: How long good calls to dependencies are gathered before they are told.
OBSERVED_SECONDS: Final = 0.1
#: How long background tasks of handlers and their generators may take to end at a drain.
_CLOSING_SECONDS: Final = 1.0
#: How long adapters may take to close their connections at a drain.
_CLOSING_ADAPTERS_SECONDS: Final = 4.0

#: Made before the fork: it takes a millisecond or two.
_TO_WORKER: Final = msgspec.msgpack.Decoder(ToWorker)

log = get_logger()


class LoopSide:
    """Takes messages, and gives each lane its jobs. Used in the loop's thread only."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        sync: SyncLane,
        alarm: Alarm,
        bench: Bench,
        stacks_fd: int,
        lag: LagMeter,
    ) -> None:
        self._loop = loop
        self._sync = sync
        self._alarm = alarm
        self._bench = bench
        self._stacks_fd = stacks_fd
        self._lag = lag
        self._watching = False
        self._draining = False
        self._sync_ended = False
        self._ended = False
        self._async: AsyncLane
        self._channel: Channel[ToWorker] = Channel(
            sock,
            _TO_WORKER,
            self._on_message,
            self._on_close,
            loop=loop,
            on_drained=self.stop_if_done,
        )
        #: How much waits here to be sent: the lanes' outcomes must not overtake it.
        self.unsent: Callable[[], int] = lambda: self._channel.pending_bytes

    def serve(self, lane: AsyncLane) -> None:
        """Turn the loop until the worker has drained."""
        self._async = lane
        self._lag.start()
        while not self._ended:
            try:
                self._loop.run_forever()
                if not self._ended:
                    log.warning("worker.loop_stopped", advice="a job has called loop.stop(); the loop goes on")
            except (SystemExit, KeyboardInterrupt) as error:
                # A background task of a handler raised it; jobs themselves are guarded. The loop can go on.
                log.warning("worker.background_task_raised", type=type(error).__name__, advice="ignored")
        self._lag.close()
        self._close_loop()

    def on_sync_end(self) -> None:
        """The sync lane has run its last job and told everything."""
        self._sync_ended = True
        self.stop_if_done()

    def stop_if_done(self) -> None:
        """End the loop when a drain is through: both lanes have nothing left to do or to tell."""
        if self._draining and self._sync_ended and self._async.idle:
            self._bench.view.flush()
            if not self._channel.pending_bytes:
                self._ended = True
                self._loop.stop()

    # --- messages

    def _on_message(self, message: ToWorker) -> None:
        self._lag.busy()
        match message:
            case Run():
                self._take(message.jobs)
            case Recall():
                self._give_back(message.count, set(message.ids))
            case Stop():
                self._stop(set(message.ids))
            case DumpStacks():
                stacks.dump_all(self._stacks_fd, self._loop)
                self._channel.send(StacksDumped())
            case Breakers():
                self._bench.view.update(message.states)
            case Follow():
                self._bench.newsroom.follow(message)
            case Unfollow():
                self._bench.newsroom.unfollow(message)
            case FollowQueues():
                self._bench.newsroom.follow_queues(message)
            case PortTaken():
                self._bench.ports.taken(message.id)
            case Drain():
                self._drain()

    def _on_close(self, cause: Exception | None) -> None:
        """The supervisor is gone: nobody will take the outcomes, and somebody else will run the jobs again."""
        if cause is not None:
            with contextlib.suppress(OSError):
                os.write(2, f"the channel to the supervisor broke: {cause}\n".encode("utf-8", "backslashreplace"))
        os._exit(ORPHANED)

    def _take(self, rows: list[JobRow]) -> None:
        if self._draining:
            self._channel.send(Returned([row.id for row in rows]))
            return
        async_kinds = self._bench.handlers.async_kinds
        later = [row for row in rows if row.kind in async_kinds]
        if later:
            self._async.offer(later)
        if len(later) < len(rows):
            self._alarm.came_again(row.id for row in rows)
            self._sync.offer([row for row in rows if row.kind not in async_kinds] if later else rows)
            if not self._watching:
                self._watching = True
                self._loop.call_later(WATCH_SECONDS, self._watch)

    def _give_back(self, count: int, ids: set[int]) -> None:
        taken = self._sync.take_back_ids(ids) + self._async.take_back_ids(ids) if ids else []
        if count > 0:
            last = self._sync.take_back(count)
            taken += last
            taken += self._async.take_back(count - len(last))
        self._channel.send(Returned(taken))

    def _stop(self, ids: set[int]) -> None:
        """What has not begun is given back; what runs is told to end. What has ended is on its way to be told."""
        taken = self._sync.take_back_ids(ids) + self._async.take_back_ids(ids)
        if taken:
            self._channel.send(Returned(taken))
            ids.difference_update(taken)
        self._async.stop(ids)
        if ids and self._watching:
            self._sync.stop(ids)

    def _drain(self) -> None:
        self._draining = True
        self._give_back(self._sync.waiting + self._async.waiting, set())
        self._sync.drain()

    def offer_port(self, offered: PortOffered, fd: int) -> None:
        """A job waits for a client, who is to get this descriptor."""
        self._channel.send(offered, [fd])

    # --- what calls to dependencies came to

    def report(self, observed: Observed) -> None:
        """Tell the supervisor now. What this says of a job's calls leaves before the job's outcome: see Port."""
        self._channel.send(observed)

    def plan_report(self) -> None:
        """There are good calls to be told: soon, together with those to come."""
        self._loop.call_later(OBSERVED_SECONDS, self._bench.view.flush)

    # --- timers

    def _watch(self) -> None:
        """While the sync lane is busy: ring its alarm, and send what a long job would hold up."""
        if self._sync.at_rest:
            self._alarm.stopping.clear()
            self._watching = False
            return
        self._alarm.poke()
        self._sync.outbox.relieve()
        self._loop.call_later(WATCH_SECONDS, self._watch)

    # --- the end

    def _close_loop(self) -> None:
        """Let background tasks and generators of handlers end, but not for long."""
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        with contextlib.suppress(Exception):
            self._loop.run_until_complete(self._settle(tasks))

    async def _settle(self, tasks: set[asyncio.Task[object]]) -> None:
        """Each step has its time. asyncio.wait leaves what does not end, where wait_for would wait for it."""
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSING_SECONDS)
        await self._bench.toolbox.close(_CLOSING_ADAPTERS_SECONDS)
        await asyncio.wait([self._loop.create_task(self._shut_down())], timeout=_CLOSING_SECONDS)

    async def _shut_down(self) -> None:
        await self._loop.shutdown_asyncgens()
        await self._loop.shutdown_default_executor()
