"""The PostgreSQL adapter while the network and the server come and go. A real server, with the fault proxy between."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from perdure.adapters.call import JobCall
from perdure.adapters.guard import MARK
from perdure.adapters.postgres import Postgres
from perdure.errors import CallTooLong, Unavailable, WrongCredentials
from perdure.wire.dependencies import POSTGRES, Policy
from tests.adapters.postgres_rig import QUICK, Rig, rig, shorten, takes_less_than
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
from tests.support.postgres_server import PostgresBench, ask, through, without_password
from tests.support.wait import async_wait_until

FAULTS = [REFUSE, RESET, HALF_CLOSE, BLACK_HOLE, STALL, latency(30), throttle(20), cut_after(10)]
#: More than a socket's buffers hold, so that a fault meets it under way.
LARGE = "SELECT repeat('x', 1000) FROM generate_series(1, 2000)"


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)


@pytest.fixture
def proxy(postgres: PostgresBench) -> Iterator[FaultProxy]:
    """The way to the server."""
    with FaultProxy(*postgres.address) as one:
        yield one


async def a_transaction(postgres: Postgres) -> None:
    """Three round trips and a commit."""
    async with postgres.transaction() as tx:
        await tx.execute("INSERT INTO t VALUES (1)")
        await tx.fetch("SELECT * FROM t")


async def an_effect(postgres: Postgres) -> None:
    """With a mark, that is there or not."""
    async with postgres.once("mark") as tx:
        await tx.fetch("SELECT 1")


async def by_hand(postgres: Postgres) -> None:
    """The driver's own connection, with a limit of its own."""
    async with postgres.connection() as con:
        await con.fetch("SELECT 1", timeout=0.2)


CALLS: list[Callable[[Postgres], Awaitable[Any]]] = [
    lambda postgres: postgres.fetch(LARGE),
    lambda postgres: postgres.execute("INSERT INTO t VALUES (1)"),
    lambda postgres: postgres.copy_records_to_table("t", records=[(1,), (2,)]),
    a_transaction,
    an_effect,
    by_hand,
]


async def all_calls(one: Rig, times: int = 1) -> list[BaseException]:
    """Every kind of call at once, more than the pool has slots; the exceptions. Each must end in its time."""

    async def timed(call: Callable[[Postgres], Awaitable[Any]]) -> None:
        # A transaction is several calls: its statement and its end may take their own time.
        with takes_less_than(QUICK.timeout_ms / 1000 * 2):
            await call(one.bind())

    results = await asyncio.gather(*(timed(call) for call in CALLS * times), return_exceptions=True)
    return [result for result in results if isinstance(result, BaseException)]


def assert_outage(errors: list[BaseException]) -> None:
    """All of them are known as the server's fault, by the type and by the guard's mark."""
    assert [error for error in errors if not isinstance(error, Exception)] == []
    driver_lost = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError)
    unknown = [error for error in errors if not isinstance(error, (ConnectionError, TimeoutError, *driver_lost))]
    assert unknown == []
    by_guard = [error for error in errors if getattr(error, MARK, None) == POSTGRES]
    assert len(by_guard) >= len(errors) - 1  # what is called on the driver's own connection is not guarded


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.kind)
async def test_fault(postgres_dsn: str, proxy: FaultProxy, fault: Fault) -> None:
    """A call would hang, a slot would be lost, or the pool would be of no use afterwards."""
    await ask(postgres_dsn, "CREATE TABLE t (id int)")
    async with rig(through(postgres_dsn, proxy.port)) as one:
        assert await all_calls(one) == []
        await one.assert_no_leak()
        proxy.mode = fault
        if fault is REFUSE:
            proxy.drop_connections()
        errors = await all_calls(one)
        assert errors
        assert_outage(errors)
        await one.assert_no_leak()
        assert sum(told.failed for told in one.told) > 0
        proxy.mode = PASS
        await one.recovered()
        assert await all_calls(one) == []


