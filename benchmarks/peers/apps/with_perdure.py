"""perdure itself, through its public API: perdure.Client and a configuration file."""

from __future__ import annotations

import os
import sys
import time

import perdure
from benchmarks.peers.app import App, durable, place
from benchmarks.peers.record import TEXT

QUEUE = "peers"


class PerdureApp(App):
    """`perdure run` with two workers."""

    package = "perdure"
    jobs = 200_000
    batch = 1_000
    daemon = True
    settings = "sync handler, workers.count = 2"
    recovery = "as shipped"

    def __init__(self) -> None:
        self.client: perdure.Client
        self._config = os.environ.get("PEER_FOLDER", "") + "/perdure.toml"

    def setup(self) -> None:
        durability = "full" if durable() else "normal"
        config = place() / "perdure.toml"
        config.write_text(
            '[daemon]\nhandlers = ["benchmarks.peers.apps.perdure_jobs"]\n'
            f'[store]\ndurability = "{durability}"\nretention_count = 10_000_000\n'
            '[workers]\ncount = 2\n[logs]\nlevel = "warning"\n'
        )
        self.client = perdure.Client(config=config, timeout=60)

    def workers(self) -> list[list[str]]:
        return [[sys.executable, "-m", "perdure", "run", "--config", self._config]]

    def enqueue(self, index: int) -> None:
        self.client.enqueue_sync("peers.noop", {"index": index, "text": TEXT})

    def enqueue_many(self, first: int, count: int) -> None:
        self.client.enqueue_many_sync(
            ("peers.noop", {"index": index, "text": TEXT}) for index in range(first, first + count)
        )

    def ready(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                workers = self.client.status_sync().workers
            except perdure.DaemonUnreachable:
                workers = []
            if workers and all(worker.state == "ready" for worker in workers):
                return
            if time.monotonic() > deadline:
                raise TimeoutError("the daemon's workers are not ready after 30 seconds")
            time.sleep(0.02)

    def hold(self) -> None:
        self.client.pause_sync(QUEUE)

    def release(self) -> None:
        self.client.resume_sync(QUEUE)


APP = PerdureApp()
