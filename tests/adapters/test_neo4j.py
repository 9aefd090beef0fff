"""The Neo4j adapter against a real Bolt server that is well."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import subprocess
import sys
from pathlib import Path
from typing import Any

import neo4j as driver_package
import pytest
import uvloop

from perdure.adapters.bridge import Bridge
from perdure.adapters.neo4j import BlockingNeo4j, check
from perdure.errors import BreakerOpen, UsageError
from perdure.wire.dependencies import NEO4J, BreakerState, Neo4jOptions
from tests.adapters.neo4j_rig import options_for, rig
from tests.support.bolt_server import BoltServer


@pytest.fixture
def options(bolt: BoltServer, tmp_path: Path) -> Neo4jOptions:
    return options_for(bolt, tmp_path)


async def test_read_and_write(options: Neo4jOptions) -> None:
    """What is written must be read again, with parameters by name and as a mapping."""
    async with rig(options) as one:
        await one.neo4j.write("MATCH (n:ReadWrite) DELETE n")
        assert await one.neo4j.write("CREATE (n:ReadWrite {x: $x}) RETURN n.x AS x", x=7) == [{"x": 7}]
        found = await one.neo4j.read("MATCH (n:ReadWrite) WHERE n.x = $timeout RETURN n.x AS x", {"timeout": 7})
        assert found == [{"x": 7}]
        await one.no_slot_is_taken()
        assert one.told == []


async def test_values_are_plain_data(options: Neo4jOptions) -> None:
    """A job's result must not hold the driver's types, which no encoder knows."""
    query = (
        "CREATE (a:Plain {n: 1})-[:KNOWS {since: 2}]->(b:Plain {n: 2})"
        " RETURN a, [1, 'x', null] AS list, {k: 1.5} AS map, point({x: 1.0, y: 2.0}) AS place,"
        " date('2024-02-03') AS day, datetime('2024-02-03T04:05:06Z') AS at, duration('PT90S') AS took"
    )
    async with rig(options) as one:
        [record] = await one.neo4j.write(query)
    assert record["a"] == {"n": 1}
    assert record["list"] == [1, "x", None]
    assert record["map"] == {"k": 1.5}
    assert record["day"] == datetime.date(2024, 2, 3)
    assert record["at"] == datetime.datetime(2024, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
    assert record["took"] == "PT1M30S"
    assert record["place"] == [1.0, 2.0]


async def test_execute_counts_changes(options: Neo4jOptions) -> None:
    """`execute` is there for its counters."""
    async with rig(options) as one:
        done = await one.neo4j.execute("UNWIND range(1, 3) AS i CREATE (:Counted {i: i})")
        assert done.counters["nodes_created"] == 3
        assert (await one.neo4j.execute("RETURN 1 AS n", access="read")) == ([{"n": 1}], {})


async def test_transaction_commits_or_rolls_back(options: Neo4jOptions) -> None:
    """A block that raises must leave nothing behind; one that ends must leave everything."""
    count = "MATCH (n:InTransaction) RETURN count(n) AS n"
    async with rig(options) as one:
        await one.neo4j.write("MATCH (n:InTransaction) DELETE n")
        with contextlib.suppress(ZeroDivisionError):
            async with one.neo4j.transaction() as tx:
                await tx.run("CREATE (:InTransaction)")
                raise ZeroDivisionError
        assert await one.neo4j.read(count) == [{"n": 0}]
        async with one.neo4j.transaction() as tx:
            await tx.run("CREATE (:InTransaction)")
            assert (await tx.execute("CREATE (:InTransaction)")).counters["nodes_created"] == 1
        async with one.neo4j.transaction() as tx:
            await tx.run("CREATE (:InTransaction)")
            await tx.rollback()
        assert await one.neo4j.read(count) == [{"n": 2}]
        await one.no_slot_is_taken()


async def test_native_session(options: Neo4jOptions) -> None:
    """A user of the driver must find the driver, with its managed transactions and the database named."""

    async def work(tx: driver_package.AsyncManagedTransaction) -> Any:
        return await (await tx.run("RETURN 5 AS n")).single(strict=True)

    async with rig(options) as one:
        async with one.neo4j.session("read") as session:
            assert isinstance(session, driver_package.AsyncSession)
            assert (await session.execute_read(work))["n"] == 5
            result = await session.run("RETURN 6 AS n")
            assert (await result.single(strict=True))["n"] == 6
        await one.no_slot_is_taken()


async def test_mistakes_are_the_callers(options: Neo4jOptions) -> None:
    """A syntax error must not be repeated, nor open the breaker for all other jobs."""
    async with rig(options) as one:
        with pytest.raises(driver_package.exceptions.CypherSyntaxError):
            await one.neo4j.read("THIS IS NO CYPHER")
        async with one.neo4j.transaction() as tx:
            with pytest.raises(driver_package.exceptions.Neo4jError):
                await tx.run("NOR IS THIS")
            await tx.rollback()
        assert await one.neo4j.read("RETURN 1 AS n") == [{"n": 1}]
        await one.no_slot_is_taken()
        assert one.failures == 0


async def test_opened_once_however_many_ask(options: Neo4jOptions) -> None:
    """Twenty jobs that begin at the same moment must share one driver, and its pool's limit."""
    async with rig(options) as one:
        await asyncio.gather(*(one.neo4j.read("RETURN 1 AS n") for _ in range(20)))
        holder = one.driver._holder
        assert holder is not None
        assert holder._generation is not None
        pool = holder._generation.driver._pool
        assert sum(len(connections) for connections in pool.connections.values()) <= options.pool_max
        await one.no_slot_is_taken()


