"""News of subscriptions, sorted by whose they are. It knows no event loop: both kinds of client use it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import cache

import msgspec
from msgspec import msgpack

from perdure.errors import InvalidOption, PerdureError
from perdure.wire import packet
from perdure.wire.data import ErrorData
from perdure.wire.faults import to_exception
from perdure.wire.streams import News


@cache
def news_decoder() -> msgpack.Decoder[News]:
    """For the bodies of events that a client gets."""
    return msgpack.Decoder(News)


class Inbox:
    """The news of one subscription that nobody has read yet: never more than it has given credits for.

    `arrived` is called when there is something to look at: news, or the end of the connection.
    """

    __slots__ = ("_read", "_share", "arrived", "end", "finished", "news")

    def __init__(self, credit: int) -> None:
        self.news: deque[News] = deque()
        self.arrived: Callable[[], object] | None = None
        #: Why the connection has ended.
        self.end: ErrorData | None = None
        #: The last message of the subscription has been read.
        self.finished = False
        #: Messages that were read and have not been granted again.
        self._read = 0
        self._share = max(1, credit // 2)

    def take(self) -> News:
        """The next message; there must be one."""
        message = self.news.popleft()
        self.finished = message.ended or message.error is not None
        self._read += 1
        return message

    def to_grant(self) -> int:
        """How many messages the other side may send more, because as many were consumed; 0: not worth telling yet.

        Many at once where many come, each one where the reader is faster.
        """
        if self.finished or (self.news and self._read < self._share):
            return 0
        count, self._read = self._read, 0
        return count

    def error(self) -> PerdureError | None:
        """What the connection ended with."""
        return None if self.end is None else to_exception(self.end)


class Mailroom:
    """All subscriptions of one connection.

    News may arrive before the answer that tells the number of their subscription has been looked at: while somebody is
    `opening` one, news that are nobody's are kept.
    """

    def __init__(self) -> None:
        self.inboxes: dict[int, Inbox] = {}
        self._opening = 0
        self._end: ErrorData | None = None
        self._early: dict[int, list[News]] = {}

    def open(self, credit: int) -> None:
        """Somebody is about to subscribe; `opened` or `given_up` must follow. Raises InvalidOption."""
        if credit < 1:
            raise InvalidOption("a subscription must begin with a credit of at least one message")
        self._opening += 1

    def opened(self, subscription: int, credit: int) -> Inbox:
        """It has this number."""
        inbox = self.inboxes[subscription] = Inbox(credit)
        inbox.news.extend(self._early.pop(subscription, ()))
        inbox.end = self._end
        self.given_up()
        return inbox

    def given_up(self) -> None:
        """It came to nothing."""
        self._opening -= 1
        if not self._opening:
            self._early.clear()

    def drop(self, subscription: int) -> None:
        """Nobody reads this one any more."""
        self.inboxes.pop(subscription, None)

    def deliver(self, body: msgspec.Raw) -> None:
        """An event has come. Raises ProtocolError if it is no news."""
        message = packet.decode(news_decoder(), bytes(body))
        inbox = self.inboxes.get(message.subscription)
        if inbox is not None:
            inbox.news.append(message)
            if inbox.arrived is not None:
                inbox.arrived()
        elif self._opening:
            self._early.setdefault(message.subscription, []).append(message)

    def close(self, end: ErrorData) -> None:
        """The connection has ended. What has come before can still be read."""
        self._end = end
        for inbox in self.inboxes.values():
            inbox.end = end
            if inbox.arrived is not None:
                inbox.arrived()
