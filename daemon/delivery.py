"""Sends subscribers what waits for them: not too often, not too much, and never so many at once that others wait."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable

from perdure.daemon.follower import NEVER, Follower
from perdure.wire.envelope import Event
from perdure.wire.peer import Peer
from perdure.wire.streams import News

#: Messages that leave before the loop does something else: about a millisecond.
MESSAGES_PER_TURN = 32


class Delivery:
    """One timer for all. `send(peer, message)` must not wait; `on_ended(follower)`: its last message has left."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        send: Callable[[Peer, object], object],
        on_ended: Callable[[Follower], object],
    ) -> None:
        self._loop = loop
        self._send = send
        self._on_ended = on_ended
        #: (when, a number to sort by, who). A follower whose `due` is another time by now is at another place as well.
        self._planned: list[tuple[float, int, Follower]] = []
        self._numbers = itertools.count()
        self._timer: asyncio.Handle | None = None
        self._timer_due = NEVER
        #: Entries that were left out, of all subscribers together.
        self.skipped = 0

    def __len__(self) -> int:
        return len(self._planned)

    @property
    def armed(self) -> bool:
        """Whether a timer is set."""
        return self._timer is not None

    def wake(self, follower: Follower) -> None:
        """Something may be there to send: plan it."""
        if follower.closed:
            return
        now = self._loop.time()
        due = follower.buffer.due_at(now)
        if due is not None and due < follower.due:
            follower.due = due
            heapq.heappush(self._planned, (due, next(self._numbers), follower))
            self._arm()

    def flush(self, follower: Follower) -> None:
        """Send what there is credit for, without waiting for its time."""
        while not follower.closed and follower.buffer.due_at(0.0) is not None:
            self._send_one(follower, self._loop.time())

    def forget(self, follower: Follower) -> None:
        """It is closed: keep nothing of it."""
        skipped = follower.buffer.skipped
        self.skipped += skipped.states + skipped.lines + skipped.values
        follower.buffer.clear()
        follower.due = NEVER
        # What is planned for others comes within a moment, and takes this one's place in the plan along.
        while self._planned and self._planned[0][2].closed:
            heapq.heappop(self._planned)
        if not self._planned:
            self.close()

    def close(self) -> None:
        """No more timers."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        due = self._planned[0][0]
        if self._timer is not None:
            if self._timer_due <= due:
                return
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._loop.call_at(due, self._fire)

    def _fire(self) -> None:
        self._timer = None
        # uvloop's timers may be half a millisecond early.
        now = max(self._loop.time(), self._timer_due)
        for _ in range(MESSAGES_PER_TURN):
            follower = self._next_due(now)
            if follower is None:
                break
            self._send_one(follower, now)
            self.wake(follower)
        if self._planned:
            self._arm()

    def _next_due(self, now: float) -> Follower | None:
        while self._planned and (self._planned[0][0] <= now or self._planned[0][2].closed):
            due, _, follower = heapq.heappop(self._planned)
            if due == follower.due and not follower.closed:
                follower.due = NEVER
                if follower.buffer.due_at(now) is not None:
                    return follower
        return None

    def _send_one(self, follower: Follower, now: float) -> None:
        buffer = follower.buffer
        entries, skipped = buffer.take(now)
        self.skipped += skipped.states + skipped.lines + skipped.values
        ended = buffer.ending and buffer.empty
        self._send(follower.peer, Event(News(follower.number, entries, skipped, ended)))
        if ended:
            self._on_ended(follower)