async def test_first_call_meets_the_fault(postgres_dsn: str, proxy: FaultProxy) -> None:
    """A pool whose opening failed, or was cut short, would stay unopened for ever."""
    async with rig(through(postgres_dsn, proxy.port), pool_min=2) as one:
        for fault in (REFUSE, BLACK_HOLE, RESET, STALL):
            proxy.mode = fault
            with takes_less_than(0.4), pytest.raises((Unavailable, CallTooLong)):
                await one.bind().fetchval("SELECT 1")
        proxy.mode = PASS
        await one.recovered()


async def test_flapping(postgres_dsn: str, proxy: FaultProxy) -> None:
    """Each fall of the server would leave something behind, until nothing works."""
    await ask(postgres_dsn, "CREATE TABLE t (id int)")
    async with rig(through(postgres_dsn, proxy.port)) as one:
        for _ in range(10):
            proxy.mode = RESET
            assert_outage(await all_calls(one))
            proxy.mode = PASS
            await all_calls(one)
        await one.recovered()


# --- black hole, everywhere


async def test_black_hole_on_the_way_back(postgres_dsn: str, proxy: FaultProxy) -> None:
    """A result that is there would wait for a connection to be put back into its pool."""
    async with rig(through(postgres_dsn, proxy.port)) as one:
        with takes_less_than(0.1):
            async with one.bind().connection() as con:
                assert await con.fetchval("SELECT 1") == 1
                proxy.mode = BLACK_HOLE
        await one.assert_no_leak()


async def test_black_hole_before_rollback(postgres_dsn: str, proxy: FaultProxy) -> None:
    """The handler's own error would come late, or not at all."""
    async with rig(through(postgres_dsn, proxy.port)) as one:

        async def fail() -> None:
            async with one.bind().transaction() as tx:
                await tx.execute("SELECT 1")
                proxy.mode = BLACK_HOLE
                raise KeyError("mine")

        with takes_less_than(0.4), pytest.raises(KeyError, match="mine"):
            await fail()
        await one.assert_no_leak()
        proxy.mode = PASS
        await one.recovered()


async def test_black_hole_while_closing(postgres_dsn: str, proxy: FaultProxy) -> None:
    """The end of a worker would wait for a server that is not there."""
    async with rig(through(postgres_dsn, proxy.port)) as one:
        await asyncio.gather(*(one.bind().fetchval("SELECT 1") for _ in range(3)))
        proxy.mode = BLACK_HOLE
        with takes_less_than(1.0):
            await one.pool.close()


async def test_cancelled_in_a_black_hole(postgres_dsn: str, proxy: FaultProxy) -> None:
    """A job that reached its time limit would keep its slot for as long as the server is silent."""
    async with rig(through(postgres_dsn, proxy.port), Policy(timeout_ms=30_000)) as one:
        await one.bind().fetchval("SELECT 1")
        proxy.mode = BLACK_HOLE
        calls = [asyncio.create_task(one.bind().fetchval("SELECT 1")) for _ in range(6)]
        await async_wait_until(lambda: one.pool.connections.free_slots == 0, 2, "the calls to be under way")
        for call in calls:
            call.cancel()
        with takes_less_than(0.1):
            ended = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended)
        await one.assert_no_leak()
        assert one.told == []


async def test_deadline_of_the_job(postgres_dsn: str, proxy: FaultProxy) -> None:
    """A call would outlast its job; or a job that came late would open the breaker for all others."""
    async with rig(through(postgres_dsn, proxy.port), Policy(timeout_ms=30_000)) as one:
        await one.bind().fetchval("SELECT 1")
        proxy.mode = BLACK_HOLE
        for call in CALLS[:-1]:
            with takes_less_than(0.1), pytest.raises(CallTooLong):
                await call(one.bind(JobCall(1, time.monotonic() + 0.1)))
        assert one.told == []


