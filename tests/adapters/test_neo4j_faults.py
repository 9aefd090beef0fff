"""The Neo4j adapter while the network between, or the server, has each fault there is.

In each case: the call returns within its limit, no slot of the pool leaks, and the next call after the fault goes well.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import neo4j as driver_package
import pytest

from perdure.adapters import neo4j as adapter
from perdure.adapters import neo4j_driver
from perdure.adapters.call import JobCall
from perdure.errors import CallTooLong, JobTimeout, NoAnswer, PoolExhausted, Unavailable
from perdure.wire.dependencies import Policy
from tests.adapters.neo4j_rig import BRIEF, QUICK, Neo4jRig, options_for, rig, within
from tests.support.bolt_server import BoltServer, OwnServer
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
from tests.support.wait import async_wait_until

pytestmark = pytest.mark.usefixtures("neo4j_sockets")

ONE = [{"n": 1}]
#: Seconds for a call that is to go well.
PATIENCE = 20.0
Proxied = Callable[[str, int], FaultProxy]


@pytest.fixture
def proxy(bolt: BoltServer, proxy_to: Proxied) -> FaultProxy:
    return proxy_to(bolt.host, bolt.port)


@pytest.fixture
def uri(proxy: FaultProxy) -> str:
    return f"bolt://{proxy.address}"


async def read_one(one: Neo4jRig, timeout: float | None = None) -> list[dict[str, int]]:
    return await one.neo4j.read("RETURN 1 AS n", timeout=timeout)


#: In these tests, instead of the driver module's own seconds.
CLOSE_SECONDS = 0.5


@pytest.fixture(autouse=True)
def _short_farewell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neo4j_driver, "CLOSE_SECONDS", CLOSE_SECONDS)


async def fill_pool(one: Neo4jRig, count: int = 4) -> None:
    """Have some idle connections in the pool."""
    await asyncio.gather(*(read_one(one, PATIENCE) for _ in range(count)))


async def is_well(one: Neo4jRig) -> None:
    await one.no_slot_is_taken()
    for _ in range(5):
        assert await read_one(one, PATIENCE) == ONE
    await one.no_slot_is_taken()


# --- the network


@pytest.mark.parametrize("fault", [REFUSE, RESET, HALF_CLOSE, BLACK_HOLE], ids=lambda fault: fault.kind)
async def test_fault_with_a_filled_pool(
    bolt: BoltServer, uri: str, proxy: FaultProxy, tmp_path: Path, fault: Fault
) -> None:
    """A fault under idle connections must fail each call in time, and be over when it is over."""
    async with rig(options_for(bolt, tmp_path, uri), QUICK) as one:
        await fill_pool(one)
        proxy.mode = fault
        if fault is REFUSE:
            proxy.drop_connections()
        with within(), pytest.raises((Unavailable, CallTooLong, driver_package.exceptions.DriverError)):
            await read_one(one)
        with within(), pytest.raises((Unavailable, CallTooLong, driver_package.exceptions.DriverError)):
            await one.neo4j.write("CREATE (:Never)", timeout=0.3)
        assert one.failures >= 1
        proxy.mode = PASS
        await is_well(one)


@pytest.mark.parametrize("fault", [REFUSE, RESET, HALF_CLOSE, BLACK_HOLE], ids=lambda fault: fault.kind)
async def test_fault_from_the_start(
    bolt: BoltServer, uri: str, proxy: FaultProxy, tmp_path: Path, fault: Fault
) -> None:
    """A server that was never there must be told apart from one that is slow, and be used once it is there."""
    proxy.mode = fault
    # Enough for a few tries on a busy machine: the limit would be told instead of the last answer.
    async with rig(options_for(bolt, tmp_path, uri), msgspec.structs.replace(QUICK, timeout_ms=2_000)) as one:
        with within(2.0), pytest.raises(NoAnswer) as caught:
            await read_one(one)
        assert f"127.0.0.1:{proxy.port}" in str(caught.value)
        if fault is REFUSE:
            assert "neo4j.uri" in str(caught.value)
        proxy.mode = PASS
        await is_well(one)


async def test_t20_dropped_packets_cost_one_limit(
    bolt: BoltServer, uri: str, proxy: FaultProxy, tmp_path: Path
) -> None:
    """T20: one call cut off by a silent network must throw away its idle neighbours, which are as dead."""
    async with rig(options_for(bolt, tmp_path, uri), QUICK) as one:
        await fill_pool(one)
        proxy.mode = BLACK_HOLE
        with within(), pytest.raises(CallTooLong):
            await read_one(one)
        proxy.mode = PASS
        with within(0.5):
            assert await read_one(one) == ONE
        await is_well(one)


async def test_t20_cut_off_in_the_liveness_check(bolt: BoltServer, uri: str, proxy: FaultProxy, tmp_path: Path) -> None:
    """T20: the driver leaks a slot when it is cancelled in a liveness check; a pool of two would be gone for good."""
    async with rig(options_for(bolt, tmp_path, uri, pool_max=2, liveness_check_ms=0), QUICK) as one:
        for _ in range(3):
            await fill_pool(one, 2)
            proxy.mode = BLACK_HOLE
            with within(0.2), pytest.raises(CallTooLong):
                await one.neo4j.read("RETURN 1", timeout=0.2)
            proxy.mode = PASS
        await is_well(one)


async def test_t20_transactions_and_sessions_in_silence(
    bolt: BoltServer, uri: str, proxy: FaultProxy, tmp_path: Path
) -> None:
    """T20: the end of a block must not wait for a silent server, in none of the ways that it ends."""
    async with rig(options_for(bolt, tmp_path, uri), QUICK) as one:

        async def commit() -> None:
            async with one.neo4j.transaction() as tx:
                await tx.run("CREATE (:Never)")
                proxy.mode = BLACK_HOLE

        async def leave_session() -> None:
            async with one.neo4j.session() as session:
                await session.run("RETURN 1 AS n")
                proxy.mode = BLACK_HOLE
                raise ZeroDivisionError

        with within(), pytest.raises(CallTooLong):
            await commit()
        proxy.mode = PASS
        with within(CLOSE_SECONDS), pytest.raises(ZeroDivisionError):
            await leave_session()
        proxy.mode = PASS
        await is_well(one)


async def test_deadline_of_the_job(bolt: BoltServer, uri: str, proxy: FaultProxy, tmp_path: Path) -> None:
    """A call must end with its job's time, and say nothing against the server then."""
    # Of a call's own limit the job's time is a small part, also on a machine that notices its end late.
    async with rig(options_for(bolt, tmp_path, uri), BRIEF) as one:
        late = one.driver.bind(JobCall(1, time.monotonic() - 1))
        with pytest.raises(JobTimeout):
            await late.read("RETURN 1")
        await fill_pool(one)
        proxy.mode = BLACK_HOLE
        soon = one.driver.bind(JobCall(1, time.monotonic() + 0.1))
        with within(0.1), pytest.raises(CallTooLong):
            await soon.read("RETURN 1")
        proxy.mode = PASS
        await is_well(one)
        assert one.failures == 0


