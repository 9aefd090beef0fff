"""Effects that happen once: every job is delivered twice, with kills between the effect and its acknowledgement."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable, Iterator

import pytest

from perdure.adapters.toolbox import Toolbox
from perdure.adapters.view import BreakerView
from perdure.clock import SystemClock
from perdure.wire.dependencies import Dependencies, Policy, PostgresOptions, QdrantOptions
from tests.adapters.neo4j_rig import options_for
from tests.support.bolt_server import BoltServer
from tests.support.postgres_server import PostgresBench, ask
from tests.support.qdrant_server import QdrantBench
from tests.support.twice import Twice

HANDLERS = "tests.adapters.effect_handlers"
#: Generous: the machine is shared, and these tests are not about time.
POLICY = Policy(timeout_ms=20_000)
LANES = pytest.mark.parametrize("lane", ["", ".blocking"], ids=["async", "sync"])
STEPS = pytest.mark.parametrize("step", ["inside", "after"])


class Effects:
    """One database with the harness: `count` counts the effects of a name."""

    def __init__(self, twice: Twice, kind: str, count: Callable[[str], int], wanted: int) -> None:
        self.twice, self.kind, self.count, self.wanted = twice, kind, count, wanted
        self.name = f"effect_{uuid.uuid4().hex[:8]}"

    def check(self) -> None:
        """The effect is there, once."""
        assert self.count(self.name) == self.wanted


def with_tools(dependencies: Dependencies, ask_it: Callable[[Toolbox], Awaitable[int]]) -> int:
    """Ask a database from the test itself."""

    async def run() -> int:
        clock, loop = SystemClock(), asyncio.get_running_loop()
        view = BreakerView(lambda _: None, clock)
        box = Toolbox(dependencies, "test", view, loop, clock, random.Random())
        try:
            return await ask_it(box)
        finally:
            await box.close(5.0)

    return asyncio.run(run())


@pytest.fixture(scope="module")
def in_postgres(postgres: PostgresBench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Effects]:
    """Rows."""
    with postgres.database() as dsn:
        asyncio.run(ask(dsn, "CREATE TABLE effects (name text)"))
        dependencies = Dependencies(postgres=PostgresOptions(dsn=dsn), policies={"postgres": POLICY})

        def count(name: str) -> int:
            return int(asyncio.run(ask(dsn, "SELECT count(*) FROM effects WHERE name = $1", name))[0][0])

        with Twice(tmp_path_factory.mktemp("twice"), dependencies, "perdure.adapters.postgres", HANDLERS) as twice:
            yield Effects(twice, "effect.postgres", count, 1)


@pytest.fixture(scope="module")
def in_neo4j(bolt_session: BoltServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Effects]:
    """Nodes."""
    bolt_session.start()
    folder = tmp_path_factory.mktemp("twice")
    dependencies = Dependencies(neo4j=options_for(bolt_session, folder), policies={"neo4j": POLICY})

    def count(name: str) -> int:
        async def look(box: Toolbox) -> int:
            neo4j = box.tools(0, None, 0).neo4j
            rows = await neo4j.read("MATCH (e:TwiceEffect {name: $name}) RETURN count(e) AS n", name=name)
            return int(rows[0]["n"])

        return with_tools(dependencies, look)

    # The marks outlast the run in a server that is not ours: another queue each time.
    store_id = uuid.uuid4().hex
    with Twice(folder, dependencies, "perdure.adapters.neo4j", HANDLERS, store_id=store_id) as twice:
        yield Effects(twice, "effect.neo4j", count, 1)


@pytest.fixture(scope="module")
def in_qdrant(qdrant_bench: QdrantBench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Effects]:
    """Points, three for each effect."""
    host, port = qdrant_bench.address
    options = QdrantOptions(url=f"http://{host}:{port}", api_key_file=qdrant_bench.api_key_file)
    dependencies = Dependencies(qdrant=options, policies={"qdrant": POLICY})

    def count(name: str) -> int:
        return with_tools(dependencies, lambda box: box.tools(0, None, 0).qdrant.count(name))

    with Twice(tmp_path_factory.mktemp("twice"), dependencies, "perdure.adapters.qdrant", HANDLERS) as twice:
        yield Effects(twice, "effect.qdrant", count, 3)


@pytest.fixture(params=["in_postgres", "in_neo4j", "in_qdrant"])
def effects(request: pytest.FixtureRequest) -> Effects:
    """Each database in turn, and a name of its own for the test's effect."""
    found: Effects = request.getfixturevalue(request.param)
    return Effects(found.twice, found.kind, found.count, found.wanted)


@LANES
def test_a_job_that_runs_twice_has_its_effect_once(effects: Effects, lane: str) -> None:
    """An outcome that is lost on its way would double what the job did."""
    results = effects.twice.one_after_the_other(effects.kind + lane, {"name": effects.name})
    effects.check()
    assert results == ([True, True] if effects.wanted == 3 else [True, False])


@LANES
@STEPS
def test_a_kill_around_the_effect_neither_loses_nor_doubles_it(effects: Effects, lane: str, step: str) -> None:
    """The moment that at-least-once delivery is about."""
    result = effects.twice.killed(effects.kind + lane, {"name": effects.name}, step)
    effects.check()
    assert result is (step == "inside" or effects.wanted == 3)


def test_two_deliveries_at_the_same_time_have_one_effect(effects: Effects) -> None:
    """A worker that was taken for dead too early would double what its successor does."""
    results = effects.twice.at_once(effects.kind, {"name": effects.name})
    effects.check()
    assert sorted(results) == ([True, True] if effects.wanted == 3 else [False, True])
