"""News for those who follow queues, or everything: no more at a time than all others can wait for."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from perdure.daemon.delivery import Delivery
from perdure.daemon.roll import Roll
from perdure.daemon.subscriber import BUFFER_ENTRIES, entry_bytes, topic_of
from perdure.wire.streams import Entry, LogText

#: A turn may bring thousands of states. So many entries are told at once (about a millisecond), then others have a go.
AT_ONCE: Final = 250
PAUSE_SECONDS: Final = 0.005
#: So many are read at once, which is cheaper (about a millisecond as well); each time the loop does something else.
READ_AT_ONCE: Final = 1_000


class Wide:
    """Entries in order. What cannot be told in time is left out, the oldest first, and is counted for each follower."""

    def __init__(self, loop: asyncio.AbstractEventLoop, roll: Roll, delivery: Delivery) -> None:
        self._loop = loop
        self._roll = roll
        self._delivery = delivery
        #: With the queues of their jobs.
        self._waiting: deque[tuple[Entry, str]] = deque()
        self._timer: asyncio.Handle | None = None
        #: What has not been read to its end.
        self._unread: deque[Iterator[tuple[Entry, str]]] = deque()
        self._reader: asyncio.Handle | None = None

    def __len__(self) -> int:
        return len(self._waiting) + len(self._unread)

    def tell(self, news: Iterable[tuple[Entry, str]]) -> None:
        """Entries, each with the queue of its job. They are read one after the other, not all of them at once."""
        self._unread.append(iter(news))
        if self._reader is None:
            self._read_some()

    def _read_some(self) -> None:
        """A turn may bring ten thousand jobs. Nothing else waits for all of them, but it is only for a moment."""
        self._reader, room = None, READ_AT_ONCE
        while self._unread and room > 0:
            some = list(islice(self._unread[0], room))
            if len(some) < room:
                self._unread.popleft()
            room -= len(some)
            self._add(some)
        if self._unread:
            self._reader = self._loop.call_soon(self._read_some)

    def _add(self, news: Sequence[tuple[Entry, str]]) -> None:
        self._waiting.extend(news)
        surplus = len(self._waiting) - BUFFER_ENTRIES
        if surplus > 0:
            self._leave_out([self._waiting.popleft() for _ in range(surplus)])
        if self._timer is None and self._waiting:
            self._tell_some()

    def clear(self) -> None:
        """Nobody listens any more."""
        self._waiting.clear()
        self._unread.clear()
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tell_some(self) -> None:
        self._timer = None
        waiting, woken, offered = self._waiting, set(), 0
        while waiting and offered < AT_ONCE:
            entry, queue = waiting.popleft()
            size, topic = entry_bytes(entry), topic_of(entry)
            for follower in self._roll.of_queue(queue):
                if topic in follower.topics:
                    follower.buffer.offer(entry, size)
                    woken.add(follower)
                    offered += 1
        for follower in woken:
            self._delivery.wake(follower)
        if waiting:
            self._timer = self._loop.call_later(PAUSE_SECONDS, self._tell_some)

    def _leave_out(self, news: Iterable[tuple[Entry, str]]) -> None:
        lost: Counter[tuple[str, str]] = Counter()
        for entry, queue in news:
            lost[queue, topic_of(entry)] += entry.lines if isinstance(entry, LogText) else 1
        for (queue, topic), count in lost.items():
            for follower in self._roll.of_queue(queue):
                if topic in follower.topics:
                    follower.buffer.skip(**{_COUNTED[topic]: count} if topic in _COUNTED else {})
                    self._delivery.wake(follower)


#: How streams.Skipped calls what is left out; progress is not counted.
_COUNTED: Final = {"state": "states", "log": "lines", "emit": "values"}
