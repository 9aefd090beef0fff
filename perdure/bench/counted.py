"""`python -m perdure.bench.counted run …`: the daemon, counting what it says to SQLite and on its sockets.

Five numbers of eight bytes in the file that $BENCH_COUNTS names, which the benchmark maps too: see `Counts`.
"""

from __future__ import annotations

import mmap
import os
import runpy
import socket
import sqlite3
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from perdure.wire import packet

_COUNTS = struct.Struct("5q")


class Counts(NamedTuple):
    """What was counted since the start, in the supervisor: all its statements that may write, and all its messages."""

    statements: int
    commits: int
    messages_sent: int
    messages_received: int
    bytes: int


def create(path: Path) -> None:
    """An empty file of counts."""
    path.write_bytes(bytes(_COUNTS.size))


def read(path: Path) -> Counts:
    """The counts so far."""
    return Counts(*_COUNTS.unpack(path.read_bytes()))


class Counter:
    """The file, as a list of numbers. Statements are counted in one thread and messages in another."""

    def __init__(self, path: str) -> None:
        with open(path, "r+b") as file:
            self._map = memoryview(mmap.mmap(file.fileno(), _COUNTS.size)).cast("q")

    def add(self, name: str, number: int = 1) -> None:
        """Count something."""
        self._map[Counts._fields.index(name)] += number

    def install(self) -> None:
        """Count from now on: the writer's connection, and packets both ways."""
        self._count_statements()
        self._count_packets()

    def _count_statements(self) -> None:
        counter, connect = self, sqlite3.connect

        class Counted(sqlite3.Connection):
            """Counts what it executes."""

            def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
                counter.add("commits" if sql == "COMMIT" else "statements")
                return super().execute(sql, parameters)

        def counted_connect(database: str, *arguments: Any, **options: Any) -> sqlite3.Connection:
            if "mode=ro" not in str(database):
                options["factory"] = Counted
            connection: sqlite3.Connection = connect(database, *arguments, **options)
            return connection

        sqlite3.connect = counted_connect  # type: ignore[assignment]  # the overloads are not all there

    def _count_packets(self) -> None:
        send, receive = packet.send, packet.receive

        def counted_send(sock: socket.socket, data: bytes, fds: Sequence[int] = ()) -> None:
            send(sock, data, fds)
            self.add("messages_sent")
            self.add("bytes", len(data))

        def counted_receive(
            sock: socket.socket, max_message_bytes: int, max_fds: int = 0
        ) -> tuple[bytes, list[int]] | None:
            received = receive(sock, max_message_bytes, max_fds)
            if received is not None:
                self.add("messages_received")
                self.add("bytes", len(received[0]))
            return received

        packet.send, packet.receive = counted_send, counted_receive


if __name__ == "__main__":
    Counter(os.environ["BENCH_COUNTS"]).install()
    runpy.run_module("perdure", run_name="__main__", alter_sys=True)
