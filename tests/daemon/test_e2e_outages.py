"""PostgreSQL, Neo4j and Qdrant go away and come back under a real daemon; `make test-outages` does more of it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator

import pytest

from perdure.wire.data import JobSpec
from tests.daemon.e2e import workers_of
from tests.daemon.outage_world import World, outage_world
from tests.daemon.outages import OUTAGES, brief
from tests.support.bolt_server import shared_bolt_server
from tests.support.fault_proxy import REFUSE
from tests.support.wait import wait_until

#: What a stop may take: the calls that run end within their own limit, long before the daemon's limit for a drain.
DRAIN_SECONDS = 8.0

#: Each service with some; T20 has "black-holed", the campaign of `make test-outages` has them all.
CHOSEN = [
    ("postgres", "killed"),
    ("postgres", "cut"),
    ("neo4j", "refused"),
    ("qdrant", "reset"),
    ("qdrant", "slow"),
    ("qdrant", "locked-out"),
    ("postgres", "flapping"),
]
EACH = pytest.mark.parametrize("service", ["postgres", "neo4j", "qdrant"])
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


@EACH
def test_t19_each_service_is_away_for_a_tenth_of_a_second(world: World, service: str) -> None:
    """A restart of a database would cost attempts, or leave jobs or dead connections behind."""
    world.ride_out(service, "0.1 s", how=brief(REFUSE, 0.1))


@EACH
def test_t20_packets_are_dropped(world: World, service: str) -> None:
    """Nobody refuses a call that nobody answers: it would hold its slot, and its job, for ever."""
    world.ride_out(service, "black-holed")


@EACH
def test_each_job_is_killed_and_delivered_again(world: World, service: str) -> None:
    """Between an effect and its acknowledgement lies a moment in which a worker may die: twice the effect."""
    one = world.service(service)
    steps = ["after"] if service == "qdrant" else ["inside", "after"]
    with world.daemon.client() as client:
        args = [json.dumps({"run": one.run, "step": step}) for step in steps]
        ids = [
            place.id
            for kind in one.writers
            for each in args
            for place in client.enqueue_many_sync([JobSpec(kind, each)] * 2)
        ]
        assert world.ends(client, ids) == {"completed"}
    world.each_once(one, ids)
    assert all(interruptions >= 1 for _, _, _, interruptions, _ in world.rows(ids))
    world.await_peace()


def test_the_daemon_stops_while_nobody_answers(world: World) -> None:
    """A stop, and so a deploy, would hang on connections to servers that are gone, or end in SIGKILL."""
    with contextlib.ExitStack() as outages, world.daemon.client() as client:
        for one in world.there:
            outages.enter_context(OUTAGES["black-holed"](one))
        placed = [(one, world.put(client, one, one.kinds, 12)) for one in world.there]
        wait_until(lambda: world.pids() and executing(world), 20, "some of them to run")
        started = time.monotonic()
        assert world.daemon.stop() == 0, world.daemon.log()[-3000:]
        took = time.monotonic() - started
        assert took < DRAIN_SECONDS, f"it took {took:.1f} s"
        assert world.daemon.left_behind() == []
    world.daemon.start()
    with world.daemon.client() as client:
        for one, ids in placed:
            assert world.ends(client, ids) == {"completed"}
            world.each_once(one, ids)
    world.await_peace()


def executing(world: World) -> bool:
    """Whether some worker is at work."""
    return any(worker.executing for worker in workers_of(world.daemon))
