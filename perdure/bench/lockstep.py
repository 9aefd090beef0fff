"""A drain in lockstep: the real core, store, messages and sockets, and workers that answer when it is their turn.

Nothing in it depends on time, so what is counted is the same on any machine, however busy. `python -m
perdure.bench.lockstep FILE` runs it on a new queue in that file and prints its counts as JSON.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from perdure.bench.load import ARGS, CHUNK, QUEUE
from perdure.daemon.actions import Send
from perdure.daemon.dispatch import Dispatch
from perdure.daemon.worker.outcome import BATCH_JOBS
from perdure.daemon.worker_state import DispatchLimits
from perdure.store.models import NewBatch, NewJob, Turn
from perdure.store.sqlite import open_sqlite
from perdure.wire import packet
from perdure.wire.data import KindSpec
from perdure.wire.work import Done, FromWorker, Run, Timing, ToWorker

JOBS: Final = 6_000
WORKERS: Final = 2
KIND: Final = "bench.noop"
#: The settings' own defaults: prefetch "20ms" and 256 jobs.
LIMITS: Final = DispatchLimits(20e6, 256, 32)
NOW: Final = 1_700_000_000_000
RUN_NS: Final = 2_000
#: Looked for in the log of system calls: what stands between these two is the drain.
BEGIN, END = "/perdure/lockstep/begin", "/perdure/lockstep/end"
#: A frame of the write-ahead log: a page of 4,096 bytes and its header (sqlite.org/walformat.html).
FRAME_BYTES: Final = 4096 + 24


class Counts(msgspec.Struct):
    """What the supervisor says to SQLite and on its sockets during the drain."""

    statements: int = 0
    commits: int = 0
    messages: int = 0
    bytes: int = 0
    pages: int = 0


class _Worker:
    """Both ends of a worker's channel: what it was sent, it has run when it is asked."""

    def __init__(self) -> None:
        self.ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._decode = msgspec.msgpack.Decoder(ToWorker).decode
        self._waiting: deque[int] = deque()

    def take(self) -> None:
        """Read one message."""
        data, _ = packet.receive(self._theirs, packet.OWN_MESSAGE_BYTES) or (b"", [])
        message = self._decode(data)
        assert isinstance(message, Run)
        self._waiting.extend(row.id for row in message.jobs)

    def answer(self) -> bool:
        """Send the outcomes of the next jobs; False: there are none."""
        ids = [self._waiting.popleft() for _ in range(min(BATCH_JOBS, len(self._waiting)))]
        if ids:
            timing = Timing(KIND, len(ids), len(ids) * RUN_NS)
            packet.send(self._theirs, packet.encode(Done(ids, [], [], [timing])))
        return bool(ids)

    def close(self) -> None:
        """Hang up."""
        self.ours.close()
        self._theirs.close()


class Lockstep:
    """Drains a queue, and counts."""

    def __init__(self) -> None:
        self.counts = Counts()
        self._counting = False
        self._core = Dispatch(LIMITS, lambda _failures: 1_000, 1 << 32)
        self._workers = {number: _Worker() for number in range(1, WORKERS + 1)}
        self._decode = msgspec.msgpack.Decoder(FromWorker).decode

    async def run(self, path: Path) -> Counts:
        """Fill a new queue and drain it."""
        self._count_statements()
        async with await open_sqlite(path) as store:
            job = NewJob(KIND, QUEUE, 0, ARGS, 5, 3, 3_600_000, None, None, None)
            for _ in range(0, JOBS, CHUNK):
                await store.commit(Turn(NOW, batches=[NewBatch([job] * CHUNK, False)]))
            core = self._core
            core.kinds_loaded([KindSpec(KIND, "sync", [])])
            for number in self._workers:
                core.worker_started(number)
                core.worker_ready(number)
            core.done(1, Done([], [], [], [Timing(KIND, 1, RUN_NS)]), NOW)
            core.queues.fill(QUEUE)
            before, self._counting = _log_bytes(path), True
            os.access(BEGIN, os.F_OK)
            done = 0
            while done < JOBS:
                turn = core.next_turn(NOW)
                if turn is not None:
                    result = await store.commit(turn)
                    core.learn(turn, result)
                    core.take_over(turn, result)
                    done += sum(map(len, turn.completed.values()))
                self._act()
                self._hear()
            os.access(END, os.F_OK)
            self._counting = False
            self.counts.pages = (_log_bytes(path) - before) // FRAME_BYTES
        for worker in self._workers.values():
            worker.close()
        return self.counts

    def _act(self) -> None:
        for action in self._core.take_actions():
            assert isinstance(action, Send)
            worker = self._workers[action.worker]
            data = packet.encode(Run(action.jobs))  # type: ignore[arg-type]  # rows as the claim gave them
            packet.send(worker.ours, data)
            self._count_message(data)
            worker.take()

    def _hear(self) -> None:
        for number, worker in self._workers.items():
            if worker.answer():
                data, _ = packet.receive(worker.ours, packet.OWN_MESSAGE_BYTES) or (b"", [])
                self._count_message(data)
                message = self._decode(data)
                assert isinstance(message, Done)
                self._core.done(number, message, NOW)

    def _count_message(self, data: bytes) -> None:
        self.counts.messages += 1
        self.counts.bytes += len(data)

    def _count_statements(self) -> None:
        """From now on what a connection that may write executes is counted, while the drain goes on."""
        lockstep, connect = self, sqlite3.connect

        class Counted(sqlite3.Connection):
            """Counts what it executes."""

            def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
                began, changes = self.in_transaction, self.total_changes
                cursor = super().execute(sql, parameters)
                if lockstep._counting:
                    # A statement that writes by itself is a transaction.
                    wrote = began or self.total_changes > changes
                    lockstep.counts.commits += wrote and not self.in_transaction
                    lockstep.counts.statements += sql != "COMMIT"
                return cursor

        def counted_connect(database: str, *arguments: Any, **options: Any) -> sqlite3.Connection:
            connection: sqlite3.Connection = connect(database, *arguments, **{**options, "factory": Counted})
            return connection

        sqlite3.connect = counted_connect  # type: ignore[assignment]  # the overloads are not all there


def _log_bytes(path: Path) -> int:
    return os.stat(f"{path}-wal").st_size


def main(arguments: Sequence[str]) -> None:
    """Print the counts of one run."""
    counts = asyncio.run(Lockstep().run(Path(arguments[0])))
    sys.stdout.buffer.write(msgspec.json.encode(counts))


if __name__ == "__main__":
    main(sys.argv[1:])
