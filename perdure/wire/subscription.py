"""The listening side of a subscription, on an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator
from typing import Self

from perdure.errors import CallTimeout
from perdure.wire.calls import Caller
from perdure.wire.control import Subscribe, Subscribed, Unsubscribe
from perdure.wire.envelope import Event
from perdure.wire.mailroom import Inbox, Mailroom
from perdure.wire.streams import Grant, News


class Subscription:
    """The news of one subscription, in order: `async for message in news`.

    Each message is paid for again when the next one is asked for, so a reader that stops reading stops the daemon from
    sending; nothing piles up here. It ends after the message that says `ended` or tells an `error`. Raises
    ChannelClosed, or the daemon's own reason (DaemonStopping), when the connection ends before that.
    """

    def __init__(self, caller: Caller, number: int, inbox: Inbox) -> None:
        self.number = number
        self._caller = caller
        self._inbox = inbox
        self._waiting: asyncio.Future[None] | None = None
        inbox.arrived = self._arrived

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> News:
        inbox = self._inbox
        if inbox.finished:
            raise StopAsyncIteration
        if granted := inbox.to_grant():
            self._caller.channel.send(Event(Grant(self.number, granted)))
        while not inbox.news:
            if (error := inbox.error()) is not None:
                raise error
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        return inbox.take()

    def close(self) -> None:
        """Read no more, and have the daemon send no more. Again is harmless."""
        mailroom = self._caller.mailroom
        if mailroom is None or mailroom.inboxes.get(self.number) is not self._inbox:
            return
        mailroom.drop(self.number)
        if not self._inbox.finished:
            self._caller.post(Unsubscribe(self.number))

    def _arrived(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


@contextlib.asynccontextmanager
async def subscribe(caller: Caller, request: Subscribe, timeout_s: float | None = None) -> AsyncIterator[Subscription]:
    """`async with subscribe(caller, Subscribe(ids=[7])) as news:`. Raises what the daemon answers (NotFound, …).

    `timeout_s` bounds the asking only. The subscription ends with the block, however that ends.
    """
    news = await _open(caller, request, timeout_s)
    try:
        yield news
    finally:
        news.close()


async def _open(caller: Caller, request: Subscribe, timeout_s: float | None) -> Subscription:
    if caller.mailroom is None:
        caller.mailroom = Mailroom()
    mailroom = caller.mailroom
    mailroom.open(request.credit)
    asking = asyncio.ensure_future(caller.request(request))
    try:
        async with asyncio.timeout(timeout_s):
            answer: Subscribed = await asyncio.shield(asking)
    except BaseException as exc:
        mailroom.given_up()
        # The daemon may be about to say yes: whatever it says, it must hear that nobody listens any more.
        asking.add_done_callback(functools.partial(_abandon, caller))
        if isinstance(exc, TimeoutError):
            raise CallTimeout(f"no answer within {timeout_s:g} s") from None
        raise
    return Subscription(caller, answer.subscription, mailroom.opened(answer.subscription, request.credit))


def _abandon(caller: Caller, asking: asyncio.Future[Subscribed]) -> None:
    if not asking.cancelled() and asking.exception() is None:
        caller.post(Unsubscribe(asking.result().subscription))
