"""The meter of the loop's lag."""

from __future__ import annotations

import asyncio
import time

from perdure.daemon.lag import INTERVAL_SECONDS, LagMeter
from tests.support.wait import async_wait_until


async def test_a_blocked_loop_shows() -> None:
    """A handler of the loop that blocks must be visible in `perdure status`."""
    meter = LagMeter(asyncio.get_running_loop())
    end = time.monotonic() + INTERVAL_SECONDS + 0.05
    while time.monotonic() < end:
        pass
    await async_wait_until(lambda: meter.max_ms >= 40, what="the lag to be noted")
    meter.close()
