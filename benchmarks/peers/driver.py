"""The producer: runs in the peer's own virtual environment and takes orders as lines of JSON.

python -m benchmarks.peers.driver MODULE
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import inspect
import json
import mmap
import os
import random
import struct
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.peers.app import App
from benchmarks.peers.record import RECORD_BYTES

MOMENT = struct.Struct("<Q")
POLL_S = 0.0005
#: A job of the latency workload that has not begun after this is given up.
GIVE_UP_S = 12.0
NUDGE_S = 2.0


async def maybe(result: Any) -> Any:
    """Await what has to be awaited."""
    return await result if inspect.isawaitable(result) else result


class Driver:
    """One peer's producer."""

    def __init__(self, app: App) -> None:
        self.app = app
        self._maps: dict[str, mmap.mmap] = {}

    async def info(self) -> dict[str, Any]:
        """What stands in the table, and how workers are started."""
        app = self.app
        return {
            "version": importlib.metadata.version(app.package),
            "jobs": app.jobs,
            "batch": app.batch,
            "settings": app.settings,
            "recovery": app.recovery,
            "daemon": app.daemon,
            "recovers": app.recovers,
            "workers": app.workers(),
        }

    async def setup(self) -> None:
        """Connect; make tables."""
        await maybe(self.app.setup())

    async def ready(self) -> None:
        """The workers of a daemon are up."""
        await maybe(self.app.ready())

    async def hold(self) -> None:
        """Begin no jobs."""
        await maybe(self.app.hold())

    async def release(self) -> None:
        """Begin jobs again."""
        await maybe(self.app.release())

    async def enqueue_many(self, first: int, count: int, most_s: float) -> dict[str, float]:
        """Jobs in the largest steps the peer has; stops early when it takes too long."""
        app, done, began = self.app, 0, time.monotonic()
        while done < count and time.monotonic() - began < most_s:
            step = min(app.batch, count - done)
            await maybe(app.enqueue_many(first + done, step))
            done += step
        return {"count": done, "began": began, "seconds": time.monotonic() - began}

    async def enqueue(self, first: int, count: int, most_s: float) -> dict[str, float]:
        """One after the other, each acknowledged before the next."""
        app, done, began = self.app, 0, time.monotonic()
        while done < count and time.monotonic() - began < most_s:
            result = app.enqueue(first + done)
            if inspect.isawaitable(result):
                await result
            done += 1
        return {"count": done, "began": began, "seconds": time.monotonic() - began}

    async def nudge(self, index: int) -> None:
        """One more job, if the server is back already."""
        await asyncio.wait_for(maybe(self.app.enqueue(index)), NUDGE_S)

    async def latency(self, first: int, count: int, most_s: float) -> dict[str, list[float]]:
        """Milliseconds from the call of enqueue to the handler's first line, one job at a time."""
        taken: list[float] = []
        until = time.monotonic() + most_s
        for index in range(first, first + count):
            if time.monotonic() > until:
                break
            before = time.monotonic_ns()
            await maybe(self.app.enqueue(index))
            began = await self._begun(index)
            if began is None:
                break
            taken.append((began - before) / 1e6)
            # Idle means idle; and a peer that polls must not be met at the same point each time.
            await asyncio.sleep(0.005 + random.random() * 0.02)
        return {"samples": taken}

    async def _begun(self, index: int) -> int | None:
        deadline = time.monotonic() + GIVE_UP_S
        while time.monotonic() < deadline:
            await asyncio.sleep(POLL_S)
            for seen in self._all_maps():
                moment: int = MOMENT.unpack_from(seen, index * RECORD_BYTES + 8)[0]
                if moment:
                    return moment
        return None

    def _all_maps(self) -> list[mmap.mmap]:
        for path in Path(os.environ["PEER_RUNS"]).glob("*.runs"):
            if path.name not in self._maps and path.stat().st_size:
                with path.open("rb") as file:
                    self._maps[path.name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return list(self._maps.values())


async def main() -> None:
    """Answer each line with a line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not come between the answers
    module = importlib.import_module(f"benchmarks.peers.apps.{sys.argv[1]}")
    driver = Driver(module.APP)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        try:
            answer = await getattr(driver, order.pop("do"))(**order)
        except Exception as error:  # it goes on: a server that was killed comes back
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
    os._exit(0)  # pools and clients need no farewell


if __name__ == "__main__":
    asyncio.run(main())
