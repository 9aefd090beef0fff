"""The ready-made kinds for databases, against real ones."""

from __future__ import annotations

import importlib
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from perdure.context import Context
from perdure.errors import InvalidArguments, Permanent
from perdure.kinds import BUILTIN
from perdure.kinds.neo4j_execute import execute as neo4j_execute
from perdure.kinds.plain import MOST_ROWS, bounded, plain
from perdure.kinds.postgres_execute import execute as postgres_execute
from perdure.kinds.postgres_values import translate
from perdure.kinds.qdrant_upsert import upsert
from perdure.registry import registry
from perdure.wire.dependencies import Policy, PostgresOptions, QdrantOptions
from tests.adapters.neo4j_rig import options_for
from tests.adapters.test_toolbox import Kit
from tests.support.bolt_server import BoltServer
from tests.support.qdrant_server import QdrantBench


@asynccontextmanager
async def context(**options: Any) -> AsyncIterator[Context]:
    """A job's context with real adapters."""
    kit = Kit(policy=Policy(timeout_ms=20_000), **options)
    log = Context.for_test().log
    yield Context(id=7, kind="k", queue="q", args={}, attempt=1, max_attempts=5, log=log, tools=kit.box.tools)
    await kit.box.close(5.0)


def test_each_kind_is_in_its_module() -> None:
    """A kind that the configuration names would not be there, or would not say what it needs."""
    for kind, module in BUILTIN.items():
        importlib.import_module(module)
        job = registry.get(kind)
        assert job is not None, kind
        assert job.spec.module == module
        assert job.spec.doc
        adapter = kind.partition(".")[0]
        assert job.spec.needs == ([] if adapter in ("http", "shell") else [adapter])


# --- results


def test_values_of_databases_become_data() -> None:
    """A statement would take effect, and its job fail because of its result."""
    moment = datetime(2024, 5, 1, 12, tzinfo=UTC)
    number = uuid.UUID(int=7)
    assert plain({"a": (1, moment, Decimal("1.50"), b"\0\1", float("nan"), 2**80, number), 5: timedelta(hours=1)}) == {
        "a": [1, "2024-05-01T12:00:00+00:00", "1.50", "AAE=", "NaN", str(2**80), str(number)],
        "5": "PT1H",
    }
    assert plain([float("inf"), float("-inf")]) == ["Infinity", "-Infinity"]


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (timedelta(), "PT0S"),
        (timedelta(days=3), "P3D"),
        (timedelta(days=1, hours=2, minutes=3, seconds=4, microseconds=500_000), "P1DT2H3M4.5S"),
        (timedelta(microseconds=1), "PT0.000001S"),
        (timedelta(hours=-36), "-P1DT12H"),
    ],
)
def test_a_span_of_time_is_iso_text(span: timedelta, text: str) -> None:
    """A number of seconds loses digits, and does not say that it is a span."""
    assert plain(span) == text


def test_rows_are_bounded() -> None:
    """One careless SELECT would fill the queue's file."""
    assert bounded([{"n": 1}]) == {"rows": [{"n": 1}]}
    many = bounded({"n": n} for n in range(MOST_ROWS + 1))
    assert (len(many["rows"]), many["truncated"]) == (MOST_ROWS, True)
    assert bounded([{"text": "x" * 300_000}]) == {"rows": [], "truncated": True}


# --- postgres.execute


async def test_a_statement_tells_its_status_or_its_rows(postgres_dsn: str) -> None:
    """Whoever runs SQL from the shell could not see what came of it."""
    async with context(postgres=PostgresOptions(dsn=postgres_dsn)) as ctx:
        run = postgres_execute.function
        assert await run(ctx, "CREATE TABLE t (id int, body jsonb); CREATE TABLE u ()") == {"status": "CREATE TABLE"}
        assert await run(ctx, "INSERT INTO t VALUES ($1, $2)", [1, {"a": 1}]) == {"status": "INSERT 0 1"}
        returned = await run(ctx, "INSERT INTO t SELECT n FROM generate_series(2, 2000) n RETURNING id")
        assert (len(returned["rows"]), returned["truncated"]) == (MOST_ROWS, True)
        counted = await run(ctx, "SELECT count(*) AS n, max(body->>'a') AS a FROM t")
        assert counted == {"rows": [{"n": 2000, "a": "1"}]}
        assert await run(ctx, "VACUUM t") == {"status": "VACUUM"}
        day = await run(ctx, "SELECT $1::text::date AS day", ["2024-05-01"])
        assert day == {"rows": [{"day": "2024-05-01"}]}


