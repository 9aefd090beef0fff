"""What the tests of the adapters share. A builder of a server adds its fixture here and nothing else."""

from __future__ import annotations

import contextlib
import gc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.bolt_server import BoltServer, OwnServer, shared_bolt_server
from tests.support.bolt_server import description as bolt_description
from tests.support.fault_proxy import FaultProxy
from tests.support.postgres_server import PostgresBench
from tests.support.postgres_server import description as postgres_description
from tests.support.qdrant_server import QdrantBench
from tests.support.qdrant_server import description as qdrant_description

FOLDER = Path(__file__).parent
_BEGUN = pytest.StashKey[bool]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which servers the adapters were tried with: a line for each."""
    for line in (postgres_description(), qdrant_description(), bolt_description()):
        terminalreporter.write_line(line)


# --- Neo4j takes its time to start: its tests come last, and it starts while the others run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of the tests in this folder, those that need the Bolt server last."""
    places = [place for place, item in enumerate(items) if FOLDER in item.path.parents]
    ordered = sorted((items[place] for place in places), key=_needs_bolt)
    for place, item in zip(places, ordered, strict=True):
        items[place] = item


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before the first test of this folder: have the Bolt server start, if any test will need it."""
    if not item.session.stash.get(_BEGUN, False):
        item.session.stash[_BEGUN] = True
        server = shared_bolt_server()
        if not isinstance(server, str) and any(_needs_bolt(one) for one in item.session.items):
            server.begin()


def _needs_bolt(item: pytest.Item) -> bool:
    names = getattr(item, "fixturenames", ())
    return FOLDER in item.path.parents and ("bolt_session" in names or "in_neo4j" in item.name)


@pytest.fixture
def proxy_to() -> Iterator[Callable[[str, int], FaultProxy]]:
    """`proxy_to(host, port)` gives a running FaultProxy in front of that server; it ends with the test."""
    with contextlib.ExitStack() as running:

        def start(host: str, port: int) -> FaultProxy:
            return running.enter_context(FaultProxy(host, port))

        yield start


# --- PostgreSQL


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresBench]:
    """A PostgreSQL server for the whole run; it starts when a test first asks it for something."""
    bench = PostgresBench()
    yield bench
    bench.close()


@pytest.fixture
def postgres_dsn(postgres: PostgresBench) -> Iterator[str]:
    """The address of a fresh database, with the password in it."""
    with postgres.database() as dsn:
        yield dsn


# --- Qdrant


@pytest.fixture(scope="session")
def qdrant_bench() -> Iterator[QdrantBench]:
    """The server for the tests of the Qdrant adapter; it starts when it is first asked for."""
    bench = QdrantBench()
    yield bench
    bench.close()


# --- Neo4j


@pytest.fixture(scope="session")
def bolt_session() -> Iterator[BoltServer]:
    """One Bolt server for the session, started by the first test that needs it; see tests/support/bolt_server.py."""
    server = shared_bolt_server()
    if isinstance(server, str):
        pytest.skip(server)
    server.start()
    yield server
    server.close()


@pytest.fixture
def bolt(bolt_session: BoltServer) -> BoltServer:
    """The Bolt server, running, whatever the test before has done to it."""
    bolt_session.start()
    return bolt_session


@pytest.fixture
def own_bolt(bolt: BoltServer) -> OwnServer:
    """The Bolt server, if it may be stopped and killed."""
    if not isinstance(bolt, OwnServer):
        pytest.skip(f"{bolt} is not ours to stop")
    return bolt


@pytest.fixture(scope="session")
def _what_is_loaded() -> None:
    """What is there by now stays: looking through it for garbage after each test would take a fifth of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def neo4j_sockets(_what_is_loaded: None) -> Iterator[None]:
    """The driver leaves a socket to the garbage collector when it is cancelled while it connects: collect it here.

    And only here: a collection in the middle of the test would be told as the test's failure.
    """
    gc.disable()
    try:
        yield
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
    finally:
        gc.enable()