async def test_t22_cancellation_frees_the_slot(bolt: BoltServer, uri: str, proxy: FaultProxy, tmp_path: Path) -> None:
    """T22: a cancelled job must not take a connection of the pool with it, nor count against the server."""
    async with rig(options_for(bolt, tmp_path, uri, pool_max=3), QUICK) as one:
        await fill_pool(one)
        proxy.mode = STALL
        tasks = [asyncio.create_task(read_one(one)) for _ in range(5)]
        await asyncio.wait(tasks, timeout=0.05)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=1)
        assert all(task.cancelled() for task in tasks)
        proxy.mode = PASS
        await is_well(one)
        assert one.failures == 0


async def test_slow_but_there(bolt: BoltServer, uri: str, proxy: FaultProxy, tmp_path: Path) -> None:
    """A slow network is no failure while calls end within their limit."""
    async with rig(options_for(bolt, tmp_path, uri), QUICK) as one:
        await fill_pool(one, 1)
        proxy.mode = latency(0.05)
        assert await read_one(one) == ONE
        proxy.mode = throttle(2_000)
        with within(), pytest.raises(CallTooLong):
            await one.neo4j.read("UNWIND range(1, 5000) AS n RETURN n")
        proxy.mode = PASS
        await is_well(one)


async def test_cut_in_the_middle_of_a_result(bolt: BoltServer, uri: str, proxy: FaultProxy, tmp_path: Path) -> None:
    """Half a result must never be taken for a whole one: the read is repeated, or fails."""
    async with rig(options_for(bolt, tmp_path, uri), BRIEF) as one:
        await fill_pool(one, 1)
        proxy.mode = cut_after(5_000)
        with within(5.0), pytest.raises(driver_package.exceptions.ServiceUnavailable):
            await one.neo4j.read("UNWIND range(1, 3000) AS n RETURN n")
        proxy.mode = PASS
        found = await one.neo4j.read("UNWIND range(1, 3000) AS n RETURN n")
        assert [record["n"] for record in found] == list(range(1, 3_001))
        await is_well(one)


async def test_lost_connection_is_repeated(bolt: BoltServer, uri: str, proxy: FaultProxy, tmp_path: Path) -> None:
    """T19: connections that died while they were idle must cost no job an attempt: the call is made again."""
    async with rig(options_for(bolt, tmp_path, uri)) as one:
        await fill_pool(one)
        proxy.drop_connections()
        assert await read_one(one) == ONE
        proxy.drop_connections()
        assert await one.neo4j.write("RETURN 1 AS n") == ONE
        proxy.drop_connections()
        async with one.neo4j.transaction() as tx:
            assert await tx.run("RETURN 1 AS n") == ONE
        assert one.failures == 0