async def test_no_call_while_the_breaker_is_open(options: Neo4jOptions) -> None:
    """An open breaker must cost no connection, in none of the ways in."""
    async with rig(options) as one:
        one.view.update([BreakerState(NEO4J, "open")])
        with pytest.raises(BreakerOpen):
            await one.neo4j.read("RETURN 1")
        for enter in (one.neo4j.transaction, one.neo4j.session):
            with pytest.raises(BreakerOpen):
                async with enter():
                    pass
        assert one.driver._holder is None
        assert await one.neo4j.read("RETURN 1", fallback=[]) == []


async def test_blocking_twin(options: Neo4jOptions) -> None:
    """A synchronous handler must get the same, from its own thread."""
    async with rig(options) as one:
        blocking = BlockingNeo4j(one.neo4j, Bridge(asyncio.get_running_loop()))

        def handler() -> list[dict[str, Any]]:
            blocking.write("MATCH (n:Blocking) DELETE n")
            with blocking.transaction() as tx:
                tx.run("CREATE (:Blocking {x: $x})", x=1)
            with contextlib.suppress(ZeroDivisionError), blocking.transaction() as tx:
                tx.run("CREATE (:Blocking {x: 2})")
                raise ZeroDivisionError
            assert blocking.execute("RETURN 1 AS n", access="read").records == [{"n": 1}]

            async def count(session: driver_package.AsyncSession) -> int:
                result = await session.run("MATCH (n:Blocking) RETURN count(n) AS n")
                return int((await result.single(strict=True))["n"])

            with blocking.session("read") as session:
                assert session.call(count) == 1
            return blocking.read("MATCH (n:Blocking) RETURN n.x AS x")

        assert await asyncio.to_thread(handler) == [{"x": 1}]
        await one.no_slot_is_taken()


def test_under_uvloop(options: Neo4jOptions) -> None:
    """Workers run on uvloop: the driver must, too."""

    async def main() -> list[dict[str, Any]]:
        async with rig(options) as one:
            return await one.neo4j.read("RETURN 1 AS n")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main()) == [{"n": 1}]


async def test_nothing_is_opened_after_the_end(options: Neo4jOptions) -> None:
    """A job that outlives the drain must not open connections that nobody closes."""
    async with rig(options) as one:
        await one.neo4j.read("RETURN 1")
        await one.driver.close()
        with pytest.raises(UsageError, match="ending"):
            await one.neo4j.read("RETURN 1")


async def test_check_tells_which_server(options: Neo4jOptions) -> None:
    """`perdure doctor` must say what it found."""
    line = await check(options)
    assert "Neo4j/5" in line
    assert "Bolt 5." in line
    assert options.database in line


def test_driver_is_not_imported_before_it_is_needed() -> None:
    """The command line must stay light, and work where the extra is not installed."""
    code = "import sys, perdure.adapters.neo4j; sys.exit('neo4j' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_the_driver_it_says_what_to_install() -> None:
    """A missing extra must not look like a bug."""
    code = (
        "import sys, asyncio; sys.modules['neo4j'] = None\n"
        "from perdure.adapters.neo4j import check; from perdure.wire.dependencies import Neo4jOptions\n"
        "from perdure.errors import PerdureError\n"
        "try: asyncio.run(check(Neo4jOptions(uri='bolt://localhost')))\n"
        "except PerdureError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "install perdure[neo4j]" in done.stdout, done.stderr
