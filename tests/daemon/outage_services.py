"""The three servers as the tests of outages know them: reached through a proxy with faults, killed, and counted in."""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import neo4j
import pytest
from qdrant_client import QdrantClient, models

from tests.support.bolt_server import BoltServer, OwnServer
from tests.support.fault_proxy import FaultProxy
from tests.support.postgres_server import PostgresBench, ask, through, without_password
from tests.support.qdrant_server import URL_VARIABLE, QdrantBench
from tests.support.wait import wait_until

WRONG = "not-the-right-one"
LOCKOUT_SECONDS = 60.0


class Service:
    """One of them. `kinds`: what the jobs are called; those that write come first.

    `run` marks what one world has written, in a server that others use too.
    """

    name = ""
    kinds: tuple[str, ...] = ()
    fill_kind = ""
    #: How many connections a worker may have.
    pool_max = 4

    def __init__(self, folder: Path, run: str, host: str, port: int) -> None:
        self.run = run
        self.secret = folder / f"{self.name}.secret"
        self.proxy = FaultProxy(host, port)

    @property
    def writers(self) -> tuple[str, ...]:
        """The kinds that have an effect."""
        return self.kinds[:2]

    @property
    def is_ours(self) -> bool:
        """Whether it may be killed."""
        return True

    @property
    def settings(self) -> str:
        """Its section of the configuration."""
        raise AssertionError("each has its own")

    def effects(self) -> Counter[int]:
        """How often each job has had its effect: asked past the proxy."""
        raise AssertionError("each has its own")

    def kill(self) -> None:
        """As kill -9 does."""
        raise AssertionError("each has its own")

    def start(self) -> None:
        """Start it again, on the same data; returns when it answers."""
        raise AssertionError("each has its own")

    def lock_out(self) -> None:
        """What the daemon authenticates with is not good any more."""
        self._right = self.secret.read_text()
        self.secret.write_text(WRONG)
        self.proxy.drop_connections()

    def let_in(self) -> None:
        """It is good again."""
        self.secret.write_text(self._right)


class Postgres(Service):
    """Rows. Its password is changed in the server."""

    name = "postgres"
    kinds = ("row.insert", "row.insert.sync", "row.read")
    fill_kind = "row.fill"

    def __init__(self, folder: Path, run: str, bench: PostgresBench, dsn: str) -> None:
        super().__init__(folder, run, *bench.address)
        self._bench, self._dsn = bench, dsn
        _, password = without_password(dsn)
        self.secret.write_text(password)
        asyncio.run(ask(dsn, "CREATE TABLE rows (job bigint NOT NULL, run text NOT NULL)"))

    @property
    def is_ours(self) -> bool:
        return not self._bench.external

    @property
    def settings(self) -> str:
        dsn, _ = without_password(through(self._dsn, self.proxy.port))
        return f'[postgres]\ndsn = "{dsn}"\npassword_file = "{self.secret}"\npool_max = {self.pool_max}\n'

    def effects(self) -> Counter[int]:
        return Counter(row[0] for row in asyncio.run(ask(self._dsn, "SELECT job FROM rows WHERE run = $1", self.run)))

    def kill(self) -> None:
        self._bench.own.kill()

    def start(self) -> None:
        assert self._bench.own.running

    def lock_out(self) -> None:
        if not self.is_ours:
            super().lock_out()
            return
        self._bench.own.set_password("perdure", WRONG)
        self.proxy.drop_connections()

    def let_in(self) -> None:
        if not self.is_ours:
            super().let_in()
            return
        self._bench.own.set_password("perdure", self._bench.own.password)