@pytest.mark.parametrize(
    ("sql", "value"),
    [
        ("'infinity'::timestamptz", "infinity"),
        ("'-infinity'::timestamp", "-infinity"),
        ("'infinity'::date", "infinity"),
        ("'2024-05-01'::date", "2024-05-01"),
        ("'NaN'::float8", "NaN"),
        ("'-Infinity'::float8", "-Infinity"),
        ("'1 day 02:00'::interval", "P1DT2H"),
        ("int4range(1, 5)", "[1,5)"),
        ("int4range(NULL, 5)", "(,5)"),
        ("int4range(1, 1)", "empty"),
        ("tstzrange('2024-05-01 00:00+00', 'infinity', '[]')", "[2024-05-01T00:00:00+00:00,infinity]"),
        ("('{[1,2),[5,7)}'::int4multirange)", ["[1,2)", "[5,7)"]),
        ("ARRAY[int4range(1, 2)]", ["[1,2)"]),
        ("B'0101'", "0101"),
        ("'((0,0),(1,2))'::polygon", {"closed": True, "points": [[0.0, 0.0], [1.0, 2.0]]}),
        ("'<(1,2),3>'::circle", [[1.0, 2.0], 3.0]),
        ("'1 month'::interval", "P30D"),
        ("""'{"a": 1}'::jsonb""", '{"a": 1}'),
        ("'[(0,0),(1,2)]'::path", {"closed": False, "points": [[0.0, 0.0], [1.0, 2.0]]}),
        ("ROW(1, 'infinity'::timestamp)::pair_of_kinds", {"n": 1, "at": "infinity"}),
    ],
)
async def test_values_that_json_has_no_word_for_say_what_they_are(postgres_dsn: str, sql: str, value: object) -> None:
    """Somebody would read the year 9999, or the words of a Python object, where the database says infinity."""
    async with context(postgres=PostgresOptions(dsn=postgres_dsn)) as ctx:
        run = postgres_execute.function
        made = "DO $$ BEGIN CREATE TYPE pair_of_kinds AS (n int, at timestamp); EXCEPTION WHEN OTHERS THEN END $$"
        await run(ctx, made)
        assert await run(ctx, f"SELECT {sql} AS v") == {"rows": [{"v": value}]}


def test_a_bound_with_signs_of_a_range_is_quoted() -> None:
    """Where the range ends could not be told."""
    assert translate(asyncpg.Range('a,"b', "c d", upper_inc=True)) == '["a,\\"b","c d"]'


async def test_a_statement_with_a_key_takes_effect_once(postgres_dsn: str) -> None:
    """The shell would have no way to enqueue a payment twice without paying twice."""
    async with context(postgres=PostgresOptions(dsn=postgres_dsn)) as ctx:
        run = postgres_execute.function
        await run(ctx, "CREATE TABLE t (id int)")
        insert = "INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)"
        assert await run(ctx, insert, once="k") == {"status": "INSERT 0 1"}
        assert await run(ctx, insert, once="k") == {"done_before": True}
        assert await run(ctx, "INSERT INTO t VALUES (3) RETURNING id", once="l") == {"rows": [{"id": 3}]}
        with pytest.raises(asyncpg.DataError):
            await run(ctx, "SELECT 1/0", once="m")
        assert await run(ctx, "SELECT count(*) AS n FROM t", once="m") == {"rows": [{"n": 3}]}


@pytest.mark.parametrize(
    ("sql", "args"), [("SELEC 1", []), ("SELECT 1; SELECT $1::int", [1]), ("SELECT $1::int", ["x"])]
)
async def test_a_mistake_in_a_statement_is_permanent(postgres_dsn: str, sql: str, args: list[Any]) -> None:
    """It would be run again until no attempt is left."""
    async with context(postgres=PostgresOptions(dsn=postgres_dsn)) as ctx:
        with pytest.raises(postgres_execute.permanent):
            await postgres_execute.function(ctx, sql, args)


@pytest.mark.parametrize("sql", ["begin; create table left_open ()", "/* x */ START  TRANSACTION", "select 1;\n Begin"])
async def test_a_statement_that_begins_a_transaction_is_refused(postgres_dsn: str, sql: str) -> None:
    """It would be told as done, and undone when its connection goes back to the pool."""
    async with context(postgres=PostgresOptions(dsn=postgres_dsn)) as ctx:
        with pytest.raises(Permanent, match="leave BEGIN out"):
            await postgres_execute.function(ctx, sql)


async def test_a_word_is_not_taken_for_a_transaction(postgres_dsn: str) -> None:
    """A block of PL/pgSQL, a text, or a transaction that ends where it began would be refused for good."""
    block = "DO $$ DECLARE n int := 1; BEGIN PERFORM n; END $$"
    async with context(postgres=PostgresOptions(dsn=postgres_dsn)) as ctx:
        assert await postgres_execute.function(ctx, block) == {"status": "DO"}
        assert await postgres_execute.function(ctx, "SELECT 'a; begin' AS a") == {"rows": [{"a": "a; begin"}]}
        assert await postgres_execute.function(ctx, "BEGIN; SELECT 1; COMMIT") == {"status": "COMMIT"}


