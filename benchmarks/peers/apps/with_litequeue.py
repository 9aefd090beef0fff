"""litequeue: a table and its verbs; the loop around it is ours, as its readme leaves it to the user."""

from __future__ import annotations

import json
import sqlite3
import sys
import time

from litequeue import LiteQueue

from benchmarks.peers.app import App, durable, place
from benchmarks.peers.record import TEXT, work

IDLE_S = 0.001


def connect() -> LiteQueue:
    """The queue; its own pragmas are set first, then ours."""
    queue = LiteQueue(str(place() / "litequeue.db"), timeout=30)
    if durable():
        queue.conn.execute("PRAGMA synchronous = FULL")
    return queue


def run() -> None:
    """A worker."""
    queue = connect()
    while True:
        try:
            message = queue.pop()
            if message is None:
                time.sleep(IDLE_S)
                continue
            work(**json.loads(message.data))
            queue.done(message.message_id)
        except sqlite3.OperationalError as error:  # the other worker holds the lock
            if "locked" not in str(error):
                raise


class LiteQueueApp(App):
    """LiteQueue."""

    package = "litequeue"
    jobs = 10_000
    settings = "two loops of pop, run, done; 1 ms pause when empty; many: put in a transaction of 100"
    recovery = "has none: what was being run stays locked"
    recovers = False

    def __init__(self) -> None:
        self.queue: LiteQueue

    def setup(self) -> None:
        self.queue = connect()

    def workers(self) -> list[list[str]]:
        return [[sys.executable, "-m", "benchmarks.peers.apps.with_litequeue"]] * 2

    def enqueue(self, index: int) -> None:
        self.queue.put(json.dumps({"index": index, "text": TEXT}))

    def enqueue_many(self, first: int, count: int) -> None:
        with self.queue.transaction():
            for index in range(first, first + count):
                self.enqueue(index)


APP = LiteQueueApp()

if __name__ == "__main__":
    run()
