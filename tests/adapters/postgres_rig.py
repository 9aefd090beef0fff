"""What the tests of the PostgreSQL adapter share: a pool with a guard, watched for leaks and for late answers."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from perdure.adapters import postgres_pool, postgres_transaction
from perdure.adapters.call import NO_JOB, JobCall
from perdure.adapters.guard import Guard
from perdure.adapters.postgres import Postgres, PostgresPool, classify
from perdure.adapters.view import BreakerView
from perdure.clock import SystemClock
from perdure.wire.dependencies import POSTGRES, Policy, PostgresOptions
from perdure.wire.work import Observed
from tests.support.wait import async_wait_until

#: Short, so that a test with a server that says nothing is short.
QUICK = Policy(timeout_ms=350, retry_base_ms=5, retry_cap_ms=50)
#: What a busy machine may add to a deadline, seconds.
SLACK = 0.6


@dataclass
class Rig:
    """One worker's pool. `told`: what the supervisor would hear."""

    pool: PostgresPool
    pool_max: int
    view: BreakerView
    told: list[Observed] = field(default_factory=list)

    def bind(self, job: JobCall = NO_JOB) -> Postgres:
        """The adapter as a job sees it."""
        return self.pool.bind(job)

    async def assert_no_leak(self) -> None:
        """Every slot comes back by itself, soon."""
        connections = self.pool.connections
        await async_wait_until(lambda: connections.free_slots == self.pool_max, 4, "all slots to be free")

    async def recovered(self) -> None:
        """The same pool works again, on all of its slots."""
        await self.assert_no_leak()
        postgres = self.bind()
        await async_wait_until(lambda: _answers(postgres), 6, "the pool to work again")
        await self.assert_no_leak()


async def _answers(postgres: Postgres) -> bool:
    try:
        return bool(await postgres.fetchval("SELECT 1") == 1)
    except Exception:
        return False


def shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the adapter does in the background, and at the end, ends soon, too."""
    for module, name in (
        (postgres_pool, "_CLEANING_SECONDS"),
        (postgres_pool, "_CLOSING_SECONDS"),
        (postgres_transaction, "_ROLLBACK_SECONDS"),
    ):
        monkeypatch.setattr(module, name, 0.2)


@contextlib.asynccontextmanager
async def rig(dsn: str, policy: Policy = QUICK, **options: Any) -> AsyncIterator[Rig]:
    """A pool on `dsn`; at the end no slot may be missing, and it must close in time."""
    told: list[Observed] = []
    clock = SystemClock()
    settings: dict[str, Any] = {"pool_max": 3, "acquire_timeout_ms": 500, "connect_timeout_ms": 1_000, **options}
    view = BreakerView(told.append, clock)
    guard = Guard(POSTGRES, policy, view, classify, clock, random.Random(1))
    pool = PostgresPool(PostgresOptions(dsn, **settings), guard, clock)
    one = Rig(pool, settings["pool_max"], view, told)
    try:
        yield one
        await one.assert_no_leak()
    finally:
        with takes_less_than(4.0):
            await pool.close()


@contextlib.contextmanager
def takes_less_than(seconds: float) -> Iterator[None]:
    """The body must not go on beyond its deadline."""
    started = time.monotonic()
    yield
    took = time.monotonic() - started
    assert took < seconds + SLACK, f"took {took:.2f} s instead of {seconds:g} s"
