"""The adapter for Neo4j with everything around it, in front of a real server."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from perdure.adapters.call import NO_JOB
from perdure.adapters.guard import Guard
from perdure.adapters.neo4j import Neo4j, Neo4jDriver, classify
from perdure.adapters.view import BreakerView
from perdure.clock import SystemClock
from perdure.wire.dependencies import NEO4J, Neo4jOptions, Policy
from perdure.wire.work import Observed
from tests.support.bolt_server import BoltServer
from tests.support.wait import async_wait_until

#: What a call may take in these tests, and what it may take beyond: the machine is shared.
TIMEOUT_MS, SLACK_SECONDS = 500, 2.0
QUICK = Policy(timeout_ms=TIMEOUT_MS, tries=3, retry_base_ms=10, retry_cap_ms=50)
#: For calls that are to go well, on a machine that has other things to do.
PATIENT = Policy(timeout_ms=20_000, tries=8, retry_base_ms=20, retry_cap_ms=300)
#: For calls that are to fail at once: there is nothing to wait for.
BRIEF = Policy(timeout_ms=20_000, tries=2, retry_base_ms=10, retry_cap_ms=20)


def options_for(server: BoltServer, folder: Path, uri: str = "", **changes: Any) -> Neo4jOptions:
    """How to reach that server, perhaps by another way (`uri`), with a password file in `folder`."""
    password = folder / "password"
    if not password.exists():
        password.write_text(f"{server.password}\n")
    given = {"user": server.user, "password_file": str(password), "database": server.database, **changes}
    return Neo4jOptions(uri=uri or server.uri, **given)


class Neo4jRig:
    """`told` is what the breaker was told."""

    def __init__(self, options: Neo4jOptions, policy: Policy = PATIENT) -> None:
        self.told: list[Observed] = []
        self.view = BreakerView(self.told.append, SystemClock())
        guard = Guard(NEO4J, policy, self.view, classify, SystemClock(), random.Random(1))
        self.driver = Neo4jDriver(options, guard, SystemClock())
        self.neo4j: Neo4j = self.driver.bind(NO_JOB)

    @property
    def failures(self) -> int:
        """How many calls failed through the server's fault."""
        return sum(one.failed for one in self.told)

    def slots_in_use(self) -> int:
        """Connections that the pool of the driver in use counts as taken."""
        holder = self.driver._holder
        if holder is None or holder._generation is None:
            return 0
        pool = holder._generation.driver._pool
        taken = sum(one.in_use for connections in pool.connections.values() for one in connections)
        return taken + sum(pool.connections_reservations.values())

    async def no_slot_is_taken(self) -> None:
        """Fail if a connection stays taken, a call counted as running, or an old driver open."""
        holder = self.driver._holder
        assert holder is not None
        await async_wait_until(lambda: holder.is_idle and not self.slots_in_use(), 5, "all slots to be free")


@asynccontextmanager
async def rig(options: Neo4jOptions, policy: Policy = PATIENT) -> AsyncIterator[Neo4jRig]:
    """A rig, closed at the end, within the time that a drain has for it."""
    one = Neo4jRig(options, policy)
    try:
        yield one
    finally:
        with within(4.0):
            await one.driver.close()


@contextmanager
def within(seconds: float = TIMEOUT_MS / 1000) -> Iterator[None]:
    """What is inside must end in this time, with some slack."""
    started = time.monotonic()
    try:
        yield
    finally:
        took = time.monotonic() - started
        assert took < seconds + SLACK_SECONDS, f"it took {took:.2f} s"
