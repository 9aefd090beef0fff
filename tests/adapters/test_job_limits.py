"""A job reaches its time limit while it uses a database: its connection comes back, nothing of it stays."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from perdure.wire.dependencies import Dependencies, Policy, PostgresOptions
from perdure.wire.work import Drain
from tests.support.postgres_server import PostgresBench, ask
from tests.support.wait import wait_until
from tests.worker.rig import Rig, Worker, job_row

HANDLERS = "tests.adapters.effect_handlers"
OTHERS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%pg_sleep(60)%'"
    " AND pid <> pg_backend_pid() AND state <> 'idle'"
)


@pytest.fixture(scope="module")
def dsn(postgres: PostgresBench) -> Iterator[str]:
    """A database with the table."""
    with postgres.database() as dsn:
        asyncio.run(ask(dsn, "CREATE TABLE effects (name text)"))
        yield dsn


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A nursery with the handlers."""
    with Rig(tmp_path_factory.mktemp("rig")) as loaded:
        assert isinstance(loaded.load("perdure.adapters.postgres", HANDLERS), list)
        yield loaded


@pytest.fixture
def worker(rig: Rig, dsn: str) -> Iterator[Worker]:
    """A worker whose pool has a single connection."""
    options = PostgresOptions(dsn=dsn, pool_max=1)
    fresh = rig.fork(dependencies=Dependencies(postgres=options, policies={"postgres": Policy(timeout_ms=10_000)}))
    yield fresh
    fresh.close()


@pytest.mark.parametrize("lane", ["", ".blocking"], ids=["async", "sync"])
@pytest.mark.parametrize("kind", ["slow.statement", "slow.transaction", "slow.handler"])
def test_the_connection_of_a_job_that_is_over_comes_back(worker: Worker, dsn: str, kind: str, lane: str) -> None:
    """One slow statement would cost the worker a connection for ever, and the server a lock."""
    worker.perform(job_row(1, "quick.statement"))
    worker.perform(job_row(2, kind + lane, timeout_ms=500))
    assert worker.failed[2].error.type in ("JobTimeout", "CallTooLong"), worker.report()
    worker.perform(job_row(3, "quick.statement"))
    assert worker.results == {1: 0, 3: 0}, worker.report()
    wait_until(lambda: asyncio.run(ask(dsn, OTHERS))[0][0] == 0, what="the end of the statement on the server")
    assert sum(seen.failed for seen in worker.observed) == 0
    worker.send(Drain())
    assert worker.wait_exit() == 0
