"""PostgreSQL, Neo4j and Qdrant go away and come back under a real daemon; `make test-outages` does it all, and longer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.daemon.outage_world import World, outage_world
from tests.support.bolt_server import shared_bolt_server

#: Each service with some, each outage with one of them at least.
CHOSEN = [
    ("postgres", "killed"),
    ("postgres", "cut"),
    ("postgres", "slow"),
    ("neo4j", "refused"),
    ("neo4j", "half-closed"),
    ("qdrant", "reset"),
    ("qdrant", "locked-out"),
    ("qdrant", "flapping"),
]
# Neo4j takes its time to start.
pytestmark = pytest.mark.limit(120)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two workers, three servers."""
    bolt = shared_bolt_server()
    with outage_world(tmp_path_factory.mktemp("outages"), bolt) as one:
        yield one


@pytest.mark.parametrize(("service", "outage"), CHOSEN)
def test_an_outage_loses_and_doubles_nothing(world: World, service: str, outage: str) -> None:
    """A service that goes away in one of these ways would cost jobs, attempts, workers or connections."""
    world.ride_out(service, outage, hold=1.5 if outage in ("cut", "flapping") else 0.0)
