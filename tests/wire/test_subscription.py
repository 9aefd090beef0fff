"""Subscriptions at the client's end: credits, order, and every way in which they end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perdure.errors import CallTimeout, ChannelClosed, DaemonStopping, InvalidOption, NotFound, ProtocolError
from perdure.wire import codec
from perdure.wire.blocking import BlockingCaller
from perdure.wire.calls import connect
from perdure.wire.control import Ping, Subscribe, Subscribed, Unsubscribe
from perdure.wire.endpoint import BlockingEndpoint
from perdure.wire.envelope import Call, Cancel, Event, Reply
from perdure.wire.streams import News, Progress
from perdure.wire.subscription import Subscription, subscribe
from tests.support.wait import async_wait_until, wait_until
from tests.wire.conftest import Pair, Run
from tests.wire.newsstand import Newsstand, in_thread
from tests.wire.office import shut


def places(messages: list[News]) -> list[float]:
    """Their numbers."""
    return [entry.done for message in messages for entry in message.entries if isinstance(entry, Progress)]


async def read(news: Subscription, count: int) -> list[News]:
    """The next messages."""
    return [await anext(news) for _ in range(count)]


@pytest.mark.parametrize("credit", [1, 2, 3, 16, 500])
def test_everything_comes_once_and_in_order(run: Run, path: Path, credit: int) -> None:
    """News would be lost or doubled, or the credits run dry and the subscriber wait for ever."""

    async def work() -> None:
        stand, caller = Newsstand(path, 100), await connect(str(path))
        async with subscribe(caller, Subscribe(everything=True, credit=credit)) as news:
            messages = [message async for message in news]
        assert places(messages) == list(range(1, 101))
        assert messages[-1].ended
        assert sum(stand.grants) <= 100
        await caller.request(Ping())
        # It has ended by itself: there is nothing to unsubscribe from.
        assert stand.unsubscribed == []
        assert caller.mailroom is not None
        assert caller.mailroom.inboxes == {}
        await shut(stand.server, caller)

    run(work())


def test_a_reader_that_stops_stops_the_sender(run: Run, path: Path) -> None:
    """News for a slow reader would pile up in its memory."""

    async def work() -> None:
        stand, caller = Newsstand(path, 100), await connect(str(path))
        async with subscribe(caller, Subscribe(everything=True, credit=4)) as news:
            await async_wait_until(lambda: sum(stand.sent.values()) == 4)
            await caller.request(Ping())
            assert sum(stand.sent.values()) == 4
            # The message in hand is paid for when the next one is asked for.
            assert places(await read(news, 1)) == [1]
            await caller.request(Ping())
            assert stand.grants == []
            assert places(await read(news, 4)) == [2, 3, 4, 5]
            await caller.request(Ping())
            assert 5 <= sum(stand.sent.values()) <= 8
        await async_wait_until(lambda: stand.unsubscribed == [1])
        await caller.request(Ping())
        assert stand.credit == {}
        await shut(stand.server, caller)

    run(work())


def test_many_at_once_on_one_connection(run: Run, path: Path) -> None:
    """News of one subscription would go to another, or wait until that one is read."""

    async def work() -> None:
        stand, caller = Newsstand(path, 50), await connect(str(path))

        async def follow(credit: int) -> int:
            async with subscribe(caller, Subscribe(everything=True, credit=credit)) as news:
                messages = [message async for message in news]
            assert {message.subscription for message in messages} == {news.number}
            assert places(messages) == list(range(1, 51))
            return news.number

        async with subscribe(caller, Subscribe(everything=True, credit=1)):
            numbers = await asyncio.gather(*(follow(credit) for credit in range(1, 30)))
        assert len(set(numbers)) == 29
        await shut(stand.server, caller)

    run(work())


@pytest.mark.parametrize("reason", [None, DaemonStopping("the daemon stops")])
def test_the_end_of_the_connection_comes_after_what_was_sent(
    run: Run, path: Path, reason: DaemonStopping | None
) -> None:
    """A follower would wait for ever for a daemon that has gone, or not hear why, or miss the last news."""

    async def work() -> None:
        stand, caller = Newsstand(path, 100), await connect(str(path))
        async with subscribe(caller, Subscribe(everything=True, credit=3)) as news:
            await async_wait_until(lambda: sum(stand.sent.values()) == 3)
            stand.server.close(reason)
            await async_wait_until(lambda: caller.closed)
            assert places(await read(news, 3)) == [1, 2, 3]
            for _ in range(2):
                with pytest.raises(DaemonStopping if reason else ChannelClosed):
                    await anext(news)
        with pytest.raises(DaemonStopping if reason else ChannelClosed):
            async with subscribe(caller, Subscribe(everything=True)):
                raise AssertionError
        await shut(stand.server, caller)

    run(work())


def test_who_waits_hears_of_the_end(run: Run, path: Path) -> None:
    """A follower that waits for news when the daemon dies would hang."""

    async def work() -> None:
        stand, caller = Newsstand(path, 1000), await connect(str(path))
        async with subscribe(caller, Subscribe(everything=True, credit=1)) as news:
            await read(news, 1)
            stand.credit.clear()
            waiting = asyncio.ensure_future(anext(news))
            await caller.request(Ping())
            stand.server.close()
            with pytest.raises(ChannelClosed):
                await waiting
        await shut(stand.server, caller)

    run(work())


def test_a_refusal_and_an_error_at_the_end(run: Run, path: Path) -> None:
    """A follower of a job that does not exist would wait; one whose subscription fails would not know."""

    async def work() -> None:
        stand, caller = Newsstand(path, 2, error="too much"), await connect(str(path))
        with pytest.raises(NotFound, match="no job 404"):
            async with subscribe(caller, Subscribe(ids=[404])):
                raise AssertionError
        with pytest.raises(InvalidOption, match="credit"):
            async with subscribe(caller, Subscribe(ids=[2], credit=0)):
                raise AssertionError
        async with subscribe(caller, Subscribe(ids=[2])) as news:
            messages = [message async for message in news]
        assert [message.error for message in messages] == [None, "too much"]
        await caller.request(Ping())
        assert stand.unsubscribed == []
        await shut(stand.server, caller)

    run(work())


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_one_that_is_given_up_while_it_is_made_is_ended(run: Run, path: Path, how: str) -> None:
    """The daemon would go on sending to somebody who is not there."""

    async def work() -> None:
        stand, caller = Newsstand(path, 100), await connect(str(path))

        async def follow() -> None:
            async with subscribe(caller, Subscribe(ids=[1]), 0.05 if how == "timeout" else None):
                raise AssertionError

        following = asyncio.ensure_future(follow())
        await async_wait_until(lambda: stand.late)
        if how == "cancel":
            following.cancel()
        with pytest.raises(asyncio.CancelledError if how == "cancel" else CallTimeout):
            await following
        stand.late[0].set_result(Subscribed(stand.numbers))
        await async_wait_until(lambda: stand.unsubscribed == [1])
        assert stand.credit == {}
        await caller.request(Ping())
        await shut(stand.server, caller)

    run(work())


def test_leaving_in_the_middle_of_waiting(run: Run, path: Path) -> None:
    """A follower that is cancelled would leave its subscription, or swallow the next message of another."""

    async def work() -> None:
        stand, caller = Newsstand(path, 100), await connect(str(path))

        async def follow() -> None:
            async with subscribe(caller, Subscribe(everything=True, credit=2)) as news:
                await read(news, 2)
                stand.credit.clear()
                await anext(news)

        following = asyncio.ensure_future(follow())
        await async_wait_until(lambda: stand.sent and not stand.credit)
        await asyncio.sleep(0)
        following.cancel()
        await asyncio.wait([following])
        assert following.cancelled()
        await async_wait_until(lambda: stand.unsubscribed == [1])
        await shut(stand.server, caller)

    run(work())


def test_events_that_are_no_news_end_the_connection(run: Run, path: Path) -> None:
    """A daemon of another version would make a follower wait for messages that it cannot read."""

    async def work() -> None:
        stand, caller = Newsstand(path, 0), await connect(str(path))
        async with subscribe(caller, Subscribe(everything=True)) as news:
            stand.server.send(stand.server.clients[0], Event(["what?"]))
            with pytest.raises(ChannelClosed, match="cannot be read"):
                await anext(news)
        await shut(stand.server, caller)

    run(work())


# --- the blocking twin


@pytest.mark.parametrize("credit", [1, 2, 16])
def test_the_blocking_client_follows_too(path: Path, credit: int) -> None:
    """`perdure follow` would lose or double news, or could ask nothing else meanwhile."""
    with in_thread(lambda: Newsstand(path, 60)) as stand, BlockingCaller.connect(str(path)) as caller:
        with caller.subscription(Subscribe(everything=True, credit=credit)) as news:
            messages = []
            for message in news:
                messages.append(message)
                if len(messages) % 7 == 0:
                    # News that come before the answer are kept.
                    assert caller.request(Ping(), 5) is None
        assert places(messages) == list(range(1, 61))
        with caller.subscription(Subscribe(everything=True, credit=credit)) as first:
            with caller.subscription(Subscribe(everything=True, credit=credit)) as second:
                assert [next(second).subscription for _ in range(5)] == [3] * 5
                assert [next(first).subscription for _ in range(5)] == [2] * 5
            wait_until(lambda: stand.unsubscribed == [3])
        wait_until(lambda: stand.unsubscribed == [3, 2])
        with pytest.raises(NotFound), caller.subscription(Subscribe(ids=[404])):
            raise AssertionError


def test_the_blocking_client_hears_of_the_end(path: Path) -> None:
    """`perdure follow` would hang when the daemon goes."""
    with in_thread(lambda: Newsstand(path, 100)) as stand, BlockingCaller.connect(str(path)) as caller:

        def all_of(news: Iterator[News]) -> list[News]:
            messages = []
            for message in news:
                messages.append(message)
                if len(messages) == 5:
                    loop.call_soon_threadsafe(stand.server.close, DaemonStopping())
            return messages

        loop = stand.server._loop
        with pytest.raises(DaemonStopping), caller.subscription(Subscribe(everything=True, credit=1)) as news:
            all_of(news)


def test_a_blocking_client_that_gave_up_unsubscribes_later(pair: Pair) -> None:
    """A subscription that came to be after its timeout would go on, told to nobody."""
    daemon: BlockingEndpoint[Any] = BlockingEndpoint(pair[1], codec.control_decoder())
    with BlockingCaller(BlockingEndpoint(pair[0], codec.answer_decoder())) as caller, daemon:
        with pytest.raises(CallTimeout), caller.subscription(Subscribe(ids=[1]), 0.05):
            raise AssertionError
        daemon.send(Reply(1, Subscribed(9)))
        daemon.send(Reply(2, None))
        assert caller.request(Ping(), 5) is None
        said = [daemon.recv(5) for _ in range(4)]
    assert [one and one[0] for one in said[1:]] == [Cancel(1), Call(2, 5000, Ping()), Call(3, None, Unsubscribe(9))]


def test_garbage_ends_the_blocking_subscription(path: Path) -> None:
    """It would wait for news that it can read."""
    with (
        in_thread(lambda: Newsstand(path, 0)) as stand,
        BlockingCaller.connect(str(path)) as caller,
        caller.subscription(Subscribe(everything=True)) as news,
    ):
        gossip = Event({"type": "gossip"})
        stand.server._loop.call_soon_threadsafe(stand.server.send, stand.server.clients[0], gossip)
        with pytest.raises(ProtocolError):
            next(news)
