"""The three stores of the demo: those that the environment names, else servers of its own that end with it.

PERDURE_DEMO_POSTGRES_DSN, PERDURE_DEMO_QDRANT_URL, PERDURE_DEMO_NEO4J_URI (bolt://user:password@host:port/database).
What the demo keeps there is removed when it begins: the schema `graphrag`, the collection `graphrag_passages`, and
nodes with the label `PyModule`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import asyncpg
import neo4j
import qdrant_client

from examples.demo.graph_server import DATABASE, USER, NoGraph, graph_command, graph_environment
from examples.demo.leash import leash
from examples.demo.postgres_server import PostgresServer
from examples.graphrag.jobs import COLLECTION

ROOT = Path(__file__).parents[2]
START_SECONDS = 30.0
POLL_SECONDS = 0.02
QUERY_SECONDS = 30.0


class Postgres:
    """PostgreSQL, with a switch."""

    def __init__(self, dsn: str, server: PostgresServer | None) -> None:
        self.dsn = dsn
        self._server = server
        self._stop, self._start = (os.environ.get(f"PERDURE_DEMO_POSTGRES_{word}", "") for word in ("STOP", "START"))

    @property
    def can_stop(self) -> bool:
        """Whether the demo may take it away: its own, or one with a command for that."""
        return self._server is not None or bool(self._stop and self._start)

    def stop(self) -> None:
        """End the server's process: sessions are cut, nobody listens any more."""
        if self._server:
            self._server.stop()
        else:
            subprocess.run(shlex.split(self._stop), check=True)

    def start(self) -> None:
        """Start it again; returns when it takes connections."""
        if self._server:
            self._server.start()
        else:
            subprocess.run(shlex.split(self._start), check=True)

    def rows(self, query: str) -> list[Any]:
        """What a query gives, asked past perdure."""

        async def fetch() -> list[Any]:
            connection = await asyncpg.connect(self.dsn, timeout=QUERY_SECONDS)
            try:
                return list(await connection.fetch(query, timeout=QUERY_SECONDS))
            finally:
                await connection.close(timeout=QUERY_SECONDS)

        return asyncio.run(fetch())


@dataclass(frozen=True)
class Graph:
    """A server that speaks Bolt, and what it is."""

    uri: str
    user: str
    password: str
    database: str
    what: str

    def rows(self, query: str) -> list[dict[str, Any]]:
        """What a query gives, asked past perdure."""
        with neo4j.GraphDatabase.driver(self.uri, auth=(self.user, self.password)) as driver:
            return [record.data() for record in driver.execute_query(query, database_=self.database).records]


@dataclass(frozen=True)
class Stores:
    """What the demo's jobs write to. `graph` None: there is none, and nothing is drawn."""

    postgres: Postgres
    qdrant_url: str
    graph: Graph | None
    what: list[str]

    def points(self) -> int:
        """How many points the collection has, asked past perdure."""
        with contextlib.closing(self._qdrant()) as client:
            return client.count(COLLECTION, exact=True).count

    def clear(self) -> None:
        """Remove what an earlier run may have left."""
        self.postgres.rows("DROP SCHEMA IF EXISTS graphrag CASCADE")
        with contextlib.closing(self._qdrant()) as client:
            if client.collection_exists(COLLECTION):
                client.delete_collection(COLLECTION)
        if self.graph:
            self.graph.rows("MATCH (m:PyModule) DETACH DELETE m")

    def _qdrant(self) -> qdrant_client.QdrantClient:
        return qdrant_client.QdrantClient(url=self.qdrant_url, timeout=int(QUERY_SECONDS), check_compatibility=False)


@contextlib.contextmanager
def stores(folder: Path) -> Iterator[Stores]:
    """All three, for as long as the block runs."""
    with contextlib.ExitStack() as running:
        postgres, postgres_what = _postgres(running)
        qdrant_url, qdrant_what = _qdrant(folder, running)
        graph = _graph(folder, running)
        graph_what = graph.what if graph else "no graph: set PERDURE_DEMO_NEO4J_URI, or pip install arcadedb-embedded"
        found = Stores(postgres, qdrant_url, graph, [postgres_what, qdrant_what, graph_what])
        found.clear()
        yield found


def _postgres(running: contextlib.ExitStack) -> tuple[Postgres, str]:
    given = os.environ.get("PERDURE_DEMO_POSTGRES_DSN")
    if given:
        postgres = Postgres(given, None)
        what = "the one of PERDURE_DEMO_POSTGRES_DSN"
    else:
        server = running.enter_context(PostgresServer(durable=True))
        postgres = Postgres(server.dsn(), server)
        what = f"a server of its own from {server.binaries}"
    return postgres, f"PostgreSQL {postgres.rows('SHOW server_version')[0][0]}: {what}"


def _qdrant(folder: Path, running: contextlib.ExitStack) -> tuple[str, str]:
    given = os.environ.get("PERDURE_DEMO_QDRANT_URL")
    if given:
        return given, "Qdrant: the one of PERDURE_DEMO_QDRANT_URL"
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "examples.demo.qdrant_front", str(folder / "qdrant"), "--port", str(port)]
    process = _child(command, ROOT, folder / "qdrant.log", running, dict(os.environ))
    _wait_for(f"{url}/readyz", process, folder / "qdrant.log")
    return url, "Qdrant: its storage engine (qdrant-edge) behind a small HTTP front of ours"


def _graph(folder: Path, running: contextlib.ExitStack) -> Graph | None:
    given = os.environ.get("PERDURE_DEMO_NEO4J_URI")
    if given:
        parts = urlsplit(given)
        uri = f"{parts.scheme}://{parts.hostname}:{parts.port or 7687}"
        user, password = unquote(parts.username or "neo4j"), unquote(parts.password or "")
        return Graph(uri, user, password, parts.path.strip("/") or "neo4j", "Neo4j: the one of PERDURE_DEMO_NEO4J_URI")
    (folder / "graph").mkdir()
    bolt_port, http_port, password = _free_port(), _free_port(), secrets.token_urlsafe(16)
    try:
        command = graph_command(folder / "graph", bolt_port, http_port)
    except NoGraph:
        return None
    # It writes logs into the folder that it is started in.
    process = _child(command, folder / "graph", folder / "graph.log", running, graph_environment(password))
    _wait_for(f"http://127.0.0.1:{http_port}/api/v1/ready", process, folder / "graph.log")
    what = "graph: a server of its own, ArcadeDB over Bolt with Neo4j's driver (set PERDURE_DEMO_NEO4J_URI for Neo4j)"
    return Graph(f"bolt://127.0.0.1:{bolt_port}", USER, password, DATABASE, what)


def _child(
    command: list[str], cwd: Path, log_path: Path, running: contextlib.ExitStack, environ: dict[str, str]
) -> subprocess.Popen[bytes]:
    """A server as a child process that ends with the block, or with this process."""
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            leash(command),
            cwd=cwd,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def end() -> None:
        process.kill()
        process.wait()

    running.callback(end)
    return process


def _wait_for(url: str, process: subprocess.Popen[bytes], log_path: Path) -> None:
    """Until it answers. Raises SystemExit when it ends before that, or takes too long."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with opener.open(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"a server did not start:\n{log_path.read_text()[-2_000:]}") from None
            time.sleep(POLL_SECONDS)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
