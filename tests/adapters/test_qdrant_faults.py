"""The Qdrant adapter with faults of the network and of the server between.

After each: the call came back in time, the next one works when the fault is over, and no connection is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from perdure.errors import CallTooLong, NoAnswer, PoolExhausted, Unavailable
from perdure.wire.dependencies import QdrantOptions
from tests.adapters.qdrant_rig import SIZE, Rig, new_name, no_connection_left, points, rig_for, within
from tests.support.fault_proxy import (
    BLACK_HOLE,
    HALF_CLOSE,
    PASS,
    REFUSE,
    RESET,
    STALL,
    Fault,
    FaultProxy,
    cut_after,
    latency,
    throttle,
)
from tests.support.qdrant_server import QdrantBench
from tests.support.wait import async_wait_until

ProxyTo = Callable[[str, int], FaultProxy]
LIMIT_MS = 300


class Line:
    """A pool whose connections go through a proxy, and a collection behind it."""

    def __init__(self, rig: Rig, proxy: FaultProxy, name: str) -> None:
        self.rig = rig
        self.qdrant = rig.qdrant
        self.proxy = proxy
        self.name = name


@contextlib.asynccontextmanager
async def line_to(host: str, port: int, api_key_file: str, proxy_to: ProxyTo, **policy: Any) -> AsyncIterator[Line]:
    proxy = proxy_to(host, port)
    options = QdrantOptions(url=f"http://{proxy.address}", api_key_file=api_key_file, pool_max=4)
    async with rig_for(options, **{"timeout_ms": LIMIT_MS, **policy}) as rig:
        line = Line(rig, proxy, new_name())
        await line.qdrant.ensure_collection(line.name, SIZE, timeout=10)
        yield line
        proxy.mode = PASS
        assert await line.qdrant.collection_exists(line.name, timeout=10), "works again"
        assert proxy.connections.open <= options.pool_max
    await no_connection_left(proxy)


@pytest.fixture
def through(qdrant_bench: QdrantBench, proxy_to: ProxyTo) -> Callable[..., Any]:
    """`async with through() as line`."""
    return lambda **policy: line_to(*qdrant_bench.address, qdrant_bench.api_key_file, proxy_to, **policy)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (REFUSE, NoAnswer),
        (RESET, Unavailable),
        (HALF_CLOSE, Unavailable),
        (BLACK_HOLE, CallTooLong),
        (STALL, CallTooLong),
        (latency(30), CallTooLong),
        (throttle(20), CallTooLong),
        (cut_after(20), Unavailable),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else value.__name__,
)
async def test_a_fault_ends_in_time_and_passes(through: Callable[..., Any], fault: Fault, error: type) -> None:
    """A call that never returns holds a slot for ever; a connection that is not dropped fails the next call too."""
    async with through() as line:
        line.proxy.mode = fault
        if fault is REFUSE:
            line.proxy.drop_connections()
        with within(LIMIT_MS / 1000), pytest.raises(error) as caught:
            await line.qdrant.upsert(line.name, points(3))
        assert "qdrant" in str(caught.value)
        assert line.rig.totals()[1] == 1, "counted once"
        with within(LIMIT_MS / 1000), pytest.raises((Unavailable, CallTooLong)):
            await asyncio.gather(*(line.qdrant.count(line.name) for _ in range(8)))


async def test_a_fault_that_passes_in_time_is_not_seen(through: Callable[..., Any]) -> None:
    """Each short break of the network would fail the jobs of that moment."""
    async with through(timeout_ms=10_000, tries=20, retry_cap_ms=50) as line:
        line.proxy.mode = RESET
        write = asyncio.create_task(line.qdrant.upsert(line.name, points(3)))
        accepted = line.proxy.connections.accepted
        while line.proxy.connections.accepted == accepted:
            await asyncio.sleep(0)
        line.proxy.mode = PASS
        await write
        assert await line.qdrant.count(line.name) == 3
        assert line.rig.totals()[1] == 0


async def test_cut_in_the_middle_of_a_result(through: Callable[..., Any]) -> None:
    """Half of an answer would be taken for a whole one."""
    async with through() as line:
        await line.qdrant.upsert(line.name, points(50, "long " * 200), timeout=10)
        line.proxy.mode = cut_after(5_000)
        with within(LIMIT_MS / 1000), pytest.raises(Unavailable, match="before the answer was complete"):
            await line.qdrant.scroll(line.name, limit=50)
        line.proxy.mode = PASS
        found, _ = await line.qdrant.scroll(line.name, limit=50, timeout=10)
        assert len(found) == 50


async def test_a_write_whose_answer_was_lost_is_made_again(through: Callable[..., Any]) -> None:
    """The server has applied it, nobody knows: once more must change nothing."""
    async with through() as line:
        line.proxy.mode = cut_after(5)
        with pytest.raises(Unavailable):
            await line.qdrant.upsert(line.name, points(7))
        line.proxy.mode = PASS
        assert await line.qdrant.count(line.name, timeout=10) == 7, "it had been applied"
        await line.qdrant.upsert(line.name, points(7), timeout=10)
        assert await line.qdrant.count(line.name, timeout=10) == 7


async def test_killed_and_restarted(qdrant_bench: QdrantBench, proxy_to: ProxyTo) -> None:
    """Pooled connections to a server that is gone would fail the first calls after its return."""
    server = qdrant_bench.own
    async with line_to(server.host, server.port, str(server.api_key_file), proxy_to, timeout_ms=2_000) as line:
        await line.qdrant.upsert(line.name, points(5))
        server.kill()
        with within(2), pytest.raises(Unavailable):
            await line.qdrant.upsert(line.name, points(6))
        server.start()
        assert await line.qdrant.count(line.name) == 5, "what was acknowledged is there"
        await line.qdrant.upsert(line.name, points(6))
        assert await line.qdrant.count(line.name) == 6


async def test_flapping(through: Callable[..., Any]) -> None:
    """A service that comes and goes would lose writes, or leak a connection with each turn."""
    all_points = points(60)
    async with through(tries=2) as line:
        left = list(range(len(all_points)))
        turns = 0
        for mode in (RESET, PASS, REFUSE, PASS, cut_after(30), PASS, HALF_CLOSE, PASS):
            line.proxy.mode = mode
            batch = left[:20]
            with within(LIMIT_MS / 1000):
                ends = await asyncio.gather(
                    *(line.qdrant.upsert(line.name, [all_points[n]]) for n in batch), return_exceptions=True
                )
            assert all(isinstance(end, Unavailable | CallTooLong) for end in ends if isinstance(end, BaseException))
            done = {n for n, end in zip(batch, ends, strict=True) if not isinstance(end, BaseException)}
            left = [n for n in left if n not in done]
            turns += 1
        line.proxy.mode = PASS
        for n in left:
            await line.qdrant.upsert(line.name, [all_points[n]], timeout=10)
        assert turns == 8
        assert await line.qdrant.count(line.name, timeout=10) == len(all_points)


async def test_the_jobs_deadline_ends_a_call(through: Callable[..., Any]) -> None:
    """A job would be killed in the middle of a call that could have ended before; and the breaker would be blamed."""
    async with through() as line:
        failed = line.rig.totals()[1]
        line.proxy.mode = BLACK_HOLE
        with within(0.05), pytest.raises(CallTooLong, match="job's time"):
            await line.rig.for_job(0.05).count(line.name)
        assert line.rig.totals()[1] == failed


async def test_cancellation_gives_the_connection_back(through: Callable[..., Any]) -> None:
    """Each cancelled job would keep one connection of the pool."""
    async with through() as line:
        line.proxy.mode = STALL
        calls = [asyncio.create_task(line.qdrant.count(line.name)) for _ in range(12)]
        accepted = line.proxy.connections.accepted
        while line.proxy.connections.accepted == accepted:
            await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        assert all(
            isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*calls, return_exceptions=True)
        )
        assert line.rig.totals()[1] == 0, "no news of the service"


async def test_a_full_pool_is_named(qdrant_bench: QdrantBench, proxy_to: ProxyTo) -> None:
    """Too small a pool would look like a server that is down."""
    host, port = qdrant_bench.address
    proxy = proxy_to(host, port)
    options = QdrantOptions(
        url=f"http://{proxy.address}", api_key_file=qdrant_bench.api_key_file, pool_max=1, timeout_ms=1_000
    )
    async with rig_for(options, timeout_ms=1_900, tries=1) as rig:
        proxy.mode = STALL
        first, second = await asyncio.gather(
            rig.qdrant.collection_exists("x"), rig.qdrant.collection_exists("x"), return_exceptions=True
        )
        assert {type(first), type(second)} == {NoAnswer, PoolExhausted}


async def test_a_handshake_without_answer_leaves_nothing(proxy_to: ProxyTo) -> None:
    """A client that is cancelled in the middle of a TLS handshake keeps the socket: one more with each call."""
    proxy = proxy_to("127.0.0.1", 1)
    proxy.mode = BLACK_HOLE
    async with rig_for(QdrantOptions(url=f"https://{proxy.address}"), timeout_ms=500, tries=1) as rig:
        await rig.qdrant.client()  # opening takes its time
        gc.disable()  # the collector would close them sooner or later
        try:
            ends = [await asyncio.gather(rig.qdrant.collection_exists("x"), return_exceptions=True) for _ in range(3)]
            cut = sum(isinstance(end, CallTooLong) for (end,) in ends)
            assert cut < 3, "the client gives up before the guard does, if the machine lets it"
            await async_wait_until(lambda: proxy.connections.open <= cut, what="connections closed")
        finally:
            gc.enable()
        assert proxy.connections.accepted >= 3
