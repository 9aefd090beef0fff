"""A small real service: it answers each line with the same line, counts the calls, and can hold its answers."""

from __future__ import annotations

import select
import socket
import socketserver
import threading
from typing import Self


class LineServer:
    """Runs in threads. `calls`: the lines received, in order; `most_at_once`: how many were open together."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.most_at_once = 0
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        #: Answers are given while this is set.
        self.answering = threading.Event()
        self.answering.set()
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                line = self.rfile.readline().decode().strip()
                if not line:
                    return
                outer._begin(line, self.connection)
                try:
                    while not outer.answering.wait(0.02):
                        if _hung_up(self.connection):
                            return
                    self.wfile.write(f"{line}\n".encode())
                except OSError:
                    pass  # who asked is gone
                finally:
                    outer._end(self.connection)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def _begin(self, line: str, connection: socket.socket) -> None:
        with self._lock:
            self.calls.append(line)
            self._open.add(connection)
            # One whose caller is gone may not have noticed it yet.
            self.most_at_once = max(self.most_at_once, sum(not _hung_up(one) for one in self._open))

    def _end(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.discard(connection)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.answering.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _hung_up(connection: socket.socket) -> bool:
    """Whether the other side has closed: it sends nothing after its line."""
    try:
        return bool(select.select([connection], [], [], 0)[0])
    except (OSError, ValueError):
        return True