# --- neo4j.execute


async def test_a_query_tells_its_counters_and_rows(bolt: BoltServer, tmp_path: Path) -> None:
    """Whoever runs Cypher from the shell could not see what came of it."""
    async with context(neo4j=options_for(bolt, tmp_path)) as ctx:
        run, name = neo4j_execute.function, uuid.uuid4().hex
        made = await run(ctx, "CREATE (n:KindTest {name: $name})", {"name": name})
        assert made["counters"]["nodes_created"] == 1
        assert "rows" not in made
        query = "MATCH (n:KindTest {name: $name}) RETURN n.name AS name"
        assert (await run(ctx, query, {"name": name}, access="read"))["rows"] == [{"name": name}]
        first = await run(ctx, "CREATE (:KindTest {name: $name})", {"name": name}, once=name)
        assert first["counters"]["nodes_created"] == 1
        assert await run(ctx, "CREATE (:KindTest {name: $name})", {"name": name}, once=name) == {"done_before": True}
        assert len((await run(ctx, query, {"name": name}))["rows"]) == 2


# --- qdrant.upsert


async def test_points_are_written_once_and_named_by_their_place(tmp_path: Path) -> None:
    """A second delivery would double points that have no id."""
    async with context(qdrant=QdrantOptions(path=str(tmp_path / "points"))) as ctx:
        run = upsert.function
        points: list[dict[str, Any]] = [{"vector": [1.0, 0.0], "payload": {"n": 1}}, {"id": 5, "vector": [0.0, 1.0]}]
        for _ in range(2):
            assert await run(ctx, "docs", points, distance="Cosine") == {"status": "completed", "points": 2}
        assert await ctx.qdrant.count("docs") == 2
        assert await run(ctx, "docs", []) == {"status": "completed", "points": 0}


@pytest.mark.parametrize("point", [{"id": 1}, {"id": 1, "vector": "x"}, {"id": 1, "vector": [1.0], "wrong": 1}])
async def test_a_point_that_is_none_is_named(tmp_path: Path, point: dict[str, Any]) -> None:
    """One bad point among thousands could not be found."""
    async with context(qdrant=QdrantOptions(path=str(tmp_path / "points"))) as ctx:
        with pytest.raises(InvalidArguments, match=r"points\[1\]"):
            await upsert.function(ctx, "docs", [{"id": 2, "vector": [1.0]}, point])


@pytest.mark.parametrize("wrong", [-1, 2**64, True, 1.0, "seven", "", "123e4567-e89b-12d3-a456-42661417400", [1]])
async def test_an_id_that_is_none_is_named_before_anything_is_sent(tmp_path: Path, wrong: object) -> None:
    """Qdrant refuses all points of the request, and the job would be tried again until no attempt is left."""
    async with context(qdrant=QdrantOptions(path=str(tmp_path / "points"))) as ctx:
        with pytest.raises(InvalidArguments, match=r"points\[1\]: the id .* UUID"):
            await upsert.function(ctx, "docs", [{"id": 2, "vector": [1.0]}, {"id": wrong, "vector": [1.0]}])


async def test_ids_in_every_form_are_taken(qdrant_bench: QdrantBench) -> None:
    """A check that knows less than the server would refuse what works."""
    ids = [0, 2**63, "123e4567-e89b-12d3-a456-426614174000", "123E4567E89B12D3A456426614174001"]
    host, port = qdrant_bench.address
    options = QdrantOptions(url=f"http://{host}:{port}", api_key_file=qdrant_bench.api_key_file)
    async with context(qdrant=options) as ctx:
        given = [{"id": one, "vector": [1.0, 0.0]} for one in ids]
        done = await upsert.function(ctx, f"ids-{uuid.uuid4().hex}", given, distance="Dot")
        assert done == {"status": "completed", "points": len(ids)}


async def test_points_that_qdrant_does_not_take_are_permanent(qdrant_bench: QdrantBench) -> None:
    """Their size does not fit the collection, and will not at the next attempt."""
    host, port = qdrant_bench.address
    options = QdrantOptions(url=f"http://{host}:{port}", api_key_file=qdrant_bench.api_key_file)
    async with context(qdrant=options) as ctx:
        name = f"sizes-{uuid.uuid4().hex}"
        await upsert.function(ctx, name, [{"id": 1, "vector": [1.0, 0.0]}], distance="Dot")
        with pytest.raises(Permanent, match="qdrant does not take these points: "):
            await upsert.function(ctx, name, [{"id": 2, "vector": [1.0, 0.0, 0.5]}])
        with pytest.raises(Exception, match=r"(?i)not found|doesn't exist") as missing:
            await upsert.function(ctx, f"{name}-not", [{"id": 2, "vector": [1.0]}])
        assert not isinstance(missing.value, Permanent), "somebody may make the collection meanwhile"
