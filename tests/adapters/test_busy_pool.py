"""A pool that is too small for what one worker does at once: nobody's fault but ours, and never the server's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from perdure.adapters.guard import BUSY_MARK, MARK
from perdure.errors import CallTooLong, NoAnswer, PoolExhausted
from perdure.wire.dependencies import Policy, QdrantOptions
from perdure.wire.work import Observed
from tests.adapters import neo4j_rig, postgres_rig
from tests.adapters.neo4j_rig import QUICK
from tests.adapters.qdrant_rig import rig_for
from tests.support.bolt_server import BoltServer
from tests.support.fault_proxy import BLACK_HOLE, STALL, Fault, FaultProxy, latency
from tests.support.postgres_server import PostgresBench, through
from tests.support.qdrant_server import QdrantBench

POOL = 2
#: A call takes a tenth of its limit: a machine with other work does not make it late. Waiting in line takes longer.
TIMEOUT_MS, SLOW_MS = 1_200, 1_000
POLICY = Policy(timeout_ms=TIMEOUT_MS, slow_after_ms=SLOW_MS, tries=3, retry_base_ms=5, retry_cap_ms=20)
QUERY_SECONDS = 0.12


async def all_done(jobs: int, call: Callable[[], Awaitable[Any]]) -> list[Exception]:
    """Make the call for so many jobs at once, again and again until it goes well, as a daemon does; what failed."""
    failures: list[Exception] = []

    async def job() -> None:
        while True:
            try:
                await call()
            except Exception as exc:
                failures.append(exc)
            else:
                return

    await asyncio.gather(*(job() for _ in range(jobs)))
    return failures


def assert_our_own_doing(jobs: int, failures: list[Exception], name: str, told: list[Observed]) -> None:
    """No breaker hears of it, and no job pays for it."""
    assert {type(failure) for failure in failures} <= {PoolExhausted, CallTooLong}
    assert any(isinstance(failure, PoolExhausted) for failure in failures), "there were more jobs than connections"
    assert {getattr(failure, MARK, None) for failure in failures} == {name}
    assert all(getattr(failure, BUSY_MARK, False) for failure in failures)
    assert (sum(one.failed for one in told), sum(one.slow for one in told)) == (0, 0)
    assert sum(one.ok for one in told) == jobs


async def test_postgres_under_more_jobs_than_connections(postgres_dsn: str) -> None:
    """32 async slots on a pool of two would open the breaker of a server that is well."""
    async with postgres_rig.rig(postgres_dsn, POLICY, pool_max=POOL, acquire_timeout_ms=5_000) as one:
        postgres = one.bind()
        failures = await all_done(32, lambda: postgres.fetchval("SELECT pg_sleep($1)", QUERY_SECONDS))
        one.view.flush()
        assert_our_own_doing(32, failures, "postgres", one.told)


async def test_neo4j_under_more_jobs_than_connections(bolt: BoltServer, tmp_path: Path) -> None:
    """The same for Neo4j, whose driver has the pool."""
    with FaultProxy(bolt.host, bolt.port) as proxy:
        options = neo4j_rig.options_for(bolt, tmp_path, f"bolt://{proxy.address}", pool_max=POOL)
        async with neo4j_rig.rig(options, POLICY) as one:
            await asyncio.gather(*(one.neo4j.read("RETURN 1 AS n", timeout=20) for _ in range(POOL)))
            one.view.flush()
            one.told.clear()
            proxy.mode = latency(QUERY_SECONDS / 3)  # there are three answers to wait for
            failures = await all_done(24, lambda: one.neo4j.read("RETURN 1 AS n"))
            one.view.flush()
            assert_our_own_doing(24, failures, "neo4j", one.told)


async def test_qdrant_under_more_jobs_than_connections(qdrant_bench: QdrantBench) -> None:
    """The same for Qdrant."""
    with FaultProxy(*qdrant_bench.address) as proxy:
        key = qdrant_bench.api_key_file
        options = QdrantOptions(url=f"http://{proxy.address}", api_key_file=key, pool_max=POOL)
        async with rig_for(options, timeout_ms=TIMEOUT_MS, slow_after_ms=SLOW_MS) as one:
            await asyncio.gather(*(one.qdrant.collection_exists("any", timeout=20) for _ in range(POOL)))
            one.totals()
            one.told.clear()
            proxy.mode = latency(QUERY_SECONDS)
            failures = await all_done(24, lambda: one.qdrant.collection_exists("any"))
            one.totals()
            assert_our_own_doing(24, failures, "qdrant", one.told)


async def test_a_silent_server_still_counts_under_load(postgres: PostgresBench, postgres_dsn: str) -> None:
    """Calls that wait behind those which hang would hide that the server is gone."""
    with FaultProxy(*postgres.address) as proxy:
        dsn = through(postgres_dsn, proxy.port)
        async with postgres_rig.rig(dsn, postgres_rig.QUICK, pool_max=POOL, acquire_timeout_ms=5_000) as one:
            adapter = one.bind()
            await asyncio.gather(*(adapter.fetchval("SELECT 1") for _ in range(POOL)))
            proxy.mode = BLACK_HOLE
            ends = await asyncio.gather(*(adapter.fetchval("SELECT 1") for _ in range(8)), return_exceptions=True)
            assert all(isinstance(end, Exception) for end in ends)
            assert sum(told.failed for told in one.told) == POOL, "each connection, once"


# --- the first call says what is wrong, though its own limit is shorter than the settings' five seconds


@pytest.mark.parametrize("fault", [BLACK_HOLE, STALL], ids=lambda fault: fault.kind)
async def test_a_silent_postgres_is_named(postgres: PostgresBench, postgres_dsn: str, fault: Fault) -> None:
    """The guard would cut the call off first, and nobody would learn which server, and that it never answered."""
    with FaultProxy(*postgres.address) as proxy:
        proxy.mode = fault
        dsn = through(postgres_dsn, proxy.port)
        limits = {"acquire_timeout_ms": 5_000, "connect_timeout_ms": 5_000}
        async with postgres_rig.rig(dsn, Policy(timeout_ms=500), **limits) as one:
            with pytest.raises(NoAnswer, match=rf"{proxy.port}.* no answer within 0\.\d+ s .*postgres\.dsn"):
                await one.bind().fetchval("SELECT 1")
            assert sum(told.failed for told in one.told) == 1
            with pytest.raises(CallTooLong, match=str(proxy.port)):
                await one.bind().fetchval("SELECT 1", timeout=0.06)
            assert sum(told.failed for told in one.told) == 1, "so short a time says nothing"


async def test_a_silent_neo4j_is_named(bolt: BoltServer, tmp_path: Path) -> None:
    """The same; the second try would be cut off."""
    with FaultProxy(bolt.host, bolt.port) as proxy:
        proxy.mode = BLACK_HOLE
        async with neo4j_rig.rig(neo4j_rig.options_for(bolt, tmp_path, f"bolt://{proxy.address}"), QUICK) as one:
            with pytest.raises(NoAnswer, match=proxy.address):
                await one.neo4j.read("RETURN 1")
            assert one.failures == 1


async def test_a_silent_qdrant_is_named(qdrant_bench: QdrantBench) -> None:
    """Qdrant greets nobody: a silent server is one with a long query, but the message can say which one."""
    with FaultProxy(*qdrant_bench.address) as proxy:
        options = QdrantOptions(url=f"http://{proxy.address}", api_key_file=qdrant_bench.api_key_file)
        async with rig_for(options, timeout_ms=400) as one:
            proxy.mode = STALL
            with pytest.raises(CallTooLong, match=proxy.address):
                await one.qdrant.collection_exists("any")
            assert one.totals() == (0, 1)
