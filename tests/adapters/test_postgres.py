"""The PostgreSQL adapter with a server that is well."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

import perdure.adapters
from perdure.adapters import postgres_pool
from perdure.adapters.bridge import Bridge
from perdure.adapters.postgres import BlockingPostgres, check, reads_only
from perdure.errors import PerdureError, PoolExhausted, UnknownDatabase, UsageError
from perdure.wire.dependencies import Policy, PostgresOptions
from tests.adapters.postgres_rig import rig, shorten, takes_less_than
from tests.support.postgres_server import PostgresBench, ask, without_password
from tests.support.wait import async_wait_until

TABLE = "CREATE TABLE t (id int PRIMARY KEY, name text)"


async def run_in(manager: AbstractAsyncContextManager[Any], *statements: str, then: Exception | None = None) -> None:
    """Run statements within it, then fail."""
    async with manager as tx:
        for statement in statements:
            await tx.execute(statement)
        if then is not None:
            raise then


async def test_verbs(postgres_dsn: str) -> None:
    """A user of asyncpg would miss a verb, or get another result from it."""
    async with rig(postgres_dsn) as one:
        postgres = one.bind()
        assert await postgres.execute(TABLE) == "CREATE TABLE"
        assert await postgres.execute("INSERT INTO t VALUES ($1, $2)", 1, "a") == "INSERT 0 1"
        await postgres.executemany("INSERT INTO t VALUES ($1, $2)", [(2, "b"), (3, "c")])
        assert await postgres.copy_records_to_table("t", records=[(4, "d")], columns=["id", "name"]) == "COPY 1"
        assert [row["id"] for row in await postgres.fetch("SELECT id FROM t ORDER BY id")] == [1, 2, 3, 4]
        row = await postgres.fetchrow("SELECT * FROM t WHERE id = $1", 2)
        assert row is not None
        assert dict(row) == {"id": 2, "name": "b"}
        assert await postgres.fetchval("SELECT name FROM t WHERE id = 3") == "c"
        async with postgres.connection() as con, con.transaction():
            assert [row["id"] async for row in con.cursor("SELECT id FROM t ORDER BY id")] == [1, 2, 3, 4]


async def test_transaction_commits_and_rolls_back(postgres_dsn: str) -> None:
    """Half of a transaction would stay."""
    async with rig(postgres_dsn, pool_max=1) as one:
        postgres = one.bind()
        await postgres.execute(TABLE)
        async with postgres.transaction() as tx:
            await tx.execute("INSERT INTO t VALUES (1)")
            await tx.executemany("INSERT INTO t VALUES ($1)", [(2,), (3,)])
            await tx.copy_records_to_table("t", records=[(4,)], columns=["id"])
            assert len(await tx.fetch("SELECT * FROM t")) == 4
        with pytest.raises(RuntimeError, match="no"):
            await run_in(postgres.transaction(), "DELETE FROM t", then=RuntimeError("no"))
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await run_in(postgres.transaction(readonly=True, isolation="serializable"), "DELETE FROM t")
        assert await postgres.fetchval("SELECT count(*) FROM t") == 4
        assert one.told == []  # mistakes of the caller say nothing of the server


async def test_failed_transaction_does_not_look_committed(postgres_dsn: str) -> None:
    """The server answers COMMIT of a failed transaction with ROLLBACK, and nobody would notice what was lost."""
    async with rig(postgres_dsn) as one:
        postgres = one.bind()
        await postgres.execute(TABLE)

        async def swallow() -> None:
            async with postgres.transaction() as tx:
                await tx.execute("INSERT INTO t VALUES (1)")
                with contextlib.suppress(asyncpg.UniqueViolationError):
                    await tx.execute("INSERT INTO t VALUES (1)")

        with pytest.raises(asyncpg.InFailedSQLTransactionError, match="nothing was committed"):
            await swallow()
        assert await postgres.fetchval("SELECT count(*) FROM t") == 0


async def test_a_transaction_that_is_over_is_the_handlers_mistake(postgres_dsn: str) -> None:
    """It would be told that the connection was lost, and a handler's bug would open the breaker of a sound server."""
    async with rig(postgres_dsn) as one:
        async with one.bind().transaction() as tx:
            await tx.execute("SELECT 1")
        with pytest.raises(UsageError, match="this transaction is over"):
            await tx.fetchval("SELECT 1")


async def test_savepoint(postgres_dsn: str) -> None:
    """A part that is allowed to fail would take the whole transaction with it."""
    async with rig(postgres_dsn) as one:
        postgres = one.bind()
        await postgres.execute(TABLE)
        async with postgres.transaction() as tx:
            await tx.execute("INSERT INTO t VALUES (1)")
            with pytest.raises(asyncpg.UniqueViolationError):
                await run_in(tx.savepoint(), "INSERT INTO t VALUES (2)", "INSERT INTO t VALUES (1)")
            async with tx.savepoint():
                await tx.execute("INSERT INTO t VALUES (3)")
        assert [row["id"] for row in await postgres.fetch("SELECT id FROM t ORDER BY id")] == [1, 3]


