"""Effects in Neo4j that happen once, however often and at how many places their job is delivered."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import pytest

from perdure.adapters.bridge import Bridge
from perdure.adapters.neo4j import BlockingNeo4j, Neo4j
from perdure.errors import Retry
from perdure.wire.dependencies import Neo4jOptions
from tests.adapters.neo4j_rig import options_for, rig
from tests.support.bolt_server import BoltServer

COUNT = "MATCH (n:Effect {of: $mark}) RETURN count(n) AS n"


@pytest.fixture
def options(bolt: BoltServer, tmp_path: Path) -> Neo4jOptions:
    return options_for(bolt, tmp_path)


@pytest.fixture
def mark() -> str:
    return f"store:1:{uuid.uuid4()}"


async def deliver(neo4j: Neo4j, mark: str) -> str:
    """One delivery of the job."""
    try:
        async with neo4j.once(mark) as tx:
            if not tx.first:
                return "was there"
            await tx.run("CREATE (:Effect {of: $mark})", mark=mark)
        return "done"
    except Retry:
        return "later"


async def test_second_delivery_finds_the_mark(options: Neo4jOptions, mark: str) -> None:
    """A job that is delivered twice must have its effect once."""
    async with rig(options) as one:
        assert [await deliver(one.neo4j, mark) for _ in range(3)] == ["done", "was there", "was there"]
        assert await one.neo4j.read(COUNT, mark=mark) == [{"n": 1}]
        await one.no_slot_is_taken()


async def test_a_failed_effect_leaves_no_mark(options: Neo4jOptions, mark: str) -> None:
    """A mark without its effect would lose the effect for ever."""

    async def fail() -> None:
        async with one.neo4j.once(mark) as tx:
            assert tx.first
            await tx.run("CREATE (:Effect {of: $mark})", mark=mark)
            raise ZeroDivisionError

    async with rig(options) as one:
        with pytest.raises(ZeroDivisionError):
            await fail()
        assert await deliver(one.neo4j, mark) == "done"
        assert await one.neo4j.read(COUNT, mark=mark) == [{"n": 1}]


async def test_many_deliveries_at_once(options: Neo4jOptions, mark: str) -> None:
    """Ten deliveries at the same moment, in two workers, must have one effect; none may be lost or wait for ever."""
    async with rig(options) as one, rig(options) as two:
        outcomes = await asyncio.gather(*(deliver(each.neo4j, mark) for each in (one, two) for _ in range(5)))
        assert outcomes.count("done") == 1, outcomes
        assert await one.neo4j.read(COUNT, mark=mark) == [{"n": 1}]
        assert await deliver(one.neo4j, mark) == "was there"
        await one.no_slot_is_taken()
        await two.no_slot_is_taken()
        assert one.failures == two.failures == 0


async def test_constraint_is_there(options: Neo4jOptions, mark: str) -> None:
    """Without the constraint two deliveries could both be the first."""
    async with rig(options) as one:
        await deliver(one.neo4j, mark)
        found = await one.neo4j.read("SHOW CONSTRAINTS")
        assert [each["properties"] for each in found if each["labelsOrTypes"] == ["PerdureOnce"]] == [["mark"]]


async def test_blocking_once(options: Neo4jOptions, mark: str) -> None:
    """A synchronous handler must get the same."""
    async with rig(options) as one:
        blocking = BlockingNeo4j(one.neo4j, Bridge(asyncio.get_running_loop()))

        def handler() -> bool:
            with blocking.once(mark) as tx:
                if tx.first:
                    tx.run("CREATE (:Effect {of: $mark})", mark=mark)
                return tx.first

        assert [await asyncio.to_thread(handler) for _ in range(2)] == [True, False]
        assert await one.neo4j.read(COUNT, mark=mark) == [{"n": 1}]


async def test_the_constraint_is_made_by_many_at_once(options: Neo4jOptions) -> None:
    """The index of a constraint that another worker is making would be taken for somebody's own: jobs would die."""
    async with rig(options) as one, rig(options) as other:
        await one.neo4j.write("DROP CONSTRAINT perdure_once IF EXISTS", retry=True)
        marks = [f"store:2:{uuid.uuid4()}" for _ in range(6)]
        done = await asyncio.gather(*(deliver(each.neo4j, mark) for mark in marks for each in (one, other)))
        assert done.count("done") == len(marks)


async def test_half_a_constraint_is_made_whole(options: Neo4jOptions, mark: str) -> None:
    """An index without its constraint, as a worker that died leaves it, would keep all jobs from setting marks."""
    async with rig(options) as one:
        await one.neo4j.write("DROP CONSTRAINT perdure_once IF EXISTS", retry=True)
        await one.neo4j.write("CREATE INDEX perdure_once IF NOT EXISTS FOR (o:PerdureOnce) ON (o.mark)", retry=True)
        assert await deliver(one.neo4j, mark) == "done"
        found = await one.neo4j.read("SHOW CONSTRAINTS")
        assert any("PerdureOnce" in str(record) for record in found)