async def test_commit_of_unknown_fate_is_not_repeated(
    bolt: BoltServer, uri: str, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write whose commit arrived, but not its answer, must not be made twice, unless the caller says that it may."""
    fetch = adapter._fetch

    async def fetch_and_lose(*args: Any) -> Any:
        done = await fetch(*args)
        proxy.mode = latency(60)  # the server gets the commit, we do not get its answer
        return done

    count = "MATCH (n:Unknown) RETURN count(n) AS n"
    async with rig(options_for(bolt, tmp_path, uri)) as one, rig(options_for(bolt, tmp_path)) as direct:
        await direct.neo4j.write("MATCH (n:Unknown) DELETE n")
        await fill_pool(one, 1)
        with monkeypatch.context() as patched:
            patched.setattr(adapter, "_fetch", fetch_and_lose)
            writing = asyncio.create_task(one.neo4j.write("CREATE (:Unknown)"))
            await async_wait_until(lambda: proxy.mode != PASS, 5, "the query to be done")
        await async_wait_until(lambda: _is(direct, count, ONE), 5, "the commit to be applied")
        proxy.drop_connections()
        proxy.mode = PASS
        with within(), pytest.raises(driver_package.exceptions.IncompleteCommit):
            await writing
        assert one.failures == 1
        await is_well(one)
        assert await direct.neo4j.read(count) == ONE


async def _is(one: Neo4jRig, query: str, expected: object) -> bool:
    return await one.neo4j.read(query) == expected


async def test_pool_is_exhausted(bolt: BoltServer, tmp_path: Path) -> None:
    """Too many calls at once must fail with the setting to look at, not with a mystery."""
    async with rig(options_for(bolt, tmp_path, pool_max=1, acquire_timeout_ms=100), Policy(tries=1)) as one:
        async with one.neo4j.transaction() as tx:
            with within(0.1), pytest.raises(PoolExhausted, match=r"neo4j\.pool_max"):
                await read_one(one)
            assert await tx.run("RETURN 1 AS n") == ONE
        await is_well(one)


async def test_t19_flapping(bolt: BoltServer, uri: str, proxy: FaultProxy, tmp_path: Path) -> None:
    """T19: a server that comes and goes must leave no slot behind, and each call an answer in time."""
    async with rig(options_for(bolt, tmp_path, uri, pool_max=4), QUICK) as one:
        for fault in (RESET, BLACK_HOLE, REFUSE, HALF_CLOSE):
            proxy.mode = fault
            with within(0.2):
                calls = [one.neo4j.read("RETURN 1 AS n", timeout=0.2) for _ in range(8)]
                found = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(one_of_them, Exception) or one_of_them == ONE for one_of_them in found)
            proxy.mode = PASS
            await is_well(one)


# --- the server


async def test_killed_and_restarted(own_bolt: OwnServer, tmp_path: Path) -> None:
    """A server that is killed in the middle of a transaction must be used again as soon as it is back."""
    async with rig(options_for(own_bolt, tmp_path)) as one:
        await one.neo4j.write("MATCH (n:Survives) DELETE n")
        await one.neo4j.write("CREATE (:Survives)")
        await fill_pool(one)

        async def die_in_it() -> None:
            async with one.neo4j.transaction() as tx:
                await tx.run("CREATE (:Survives)")
                own_bolt.kill()

        with within(), pytest.raises((Unavailable, driver_package.exceptions.DriverError)):
            await die_in_it()
        with within(), pytest.raises(NoAnswer, match="nobody listens"):
            await read_one(one)
        await one.no_slot_is_taken()
        own_bolt.start()
        await is_well(one)
        assert await one.neo4j.read("MATCH (n:Survives) RETURN count(n) AS n") == ONE


async def test_the_server_gives_up_too(own_bolt: OwnServer, tmp_path: Path) -> None:
    """A query that nobody waits for any more must not go on to eat the server. Neo4j only."""
    if own_bolt.kind != "neo4j":
        pytest.skip(f"{own_bolt} ignores the time limit of a transaction")
    slow = "UNWIND range(1, 1000000) AS a UNWIND range(1, 1000000) AS b RETURN sum(a * b % 7) AS endless"
    running = "SHOW TRANSACTIONS YIELD currentQuery WHERE currentQuery CONTAINS 'endless' RETURN count(*) - 1 AS n"
    async with rig(options_for(own_bolt, tmp_path)) as one:
        with within(0.2), pytest.raises(CallTooLong):
            await one.neo4j.read(slow, timeout=0.2)

        async def is_gone() -> bool:
            return await one.neo4j.read(running) == [{"n": 0}]

        await async_wait_until(is_gone, 10, "the server to end the query")


async def test_close_does_not_wait_for_a_silent_server(
    bolt: BoltServer, uri: str, proxy: FaultProxy, tmp_path: Path
) -> None:
    """A drain must not hang on the farewell to a server that does not answer."""
    one = Neo4jRig(options_for(bolt, tmp_path, uri))
    await fill_pool(one)
    proxy.mode = BLACK_HOLE
    with within(CLOSE_SECONDS):
        await one.driver.close()
