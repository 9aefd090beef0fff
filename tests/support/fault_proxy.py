"""A TCP proxy between a driver and a real server, whose faults are switched while connections are open.

    with FaultProxy("127.0.0.1", 5432) as proxy:
        connect(port=proxy.port)
        proxy.mode = BLACK_HOLE      # and later: PASS, latency(0.2), cut_after(100), …

It runs in a thread with a loop of its own, so blocking tests, asyncio tests and other processes can use it alike. A
switch has taken effect when the assignment returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

CHUNK_BYTES = 64 * 1024
#: Seconds that a switch, the start and the end may take.
PATIENCE = 10.0
#: SO_LINGER with a time of 0: closing sends a reset instead of a farewell.
_RESETTING = struct.pack("ii", 1, 0)


class Fault(NamedTuple):
    """What happens to connections. `amount`: seconds, bytes a second or bytes."""

    kind: str
    amount: float = 0.0


#: Everything goes through.
PASS: Final = Fault("pass")
#: Nobody listens: new connections are refused. Open ones go on (`drop_connections` ends them).
REFUSE: Final = Fault("refuse")
#: Open connections get a reset at once, new ones as soon as they are accepted.
RESET: Final = Fault("reset")
#: The client sees the server's end of stream, though the server is there and still gets what the client sends.
HALF_CLOSE: Final = Fault("half_close")
#: Connections are accepted; whatever is sent, both ways, is swallowed. One that lost something stays dumb for ever.
BLACK_HOLE: Final = Fault("black_hole")
#: The same silence, but what was sent waits, and arrives late when the mode changes: a short outage of the network.
STALL: Final = Fault("stall")


def latency(seconds: float) -> Fault:
    """Each piece on its way to the client is held for so long."""
    return Fault("latency", seconds)


def throttle(bytes_per_second: float) -> Fault:
    """The client gets no more than so many bytes a second, on each connection."""
    return Fault("throttle", bytes_per_second)


def cut_after(count: int) -> Fault:
    """Each connection is closed when `count` more bytes, from now or from its beginning, have gone to the client."""
    return Fault("cut_after", count)


@dataclass
class Counters:
    """What has gone through: connections accepted so far and open now, and bytes passed on."""

    accepted: int = 0
    open: int = 0
    to_server: int = 0
    to_client: int = 0


class FaultProxy:
    """Listens on a free loopback port, which it keeps until the end, and passes connections on to `target`."""

    def __init__(self, target_host: str, target_port: int) -> None:
        self.target = (target_host, target_port)
        self.connections = Counters()
        # Bound, never listening: keeps the port ours while nobody listens.
        self._claim = _bound(0)
        self.port: int = self._claim.getsockname()[1]
        self._fault = PASS
        self._open: set[_Connection] = set()
        self._listener: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._switched = asyncio.Event()
        self._thread = threading.Thread(target=self._turn, name="fault-proxy", daemon=True)

    @property
    def address(self) -> str:
        """HOST:PORT of the proxy."""
        return f"127.0.0.1:{self.port}"

    @property
    def mode(self) -> Fault:
        """What happens to connections now. Assign one of the constants, their names, or latency(…) and the like."""
        return self._fault

    @mode.setter
    def mode(self, fault: Fault | str) -> None:
        self._ask(self._switch(Fault(fault) if isinstance(fault, str) else fault))

    def drop_connections(self) -> None:
        """Reset all open connections, on both sides. Whether new ones are taken depends on the mode."""
        self._ask(self._drop())

    def __enter__(self) -> Self:
        self._thread.start()
        self._ask(self._switch(PASS))
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ask(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()
        self._claim.close()

    # --- on the proxy's own loop

    def _turn(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _ask(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    async def _switch(self, fault: Fault) -> None:
        self._fault = fault
        self._switched.set()
        self._switched = asyncio.Event()
        if fault.kind == "refuse":
            self._stop_listening()
        elif self._listener is None:
            self._listener = await asyncio.start_server(self._accept, sock=_bound(self.port))
        for connection in list(self._open):
            connection.on_switch()

    async def _drop(self) -> None:
        for connection in list(self._open):
            connection.reset()

    async def _end(self) -> None:
        await self._switch(REFUSE)
        await self._drop()
        while self._open:
            await asyncio.wait_for(next(iter(self._open)).ended.wait(), PATIENCE)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self, reader, writer)
        self._open.add(connection)
        self.connections.accepted += 1
        self.connections.open += 1
        try:
            await connection.serve()
        finally:
            connection.reset()
            self.connections.open -= 1
            self._open.discard(connection)
            connection.ended.set()

    async def until_switched(self, timeout: float | None = None) -> None:
        """Wait for the next change of the mode, at most `timeout` seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._switched.wait(), timeout)


