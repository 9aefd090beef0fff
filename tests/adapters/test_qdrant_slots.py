"""Calls that are cut off while they wait for a connection of the pool."""

from __future__ import annotations

import asyncio

from perdure.errors import CallTooLong, PoolExhausted
from perdure.wire.dependencies import QdrantOptions
from tests.adapters.qdrant_rig import rig_for
from tests.support.fault_proxy import FaultProxy, latency
from tests.support.qdrant_server import QdrantBench

PLACES, CALLERS = 4, 9


async def test_no_place_in_the_pool_is_lost_when_more_wait_than_there_are_places(qdrant_bench: QdrantBench) -> None:
    """httpx keeps the place of a caller that is cut off as it gets it: after one outage no call would ever go well."""
    with FaultProxy(*qdrant_bench.address) as proxy:
        url = f"http://{proxy.address}"
        options = QdrantOptions(url=url, api_key_file=qdrant_bench.api_key_file, pool_max=PLACES)
        async with rig_for(options, timeout_ms=400) as rig:
            await rig.qdrant.collection_exists("any")
            proxy.mode = latency(0.6)
            for _ in range(2):
                calls = (rig.qdrant.collection_exists("any") for _ in range(CALLERS))
                ends = await asyncio.gather(*calls, return_exceptions=True)
                assert {type(end) for end in ends} <= {CallTooLong, PoolExhausted}
            proxy.mode = "pass"
            assert await asyncio.gather(*(rig.qdrant.collection_exists("any") for _ in range(CALLERS)))
