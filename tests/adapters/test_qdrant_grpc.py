"""Qdrant over gRPC, against a double of a few calls with the driver's own stubs: there is no gRPC in our REST front.

What this cannot show is whether a real server agrees; that takes PERDURE_TEST_QDRANT_URL and its gRPC port.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from qdrant_client import grpc as stubs

from perdure.adapters.qdrant import check
from perdure.errors import NoAnswer, Unavailable, UnknownHost, WrongCredentials
from perdure.wire.dependencies import QdrantOptions
from tests.adapters.qdrant_rig import new_name, points, rig_for, within

KEY = "the key"


class Collections(stubs.CollectionsServicer):
    """Knows no collection. `fail_with` is what the next calls end with."""

    def __init__(self) -> None:
        self.fail_with: list[grpc.StatusCode] = []

    async def _enter(self, context: Any) -> None:
        if dict(context.invocation_metadata()).get("api-key") != KEY:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "Invalid API key or JWT")
        if self.fail_with:
            await context.abort(self.fail_with.pop(0), "so it is")

    async def CollectionExists(self, _request: Any, context: Any) -> Any:  # noqa: N802  # the stub's name
        await self._enter(context)
        return stubs.CollectionExistsResponse(result=stubs.CollectionExists(exists=False))

    async def List(self, _request: Any, context: Any) -> Any:  # noqa: N802  # the stub's name
        await self._enter(context)
        return stubs.ListCollectionsResponse()


class Points(stubs.PointsServicer):
    """Keeps the ids of what is upserted."""

    def __init__(self) -> None:
        self.ids: set[str] = set()

    async def Upsert(self, request: Any, _context: Any) -> Any:  # noqa: N802  # the stub's name
        self.ids |= {point.id.uuid for point in request.points}
        result = stubs.UpdateResult(operation_id=1, status=stubs.UpdateStatus.Completed)
        return stubs.PointsOperationResponse(result=result)


class Root(stubs.QdrantServicer):
    """Says who it is."""

    async def HealthCheck(self, _request: Any, _context: Any) -> Any:  # noqa: N802  # the stub's name
        return stubs.HealthCheckReply(title="double", version="0")


class Double:
    """The server, and where it listens."""

    def __init__(self) -> None:
        self.collections = Collections()
        self.points = Points()
        self.server = grpc.aio.server()
        stubs.add_CollectionsServicer_to_server(self.collections, self.server)
        stubs.add_PointsServicer_to_server(self.points, self.server)
        stubs.add_QdrantServicer_to_server(Root(), self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")


@contextlib.asynccontextmanager
async def double() -> AsyncIterator[Double]:
    running = Double()
    await running.server.start()
    try:
        yield running
    finally:
        await running.server.stop(None)


def options(port: int, **more: Any) -> QdrantOptions:
    return QdrantOptions(url="http://127.0.0.1", grpc=True, grpc_port=port, timeout_ms=2_000, pool_max=1, **more)


@pytest.fixture
def key_file(tmp_path: Any) -> str:
    (tmp_path / "key").write_text(KEY)
    return str(tmp_path / "key")


async def test_calls_go_over_grpc(key_file: str) -> None:
    """`grpc = true` would be accepted, and REST used."""
    async with double() as server, rig_for(options(server.port, api_key_file=key_file)) as rig:
        assert await rig.qdrant.collection_exists("x") is False
        for _delivery in range(2):
            await rig.qdrant.upsert(new_name(), points(3))
        assert len(server.points.ids) == 3
        assert "double 0" in await check(options(server.port, api_key_file=key_file))


async def test_what_passes_is_repeated(key_file: str) -> None:
    """A server that is restarting would fail each job over gRPC, though not over REST."""
    async with double() as server, rig_for(options(server.port, api_key_file=key_file), tries=3) as rig:
        server.collections.fail_with = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED]
        assert await rig.qdrant.collection_exists("x") is False
        server.collections.fail_with = [grpc.StatusCode.INVALID_ARGUMENT]
        with pytest.raises(grpc.RpcError):
            await rig.qdrant.collection_exists("x")
        assert rig.totals() == (2, 0)


async def test_a_wrong_key_is_named() -> None:
    """It would look like an outage that passes."""
    async with double() as server, rig_for(options(server.port)) as rig:
        with pytest.raises(WrongCredentials, match=r"qdrant\.api_key_file"):
            await rig.qdrant.collection_exists("x")
        assert rig.totals() == (0, 1)


async def test_nobody_there() -> None:
    """The port of gRPC is another one than that of REST: the message has to name its setting."""
    async with rig_for(options(1), timeout_ms=2_000) as rig:
        with within(2), pytest.raises(NoAnswer, match=r"qdrant\.grpc_port"):
            await rig.qdrant.collection_exists("x")
    lost = QdrantOptions(url="http://no-such-host.invalid", grpc=True, pool_max=1)
    async with rig_for(lost, timeout_ms=2_000) as rig:
        with within(2), pytest.raises(UnknownHost):
            await rig.qdrant.collection_exists("x")


async def test_the_server_goes_in_the_middle(key_file: str) -> None:
    """A channel that is not opened again would need a restart of the daemon."""
    async with double() as server:
        wanted = options(server.port, api_key_file=key_file)
        async with rig_for(wanted, timeout_ms=2_000) as rig:
            assert await rig.qdrant.collection_exists("x") is False
            await server.server.stop(None)
            with within(2), pytest.raises(Unavailable):
                await rig.qdrant.collection_exists("x")