class _Connection:
    """A client, the server, and two pumps between them."""

    def __init__(self, proxy: FaultProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._client = (reader, writer)
        self._server: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._lost = False
        self._dropped = False
        self._to_go = 0.0
        self.ended = asyncio.Event()
        self._begin_fault()

    def on_switch(self) -> None:
        """The mode is another one."""
        self._begin_fault()
        if self._proxy.mode.kind == "reset":
            self.reset()
        elif self._proxy.mode.kind == "half_close":
            self._hang_up()

    def reset(self) -> None:
        """End it on both sides, without a farewell."""
        self._dropped = True
        for pair in (self._client, self._server):
            if pair is not None:
                _reset(pair[1])

    async def serve(self) -> None:
        """Be the connection until both sides have ended it."""
        while self._proxy.mode.kind == "stall" and not self._dropped:
            await self._proxy.until_switched()
        kind = self._proxy.mode.kind
        if kind == "reset" or self._dropped:
            return
        if kind == "black_hole":
            self._lost = True
            await self._swallow_all()
            return
        try:
            self._server = await asyncio.open_connection(*self._proxy.target)
        except OSError:
            return  # no server: the client is reset
        self.on_switch()
        to_server = self._pump(self._client[0], self._server[1], self._to_server)
        to_client = self._pump(self._server[0], self._client[1], self._to_client)
        await asyncio.gather(to_server, to_client)

    def _begin_fault(self) -> None:
        self._to_go = self._proxy.mode.amount

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self._client[1].write_eof()

    async def _swallow_all(self) -> None:
        with contextlib.suppress(OSError):
            while await self._client[0].read(CHUNK_BYTES):
                pass

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        forward: Callable[[bytes, asyncio.StreamWriter], Coroutine[Any, Any, None]],
    ) -> None:
        try:
            while data := await source.read(CHUNK_BYTES):
                await self._hold()
                if not self._lost:
                    await forward(data, sink)
            await self._hold()
            while self._proxy.mode.kind == "black_hole" and not self._dropped:
                await self._proxy.until_switched()  # the end is not seen on the other side either
            sink.write_eof()
        except OSError:
            self.reset()

    async def _hold(self) -> None:
        while self._proxy.mode.kind == "stall" and not self._dropped:
            await self._proxy.until_switched()
        if self._proxy.mode.kind == "black_hole":
            self._lost = True

    async def _to_server(self, data: bytes, sink: asyncio.StreamWriter) -> None:
        self._proxy.connections.to_server += len(data)
        sink.write(data)
        await sink.drain()

    async def _to_client(self, data: bytes, sink: asyncio.StreamWriter) -> None:
        while data:
            fault = self._proxy.mode
            if fault.kind == "half_close":
                return
            size = len(data)
            if fault.kind == "latency":
                await self._proxy.until_switched(fault.amount)
            elif fault.kind == "throttle":
                size = max(1, int(fault.amount / 20))
            elif fault.kind == "cut_after":
                size = min(size, int(self._to_go))
                self._to_go -= size
            part, data = data[:size], data[size:]
            sink.write(part)
            await sink.drain()
            self._proxy.connections.to_client += len(part)
            if fault.kind == "cut_after" and self._to_go <= 0:
                await self._cut()
                return
            if fault.kind == "throttle":
                await self._proxy.until_switched(len(part) / fault.amount)

    async def _cut(self) -> None:
        """The client gets what was sent, then the end; the server is reset."""
        self._client[1].close()
        self._dropped = True
        if self._server is not None:
            _reset(self._server[1])


def _bound(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    return sock


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None and not writer.transport.is_closing():
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESETTING)
    writer.transport.abort()
