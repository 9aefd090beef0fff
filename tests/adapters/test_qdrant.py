"""The methods of the Qdrant adapter against a server, without faults."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import models
from qdrant_client.http.exceptions import UnexpectedResponse

from perdure.adapters import qdrant_pool
from perdure.adapters.bridge import Bridge
from perdure.adapters.qdrant import BlockingQdrant, Qdrant, check, point_id
from perdure.errors import UsageError, WrongCredentials
from perdure.wire.dependencies import QdrantOptions
from tests.adapters.qdrant_rig import SIZE, new_name, points, rig_for
from tests.support.qdrant_server import QdrantBench


@pytest.fixture
def options(qdrant_bench: QdrantBench) -> QdrantOptions:
    host, port = qdrant_bench.address
    return QdrantOptions(url=f"http://{host}:{port}", api_key_file=qdrant_bench.api_key_file)


async def test_methods_do_what_the_driver_does(options: QdrantOptions) -> None:
    """A user of the driver would have to learn other words."""
    name = new_name()
    async with rig_for(options) as rig:
        qdrant = rig.qdrant
        assert await qdrant.create_collection(name, models.VectorParams(size=SIZE, distance=models.Distance.COSINE))
        assert await qdrant.collection_exists(name)
        await qdrant.upsert(name, points(5))
        assert await qdrant.count(name) == 5
        found = await qdrant.query(name, [1.0, 1.0, 0.5, 0.25], limit=2)
        assert [point.payload and point.payload["n"] for point in found.points] == [0, 1]
        only = models.Filter(must=[models.FieldCondition(key="n", range=models.Range(gte=3))])
        assert await qdrant.count(name, only) == 2
        assert {str(record.id) for record in await qdrant.retrieve(name, [point_id("test", 3)])} == {
            point_id("test", 3)
        }
        page, offset = await qdrant.scroll(name, limit=3)
        rest, end = await qdrant.scroll(name, limit=3, offset=offset)
        assert (len(page), len(rest), end) == (3, 2, None)
        await qdrant.call(lambda client: client.set_payload(name, {"seen": True}, points=[point_id("test", 1)]))
        await qdrant.delete(name, models.FilterSelector(filter=only))
        await qdrant.delete(name, [point_id("test", 0)])
        left, _ = await qdrant.scroll(name)
        assert sorted((record.payload or {}).get("n", -1) for record in left) == [1, 2]
        assert await (await qdrant.client()).delete_collection(name)
        assert rig.totals()[1] == 0


async def test_a_callers_mistake_is_proof_of_life(options: QdrantOptions) -> None:
    """A typo in a handler would open the breaker for everybody."""
    async with rig_for(options) as rig:
        with pytest.raises(UnexpectedResponse, match="404"):
            await rig.qdrant.count(new_name())
        name = new_name()
        await rig.qdrant.ensure_collection(name, SIZE)
        with pytest.raises(UnexpectedResponse, match="400"):
            await rig.qdrant.upsert(name, [models.PointStruct(id=1, vector=[1.0])])
        assert rig.totals() == (3, 0)


async def test_ensure_collection_may_race(options: QdrantOptions) -> None:
    """Two workers that start together: one of them would fail its job."""
    name = new_name()
    async with rig_for(options) as one, rig_for(options) as other:
        made = await asyncio.gather(*(rig.qdrant.ensure_collection(name, SIZE) for rig in (one, other) * 4))
        assert sum(made) == 1
        with pytest.raises(UsageError, match="size 4"):
            await one.qdrant.ensure_collection(name, SIZE + 1)


async def test_an_upsert_delivered_twice_has_one_effect(options: QdrantOptions) -> None:
    """Points would double with every second delivery of a job."""
    name = new_name()
    async with rig_for(options) as rig:
        await rig.qdrant.ensure_collection(name, SIZE)
        for _delivery in range(2):
            await rig.qdrant.upsert(name, points(10))
        assert await rig.qdrant.count(name) == 10


def test_point_ids_last() -> None:
    """With other ids for the same things, everything that was ever written would be written again."""
    assert point_id("STORE:7:charge", "") == "e91750af-a020-5a9e-99d9-0ef12a182965"
    assert point_id(7) == point_id("7")
    assert len({point_id("a", "b"), point_id("ab"), point_id("b", "a"), point_id("a", "b", "")}) == 4
    with pytest.raises(UsageError, match="list"):
        point_id(["a"])


async def test_one_client_for_all_callers(options: QdrantOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty first calls at once would open twenty clients, of which nineteen leak."""
    opened = []
    real = qdrant_pool.open_client

    async def counting(options: QdrantOptions) -> Any:
        opened.append(options)
        return await real(options)

    monkeypatch.setattr(qdrant_pool, "open_client", counting)
    async with rig_for(options) as rig:
        await asyncio.gather(*(rig.qdrant.collection_exists("x") for _ in range(20)))
    assert len(opened) == 1


