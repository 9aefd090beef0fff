"""Every outage of every service, and longer ones: `make test-outages`. SEED=… repeats one, OUTAGE_MINUTES=10 is T19."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from tests.daemon.outage_world import Figures, World, outage_world
from tests.daemon.outages import OUTAGES, brief, flapping, through_proxy
from tests.support.bolt_server import shared_bolt_server
from tests.support.fault_proxy import BLACK_HOLE, REFUSE, STALL, Fault

SEED = int(os.environ.get("SEED") or int.from_bytes(os.urandom(4)))
#: The longest outage of T19, seconds. Ten minutes are for whoever has the time.
LONG_SECONDS = 60 * float(os.environ.get("OUTAGE_MINUTES", "0.5"))
SERVICES = ("postgres", "neo4j", "qdrant")
EACH = pytest.mark.parametrize("service", SERVICES)
#: Each pair once, in an order of its own in each run: what one outage leaves behind, another one meets.
PAIRS = random.Random(SEED).sample([(one, outage) for one in SERVICES for outage in OUTAGES], 3 * len(OUTAGES))

pytestmark = [pytest.mark.outages_long, pytest.mark.limit(LONG_SECONDS + 300)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two workers, three servers; the table of figures at the end."""
    print(f"\nSEED={SEED}, the longest outage is {LONG_SECONDS:g} s (OUTAGE_MINUTES)")
    bolt = shared_bolt_server()
    with outage_world(tmp_path_factory.mktemp("outages"), bolt) as one:
        yield one
    print(f"\nSEED={SEED}; neo4j is {bolt}\n{Figures.HEAD}")
    for figures in one.figures:
        print(figures)
    if not isinstance(bolt, str):
        bolt.close()


@pytest.mark.parametrize(("service", "outage"), PAIRS)
def test_each_outage_of_each_service(world: World, service: str, outage: str) -> None:
    """A service that goes away in one of these ways would cost jobs, attempts, workers or connections."""
    world.ride_out(service, outage, jobs=60, hold=3.0 if outage in ("cut", "flapping") else 0.0)


@EACH
def test_t19_away_for_a_tenth_of_a_second(world: World, service: str) -> None:
    """A restart of a database would cost attempts."""
    world.ride_out(service, "0.1 s", how=brief(REFUSE, 0.1))


@EACH
@pytest.mark.parametrize("seconds", [10.0, LONG_SECONDS])
def test_t19_away_for_long(world: World, service: str, seconds: float) -> None:
    """Jobs would die of it, or all other jobs would slow down."""
    world.ride_out(service, f"{seconds:g} s", how=through_proxy(REFUSE, drops=True), hold=seconds)


@EACH
def test_t19_flapping_every_two_seconds_for_a_minute(world: World, service: str) -> None:
    """Each time that it is back some jobs would be charged, until they are dead."""
    world.ride_out(service, "flapping, 2 s", how=flapping(2.0), hold=60.0)


@EACH
@pytest.mark.parametrize("fault", [BLACK_HOLE, STALL], ids=["for-ever", "late"])
def test_t20_packets_are_dropped(world: World, service: str, fault: Fault) -> None:
    """Nobody refuses a call that nobody answers."""
    world.ride_out(service, f"drop {fault.kind}", how=through_proxy(fault), hold=10.0)


@EACH
@pytest.mark.parametrize("outage", ["refused", "black-holed", "killed"])
def test_kills_in_mid_outage(world: World, service: str, outage: str) -> None:
    """SIGKILL of the daemon and of workers while a service is away would double effects, or lose jobs."""
    world.ride_out_kills(service, outage, random.Random(f"{SEED} {service} {outage}"))