class Neo4j(Service):
    """Nodes. Its password is changed in the server, where that can be done by a query; else in the daemon's file."""

    name = "neo4j"
    kinds = ("node.create", "node.create.sync", "node.read")
    fill_kind = "node.fill"

    def __init__(self, folder: Path, run: str, server: BoltServer) -> None:
        super().__init__(folder, run, server.host, server.port)
        self._server = server
        self.secret.write_text(server.password)

    @property
    def is_ours(self) -> bool:
        return isinstance(self._server, OwnServer)

    @property
    def settings(self) -> str:
        server = self._server
        place = (
            f'[neo4j]\nuri = "bolt://{self.proxy.address}"\nuser = "{server.user}"\ndatabase = "{server.database}"\n'
        )
        return f'{place}password_file = "{self.secret}"\npool_max = {self.pool_max}\n'

    def effects(self) -> Counter[int]:
        found = self._ask("MATCH (t:Thing {run: $run}) RETURN t.job AS job", self._server.database, run=self.run)
        return Counter(one["job"] for one in found)

    def kill(self) -> None:
        assert isinstance(self._server, OwnServer)
        self._server.kill()

    def start(self) -> None:
        self._server.start()

    def lock_out(self) -> None:
        if self._server.kind != "neo4j":
            super().lock_out()
            return
        self._change_password(self._server.password, WRONG)
        self.proxy.drop_connections()

    def let_in(self) -> None:
        if self._server.kind != "neo4j":
            super().let_in()
            return
        self._change_password(WRONG, self._server.password)

    def _change_password(self, old: str, new: str) -> None:
        change = "ALTER CURRENT USER SET PASSWORD FROM $old TO $new"
        self._ask(change, "system", password=old, old=old, new=new)

    def _ask(self, query: str, database: str, *, password: str = "", **values: Any) -> list[neo4j.Record]:
        auth = (self._server.user, password or self._server.password)

        def answer() -> list[list[neo4j.Record]]:
            try:
                with neo4j.GraphDatabase.driver(self._server.uri, auth=auth) as driver:
                    return [driver.execute_query(query, values, database_=database).records]
            except neo4j.exceptions.AuthError:
                return []

        # After many wrong passwords a server refuses the right one, too, for some time.
        return wait_until(answer, LOCKOUT_SECONDS, "the server to take the password again")[0]


class Qdrant(Service):
    """Points. Its key is changed in the server; the daemon keeps its own file."""

    name = "qdrant"
    kinds = ("point.upsert", "point.upsert.sync", "point.read")
    fill_kind = "point.fill"

    def __init__(self, folder: Path, run: str, bench: QdrantBench, *, is_ours: bool) -> None:
        super().__init__(folder, run, *bench.address)
        self._bench, self._is_ours = bench, is_ours
        self.secret.write_text(Path(bench.api_key_file).read_text() if bench.api_key_file else "none")
        self._key = self.secret.read_text()
        host, port = bench.address
        self._url = f"http://{host}:{port}"
        with self._client() as client:
            client.create_collection(run, models.VectorParams(size=2, distance=models.Distance.DOT))

    @property
    def is_ours(self) -> bool:
        return self._is_ours

    @property
    def settings(self) -> str:
        place = f'[qdrant]\nurl = "http://{self.proxy.address}"\napi_key_file = "{self.secret}"\n'
        return f"{place}pool_max = {self.pool_max}\n"

    def effects(self) -> Counter[int]:
        with self._client() as client:
            points, _ = client.scroll(self.run, limit=100_000)
        return Counter((point.payload or {})["job"] for point in points)

    def kill(self) -> None:
        self._bench.own.kill()

    def start(self) -> None:
        self._bench.own.start()

    def lock_out(self) -> None:
        if not self.is_ours:
            super().lock_out()
            return
        self._bench.own.set_api_key(WRONG)

    def let_in(self) -> None:
        if not self.is_ours:
            super().let_in()
            return
        self._bench.own.set_api_key(self._key)

    @contextlib.contextmanager
    def _client(self) -> Iterator[QdrantClient]:
        # Not as `api_key`: that warns about plain http.
        client = QdrantClient(url=self._url, headers={"api-key": self._key}, timeout=20, check_compatibility=False)
        try:
            yield client
        finally:
            client.close()


@contextlib.contextmanager
def services(folder: Path, bolt: BoltServer | str) -> Iterator[dict[str, Service | str]]:
    """All three, each behind its proxy; the reason in the place of one that cannot be had."""
    run = f"run-{uuid.uuid4().hex[:12]}"
    with contextlib.ExitStack() as stack:
        postgres, qdrant = PostgresBench(), QdrantBench()
        stack.callback(postgres.close)
        stack.callback(qdrant.close)
        found: dict[str, Service | str] = {}
        try:
            found["postgres"] = Postgres(folder, run, postgres, stack.enter_context(postgres.database()))
        except pytest.skip.Exception as exc:
            found["postgres"] = str(exc)
        if isinstance(bolt, str):
            found["neo4j"] = bolt
        else:
            bolt.start()
            found["neo4j"] = Neo4j(folder, run, bolt)
        is_ours = not os.environ.get(URL_VARIABLE)
        found["qdrant"] = Qdrant(folder, run, qdrant, is_ours=is_ours)
        for one in found.values():
            if isinstance(one, Service):
                stack.enter_context(one.proxy)
        yield found