async def test_opening_survives_a_caller_that_gives_up(options: QdrantOptions) -> None:
    """A cancelled first call would take the client away from all who wait for the same opening."""
    async with rig_for(options) as rig:
        first = asyncio.create_task(rig.qdrant.collection_exists("x"))
        second = asyncio.create_task(rig.qdrant.collection_exists("x"))
        await asyncio.sleep(0)
        first.cancel()
        assert await second is False
        assert rig.totals() == (1, 0)


async def test_a_changed_key_is_taken_up(qdrant_bench: QdrantBench, tmp_path: Path) -> None:
    """A key that was rotated would fail jobs until somebody restarts the daemon."""
    server = qdrant_bench.own
    key_file = tmp_path / "key"
    key_file.write_text(server.api_key_file.read_text() + "\n")
    old = server.api_key_file.read_text()
    try:
        async with rig_for(QdrantOptions(url=server.url, api_key_file=str(key_file))) as rig:
            assert await rig.qdrant.collection_exists("x") is False
            server.set_api_key("the second key")
            with pytest.raises(WrongCredentials, match=r"qdrant\.api_key_file") as caught:
                await rig.qdrant.collection_exists("x")
            assert "first key" not in str(caught.value)
            assert rig.totals() == (1, 1), "not repeated"
            key_file.write_text("the second key\n")
            together = await asyncio.gather(*(rig.qdrant.collection_exists("x") for _ in range(5)))
            assert together == [False] * 5
            assert rig.totals() == (6, 1)
    finally:
        server.set_api_key(old)


@pytest.mark.parametrize("content", [b"", b"two\nlines", b"\xff\xfe"])
async def test_a_file_without_a_key_is_named(tmp_path: Path, content: bytes) -> None:
    """The driver's own error would show the bytes of the key."""
    key_file = tmp_path / "key"
    key_file.write_bytes(content)
    async with rig_for(QdrantOptions(url="http://127.0.0.1:1", api_key_file=str(key_file))) as rig:
        with pytest.raises(WrongCredentials, match=r"qdrant\.api_key_file") as caught:
            await rig.qdrant.collection_exists("x")
        assert "lines" not in str(caught.value).replace("one line", "")


async def test_no_warning_about_plain_http(options: QdrantOptions) -> None:
    """Each worker would write the driver's warning into its log, with every client it opens."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with rig_for(options) as rig:
            await rig.qdrant.collection_exists("x")


async def test_check_says_what_is_there(options: QdrantOptions, tmp_path: Path) -> None:
    """`perdure doctor` would be content with a server that takes no job's key."""
    line = await check(options)
    assert "collection" in line
    assert ("unencrypted" in line) == bool(options.api_key_file)
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong")
    if options.api_key_file:
        with pytest.raises(WrongCredentials):
            await check(QdrantOptions(url=options.url, api_key_file=str(wrong)))


async def test_blocking_twin(options: QdrantOptions) -> None:
    """A synchronous handler would have no Qdrant, or one that lags behind the other."""
    name = new_name()
    async with rig_for(options) as rig:
        twin = BlockingQdrant(rig.qdrant, Bridge(asyncio.get_running_loop()))

        def handler() -> int:
            twin.ensure_collection(name, SIZE)
            twin.upsert(name, points(3))
            assert twin.call(lambda client: client.collection_exists(name))
            return twin.count(name)

        assert await asyncio.to_thread(handler) == 3
        public = {word for word in dir(Qdrant) if not word.startswith("_")}
        assert public - {word for word in dir(BlockingQdrant) if not word.startswith("_")} == {"client"}


def test_nothing_is_imported_before_the_first_call() -> None:
    """The driver takes more than a second to import: every command would wait for it."""
    code = "import sys, perdure.adapters.qdrant; sys.exit('qdrant_client' in sys.modules or 'httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ)).returncode == 0


async def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever forgot the extra would get an ImportError from the inside of an adapter."""
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    async with rig_for(QdrantOptions(url="http://127.0.0.1:1")) as rig:
        with pytest.raises(UsageError, match=r"pip install 'perdure\[qdrant\]'"):
            await rig.qdrant.collection_exists("x")
        assert rig.totals() == (0, 0)
