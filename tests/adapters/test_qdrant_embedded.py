"""The embedded mode of Qdrant: a folder instead of a server."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from perdure.adapters.qdrant import check
from perdure.errors import Unavailable, UsageError
from perdure.wire.dependencies import QdrantOptions
from tests.adapters.qdrant_rig import SIZE, points, rig_for


async def test_points_are_kept_in_the_folder(tmp_path: Path) -> None:
    """Small set-ups without a server would have no Qdrant, or one that forgets."""
    options = QdrantOptions(path=str(tmp_path / "points"))
    async with rig_for(options) as rig:
        assert await rig.qdrant.ensure_collection("docs", SIZE)
        assert not await rig.qdrant.ensure_collection("docs", SIZE)
        for _delivery in range(2):
            await rig.qdrant.upsert("docs", points(5))
        with pytest.raises(ValueError, match="not found"):
            await rig.qdrant.count("nowhere")
        assert rig.totals() == (5, 0), "a mistake of the caller's is no outage"
    async with rig_for(options) as rig:
        assert await rig.qdrant.count("docs") == 5
        found = await rig.qdrant.query("docs", [1.0, 1.0, 0.5, 0.25], limit=1)
        assert [point.payload and point.payload["n"] for point in found.points] == [0]


async def test_the_loop_goes_on(tmp_path: Path) -> None:
    """The driver's coroutines never wait: on the loop, one long search would stop all jobs of the worker."""
    async with rig_for(QdrantOptions(path=str(tmp_path))) as rig:
        threads = set()

        async def ask(_client: object) -> None:
            threads.add(threading.current_thread())

        await asyncio.gather(*(rig.qdrant.call(ask) for _ in range(5)))
        assert len(threads) == 1
        assert threading.current_thread() not in threads
        with pytest.raises(UsageError, match="call"):
            await rig.qdrant.client()


async def test_a_folder_that_another_process_uses(tmp_path: Path) -> None:
    """A second worker would fail with the driver's advice, which knows nothing of our settings."""
    options = QdrantOptions(path=str(tmp_path))
    async with rig_for(options) as rig:
        await rig.qdrant.collection_exists("x")
        assert "in use" in await check(options)
        async with rig_for(options, tries=1) as other:
            with pytest.raises(Unavailable, match=r"one process only.*qdrant\.url"):
                await other.qdrant.collection_exists("x")
            assert other.totals() == (0, 1)
        assert await rig.qdrant.collection_exists("x") is False
    assert "embedded" in await check(options)


def test_the_lock_ends_with_its_process(tmp_path: Path) -> None:
    """After a kill -9 of a worker nobody could open the folder again."""
    code = (
        "import os, sys\n"
        "from qdrant_client import QdrantClient\n"
        "client = QdrantClient(path=sys.argv[1])\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -9
    assert "0 collections" in asyncio.run(check(QdrantOptions(path=str(tmp_path))))