# --- what is repeated, and what is not


async def test_lost_connection_is_replaced(postgres_dsn: str, proxy: FaultProxy) -> None:
    """A job would fail only because the connections had been idle while the server was restarted."""
    await ask(postgres_dsn, "CREATE TABLE t (id int)")
    async with rig(through(postgres_dsn, proxy.port), Policy(timeout_ms=5_000)) as one:
        for _ in range(5):
            assert await all_calls(one) == []
            await one.assert_no_leak()
            proxy.drop_connections()
        assert await all_calls(one) == []
        assert sum(told.failed for told in one.told) == 0


async def test_cut_in_the_middle_of_a_result(postgres_dsn: str, proxy: FaultProxy) -> None:
    """A read that could simply be made again would fail a job, or give half of the rows."""
    async with rig(through(postgres_dsn, proxy.port), Policy(timeout_ms=5_000, retry_base_ms=100, tries=5)) as one:
        await one.bind().fetchval("SELECT 1")
        proxy.mode = cut_after(50_000)
        reading = asyncio.create_task(one.bind().fetch(LARGE))
        await async_wait_until(lambda: proxy.connections.open == 0 or proxy.connections.accepted > 1, 5, "the cut")
        proxy.mode = PASS
        assert len(await reading) == 2000
        assert sum(told.failed for told in one.told) == 0


@pytest.mark.parametrize(("retry", "rows"), [(False, 1), (True, 2)])
async def test_write_of_unknown_fate(postgres_dsn: str, proxy: FaultProxy, retry: bool, rows: int) -> None:
    """A row would be written twice without anybody having said that this does no harm."""
    await ask(postgres_dsn, "CREATE TABLE t (id int)")
    slow = "INSERT INTO t SELECT 1 FROM pg_sleep(0.3)"
    async with rig(through(postgres_dsn, proxy.port), Policy(timeout_ms=5_000)) as one:
        writing = asyncio.create_task(one.bind().execute(slow, retry=retry))
        running = "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query = $1"
        await async_wait_until(lambda: ask(postgres_dsn, running, slow), 5, "the statement to run")
        proxy.drop_connections()
        if retry:
            assert await writing == "INSERT 0 1"
        else:
            with pytest.raises(asyncpg.ConnectionDoesNotExistError):
                await writing
        # The server only notices that nobody listens when it has an answer.
        await async_wait_until(lambda: _gone(postgres_dsn, running, slow), 5, "the statement to end")
        assert len(await ask(postgres_dsn, "SELECT * FROM t")) == rows


async def _gone(dsn: str, query: str, *args: Any) -> bool:
    return not await ask(dsn, query, *args)


async def test_contended_writes_are_repeated(postgres_dsn: str) -> None:
    """A deadlock or a serialization failure, which the server has undone, would fail a job."""
    await ask(postgres_dsn, "CREATE TABLE t (id int)")
    async with rig(postgres_dsn, Policy(timeout_ms=5_000)) as one:
        await ask(postgres_dsn, "CREATE SEQUENCE tries")
        body = "IF nextval('tries') < 3 THEN RAISE EXCEPTION SQLSTATE '40001'; END IF; INSERT INTO t VALUES (1);"
        assert await one.bind().execute(f"DO $$ BEGIN {body} END $$") == "DO"
        assert len(await ask(postgres_dsn, "SELECT * FROM t")) == 1


# --- effects once