async def test_once_has_one_effect(postgres_dsn: str) -> None:
    """A job that is delivered twice, one after the other or at the same time, would have its effect twice."""
    async with rig(postgres_dsn, Policy(timeout_ms=3_000), pool_max=5) as one:
        postgres = one.bind()
        await postgres.execute("CREATE TABLE effects (id serial)")

        async def deliver(mark: str) -> bool:
            async with postgres.once(mark) as tx:
                if tx.first:
                    await tx.execute("INSERT INTO effects DEFAULT VALUES")
                return tx.first

        # The table of the marks is made on the way, by five at once.
        assert sorted(await asyncio.gather(*(deliver("store:1:a") for _ in range(5)))) == [False] * 4 + [True]
        assert not await deliver("store:1:a")
        assert await deliver("store:2:a")
        assert await postgres.fetchval("SELECT count(*) FROM effects") == 2


async def test_once_is_undone_with_its_effect(postgres_dsn: str) -> None:
    """A mark without its effect: the effect would never happen."""
    async with rig(postgres_dsn) as one:
        postgres = one.bind()
        with pytest.raises(RuntimeError):
            await run_in(postgres.once("mark"), then=RuntimeError())
        async with postgres.once("mark") as tx:
            assert tx.first


async def test_session_is_clean_for_the_next_one(postgres_dsn: str) -> None:
    """A job would inherit settings and locks of another one."""
    async with rig(postgres_dsn, pool_max=1) as one:
        postgres = one.bind()
        await postgres.execute("SET work_mem = '1234kB'")
        await postgres.fetchval("SELECT pg_advisory_lock(1)")
        assert await postgres.fetchval("SHOW work_mem") != "1234kB"
        assert await ask(postgres_dsn, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory'") == []


async def test_cancelled_statement_is_stopped_on_the_server(postgres_dsn: str) -> None:
    """What a job no longer waits for would go on for hours, with its locks."""
    async with rig(postgres_dsn, Policy(timeout_ms=10_000)) as one:
        running = asyncio.create_task(one.bind().fetchval("SELECT pg_sleep(3600)"))
        await async_wait_until(lambda: _sleepers(postgres_dsn), 5, "the statement to run")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await async_wait_until(lambda: _no_sleepers(postgres_dsn), 5, "the statement to be stopped")
        assert one.told == []


async def _sleepers(dsn: str) -> list[Any]:
    return await ask(dsn, "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(3600)'")


async def _no_sleepers(dsn: str) -> bool:
    return not await _sleepers(dsn)


async def test_pool_exhausted(postgres_dsn: str) -> None:
    """A job that waits for a connection would wait for ever, and not know what for."""
    async with rig(postgres_dsn, pool_max=1, acquire_timeout_ms=50) as one:
        postgres = one.bind()
        async with postgres.connection():
            with takes_less_than(0.6), pytest.raises(PoolExhausted, match="pool_max"):
                await postgres.fetchval("SELECT 1")
        assert await postgres.fetchval("SELECT 1") == 1


async def test_waiting_for_a_slot_leaks_none(postgres_dsn: str) -> None:
    """A job cancelled while it waits in the queue would take a slot with it."""
    async with rig(postgres_dsn, pool_max=1, acquire_timeout_ms=5_000) as one:
        postgres = one.bind()
        async with postgres.connection():
            waiting = [asyncio.create_task(postgres.fetchval("SELECT 1")) for _ in range(20)]
            await asyncio.sleep(0)
            for task in waiting[::2]:
                task.cancel()
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert [value for value in ended if value == 1] == [1] * 10


async def test_options_reach_the_connection(postgres_dsn: str, tmp_path: Path) -> None:
    """A setting would be read and then forgotten."""
    dsn, password = without_password(postgres_dsn)
    secret = tmp_path / "password"
    secret.write_text(f"{password}\n")
    options = {"password_file": str(secret), "keepalive_idle_ms": 7_000, "statement_cache": 0, "pool_min": 2}
    async with rig(dsn, idle_timeout_ms=60_000, **options) as one:
        postgres = one.bind()
        assert await postgres.fetchval("SHOW application_name") == "perdure"
        assert one.pool.connections.size == 2
        async with postgres.connection() as con:
            sock = con._transport.get_extra_info("socket")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 7
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 14_000
            await con.fetch("SELECT 1")
            assert await con.fetchval("SELECT count(*) FROM pg_prepared_statements") == 0


async def test_idle_connections_are_closed(postgres_dsn: str) -> None:
    """A worker at rest would hold connections that others need."""
    async with rig(postgres_dsn, idle_timeout_ms=50) as one:
        await one.bind().fetchval("SELECT 1")
        await async_wait_until(lambda: one.pool.connections.size == 0, 5, "the idle connection to be closed")
        assert await one.bind().fetchval("SELECT 1") == 1


async def test_works_under_uvloop(postgres_dsn: str) -> None:
    """Workers run on uvloop: another transport, other sockets."""
    uvloop = pytest.importorskip("uvloop")

    async def use() -> Any:
        async with rig(postgres_dsn) as one:
            return await one.bind().fetchval("SELECT 1")

    assert await asyncio.to_thread(lambda: asyncio.Runner(loop_factory=uvloop.new_event_loop).run(use())) == 1


async def test_closed_pool_takes_no_more(postgres_dsn: str) -> None:
    """A job would open connections in a worker that is ending, and hang its end."""
    async with rig(postgres_dsn) as one:
        await one.bind().fetchval("SELECT 1")
        await one.pool.close()
        with pytest.raises(ConnectionError, match="stopping"):
            await one.bind().fetchval("SELECT 1")


async def test_close_cuts_what_is_in_use(postgres_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that never gives its connection back would hang the worker's end."""
    shorten(monkeypatch)
    async with rig(postgres_dsn) as one:
        taken = one.bind().connection()
        con = await taken.__aenter__()
        with takes_less_than(1.0):
            await one.pool.close()
        with pytest.raises(asyncpg.InterfaceError):
            await con.fetch("SELECT 1")
        await taken.__aexit__(None, None, None)


async def test_blocking(postgres_dsn: str) -> None:
    """A synchronous handler could not use the database, or would do it in another way."""
    async with rig(postgres_dsn) as one:
        blocking = BlockingPostgres(one.bind(), Bridge(asyncio.get_running_loop()))

        def handler() -> list[int]:
            blocking.execute(TABLE)
            blocking.executemany("INSERT INTO t VALUES ($1)", [(1,), (2,)])
            with blocking.transaction(isolation="serializable", timeout=0.3) as tx:
                tx.copy_records_to_table("t", records=[(3,)], columns=["id"])
                with pytest.raises(asyncpg.UniqueViolationError), tx.savepoint():
                    tx.execute("INSERT INTO t VALUES (3)")
            with contextlib.suppress(RuntimeError), blocking.transaction() as tx:
                tx.execute("DELETE FROM t")
                raise RuntimeError
            for _ in range(2):
                with blocking.once("mark", timeout=0.3) as once:
                    if once.first:
                        once.execute("INSERT INTO t VALUES (4)")
            assert blocking.fetchval("SELECT count(*) FROM t", timeout=0.5) == 4
            assert blocking.fetchrow("SELECT 1 WHERE false") is None
            with blocking.connection(timeout=0.3) as con:
                assert con.call(lambda native: native.fetchval("SELECT count(*) FROM t")) == 4
            return [row["id"] for row in blocking.fetch("SELECT id FROM t ORDER BY id")]

        assert await asyncio.to_thread(handler) == [1, 2, 3, 4]


async def test_check_tells_what_is_there(postgres_dsn: str) -> None:
    """`perdure doctor` would say nothing of the server, or too much."""
    line = await check(PostgresOptions(postgres_dsn))
    assert line.startswith("PostgreSQL ")
    assert "connections in use" in line
    _, password = without_password(postgres_dsn)
    assert not password or password not in line


async def test_cached_and_fallback_rows(postgres_dsn: str, postgres: PostgresBench) -> None:
    """A page that could be shown from what was known would fail with the database."""
    database = postgres_dsn.rpartition("/")[2]
    async with rig(postgres_dsn) as one:
        adapter = one.bind()
        assert await adapter.fetchval("SELECT 7", cache="seven") == 7
        await ask(postgres_dsn.replace(database, "postgres"), f'DROP DATABASE "{database}" WITH (FORCE)')
        assert await adapter.fetchval("SELECT 7", cache="seven") == 7
        assert await adapter.fetch("SELECT 1", fallback=[]) == []
        with pytest.raises(UnknownDatabase):
            await adapter.fetch("SELECT 1")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT 1", True),
        ("  -- why\n select * from t", True),
        ("/* why */ WITH a AS (SELECT 1) SELECT * FROM a", True),
        ("VALUES (1)", True),
        ("WITH a AS (DELETE FROM t RETURNING *) SELECT * FROM a", False),
        ("INSERT INTO t VALUES (1) RETURNING id", False),
        ("SELECT * INTO copy FROM t", False),
        ("SELECT * FROM t FOR UPDATE", False),
        ("SELECT nextval('s')", False),
        ("CALL work()", False),
        ("SELECT updated_at FROM t", True),
    ],
)
def test_what_only_reads(query: str, expected: bool) -> None:
    """A statement that writes would be repeated although nobody knows whether it had its effect."""
    assert reads_only(query) is expected


def test_needs_no_driver_until_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, a worker would not start, or fail with a puzzle."""
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    monkeypatch.delitem(sys.modules, "perdure.adapters.postgres_connect", raising=False)
    monkeypatch.delattr(perdure.adapters, "postgres_connect", raising=False)
    with pytest.raises(PerdureError, match=r"perdure\[postgres\]"):
        postgres_pool.driver()