@pytest.mark.parametrize("fault", [BLACK_HOLE, HALF_CLOSE, RESET], ids=lambda fault: fault.kind)
async def test_commit_of_unknown_fate(postgres_dsn: str, proxy: FaultProxy, fault: Fault) -> None:
    """The commit arrives or not, and nobody knows: the second delivery would do it again, or never."""
    await ask(postgres_dsn, "CREATE TABLE effects (id serial)")
    async with rig(through(postgres_dsn, proxy.port)) as one:

        async def deliver(before_commit: Fault) -> None:
            async with one.bind().once("mark") as tx:
                if tx.first:
                    await tx.execute("INSERT INTO effects DEFAULT VALUES")
                proxy.mode = before_commit

        with pytest.raises((asyncpg.PostgresConnectionError, ConnectionError, TimeoutError)) as caught:
            await deliver(fault)
        assert fault is RESET or "not known" in str(caught.value.__notes__)
        proxy.mode = PASS
        proxy.drop_connections()
        await one.recovered()
        await deliver(PASS)
        assert len(await ask(postgres_dsn, "SELECT * FROM effects")) == 1


async def test_kill_between_effect_and_commit(postgres_dsn: str, postgres: PostgresBench) -> None:
    """A server that dies with an open transaction would leave the effect without its mark, or the mark alone."""
    server = postgres.own
    await ask(postgres_dsn, "CREATE TABLE effects (id serial)")
    async with rig(postgres_dsn) as one:

        async def deliver(kill: bool) -> bool:
            async with one.bind().once("mark") as tx:
                if tx.first:
                    await tx.execute("INSERT INTO effects DEFAULT VALUES")
                if kill:
                    server.kill()
                return tx.first

        with pytest.raises((asyncpg.PostgresConnectionError, ConnectionError)):
            await deliver(kill=True)
        server.start()
        await one.recovered()
        assert await deliver(kill=False)
        assert not await deliver(kill=False)
        assert len(await ask(postgres_dsn, "SELECT * FROM effects")) == 1


# --- the server itself


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_server_goes_and_comes_back(postgres_dsn: str, postgres: PostgresBench, how: str) -> None:
    """After a crash or a restart of the server each worker would have to be restarted, too."""
    server = postgres.own
    await ask(postgres_dsn, "CREATE TABLE t (id int)")
    async with rig(postgres_dsn, pool_min=1) as one:
        assert await all_calls(one) == []
        under_way = asyncio.create_task(one.bind().fetchval("SELECT pg_sleep(3600)", timeout=5))
        await async_wait_until(lambda: one.pool.connections.free_slots == 2, 2, "the call to be under way")
        with contextlib.ExitStack() as later:
            later.callback(server.start)
            (server.kill if how == "kill" else server.stop)()
            with takes_less_than(5), pytest.raises((ConnectionError, TimeoutError, asyncpg.PostgresError)) as caught:
                await under_way
            assert getattr(caught.value, MARK, None) == POSTGRES
            errors = await all_calls(one)
            assert len(errors) == len(CALLS)
            assert_outage(errors)
        await one.recovered()
        assert await all_calls(one) == []


async def test_password_is_changed(
    postgres_dsn: str, postgres: PostgresBench, proxy: FaultProxy, tmp_path: Path
) -> None:
    """A new password in the file would need a restart of the daemon."""
    server = postgres.own
    role = database = postgres_dsn.rpartition("/")[2]
    server.create_role(role, "old-secret")
    dsn, _ = without_password(server.dsn(database, user=role, password="old-secret"))
    secret = tmp_path / "password"
    secret.write_text("old-secret\n")
    async with rig(through(dsn, proxy.port), password_file=str(secret)) as one:
        assert await one.bind().fetchval("SELECT current_user") == role
        server.set_password(role, "new-secret")
        assert await one.bind().fetchval("SELECT 1") == 1  # an open connection is not asked again
        proxy.drop_connections()
        with pytest.raises(WrongCredentials) as caught:
            await one.bind().fetchval("SELECT 1")
        assert str(secret) in str(caught.value)
        assert "secret" not in str(caught.value).replace(str(secret), "")
        secret.write_text("new-secret\n")
        assert await one.bind().fetchval("SELECT 1") == 1
    server.sql(f'ALTER DATABASE "{database}" OWNER TO CURRENT_USER')
    server.sql(f'DROP ROLE "{role}"')
