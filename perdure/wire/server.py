"""The answering side: a listening socket, who may use it, and its clients."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable
from typing import Any

from perdure.errors import DaemonUnreachable, Forbidden, PerdureError
from perdure.wire import codec, packet
from perdure.wire.listen import SocketFile, listen
from perdure.wire.packet import Decoder
from perdure.wire.peer import Peer, peer_of
from perdure.wire.session import READ_POLL_SECONDS, Handler, Session

#: How many connections are accepted before the loop does something else.
ACCEPTS_PER_TURN = 32

#: How long nothing is accepted when the process has no descriptor left.
SHORTAGE_PAUSE_SECONDS = 0.2

_SHORTAGES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


def _ignore(_peer: Peer, _error: Exception) -> None:
    """Report to nobody."""


class Server:
    """Answers calls on a unix socket. Use it only in the loop's thread.

    `handler(request, peer)` returns the answer, or an awaitable for it. An asyncio.Future is the cheap way, as it needs
    no task; whoever sets it must check `done()` first, because it is cancelled when the client cancels the call or
    goes away, and when the call's deadline passes. What the handler raises becomes a Fault.

    `may_connect(peer)` decides who is served. `report(peer, error)` hears of peers turned away, of garbage, and of
    errors of the handler that are not PerdureErrors. `on_event(body, peer)`: events from clients, if the decoder
    knows them. `on_gone(peer)` is called once for each client that was served, when it is gone. A client with
    `max_calls` calls in flight is not read until some are answered. A message may bring up to `max_fds` descriptors
    (take_fds); an answer that brings some is an envelope.WithDescriptors.
    """

    def __init__(
        self,
        path: str,
        handler: Handler,
        may_connect: Callable[[Peer], bool],
        *,
        mode: int = 0o660,
        group: str = "",
        decoder: Decoder[Any] | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        max_clients: int = 256,
        max_calls: int = 32,
        max_message_bytes: int = packet.CLIENT_MESSAGE_BYTES,
        max_fds: int = packet.MOST_FDS,
        on_event: Callable[[Any, Peer], object] | None = None,
        on_gone: Callable[[Peer], object] | None = None,
        report: Callable[[Peer, Exception], object] = _ignore,
    ) -> None:
        self.path = path
        self._handler = handler
        self._may_connect = may_connect
        self._mode = mode
        self._group = group
        self._decoder = decoder or codec.control_decoder()
        self._loop = loop or asyncio.get_running_loop()
        self._max_clients = max_clients
        self._max_calls = max_calls
        self._max_message_bytes = max_message_bytes
        self._max_fds = max_fds
        self._on_event = on_event
        self._on_gone = on_gone
        self._report = report
        self._sock: socket.socket | None = None
        self._file: SocketFile | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._sessions: dict[Peer, Session] = {}
        #: Calls of all clients that have not ended, also of clients that are gone.
        self._running: set[asyncio.Future[Any]] = set()

    # --- life

    def start(self) -> None:
        """Listen at the path. Raises ConfigError."""
        sock, self._file = listen(self.path, self._mode, self._group)
        self._serve(sock)

    def adopt(self, sock: socket.socket, *, owns_file: bool = False) -> None:
        """Use a socket that listens already: from systemd, or from before a re-exec (then it `owns_file`)."""
        if owns_file:
            self._file = SocketFile(self.path)
        self._serve(sock)

    def close(self, reason: PerdureError | None = None) -> None:
        """Stop listening, remove the socket's own file, end all connections and cancel their calls.

        Clients hear the `reason`: it is what their calls and subscriptions fail with.
        """
        self.stop_listening()
        for session in list(self._sessions.values()):
            if reason is not None:
                session.channel.send(codec.fault(0, reason))
            session.channel.close()

    def stop_listening(self) -> None:
        """Take no new clients; those that are here are still served."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._sock is not None:
            self._loop.remove_reader(self._sock.fileno())
            if self._file is not None:
                self._file.remove()
                self._file = None
            self._sock.close()
            self._sock = None

    async def settle(self, timeout_s: float) -> None:
        """Wait until the calls that are in flight are answered and all that was sent is on its way, but no longer than
        `timeout_s` seconds."""
        until = self._loop.time() + timeout_s
        if self._running:
            await asyncio.wait(self._running, timeout=timeout_s)
        while self._unsent() and self._loop.time() < until:  # noqa: ASYNC110 - once, at the end, for all clients
            await asyncio.sleep(READ_POLL_SECONDS)

    def _unsent(self) -> bool:
        return any(session.channel.pending_bytes for session in self._sessions.values())

    async def wait_closed(self) -> None:
        """Wait until every call that `close` cancelled has really ended."""
        while self._running:
            await asyncio.wait(self._running)

    # --- clients

    @property
    def clients(self) -> list[Peer]:
        """Who is connected."""
        return list(self._sessions)

    @property
    def calls_in_flight(self) -> int:
        """Calls that have not ended, of all clients."""
        return len(self._running)

    def send(self, peer: Peer, message: object) -> bool:
        """Send this connection an envelope.Event of the server's own accord. False: the client is gone."""
        session = self._sessions.get(peer)
        return session is not None and session.channel.send(message)

    def take_fds(self, peer: Peer) -> list[int]:
        """The descriptors that came with the request or event that is being handled right now; the caller closes them.

        Only until the handler returns (the body of a coroutine runs later): what was not taken is closed then.
        """
        session = self._sessions.get(peer)
        return [] if session is None else session.channel.take_fds()

    def pending_bytes(self, peer: Peer) -> int:
        """How much waits because this client reads slowly; 0 if it is gone."""
        session = self._sessions.get(peer)
        return 0 if session is None else session.channel.pending_bytes

    # --- accepting

    def _serve(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop.add_reader(sock.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            if self._sock is None:
                return
            try:
                sock, _address = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:
                self._pause_accepting(exc)
                return
            self._welcome(sock)

    def _pause_accepting(self, reason: OSError) -> None:
        """The socket stays readable while nothing can be accepted: look away for a while, or the loop would spin."""
        if reason.errno not in _SHORTAGES:
            self._report(Peer(0, 0, 0), reason)
        assert self._sock is not None
        self._loop.remove_reader(self._sock.fileno())
        self._pause = self._loop.call_later(SHORTAGE_PAUSE_SECONDS, self._resume_accepting)

    def _resume_accepting(self) -> None:
        self._pause = None
        if self._sock is not None:
            self._loop.add_reader(self._sock.fileno(), self._accept)

    def _welcome(self, sock: socket.socket) -> None:
        peer = Peer(0, 0, 0)
        try:
            peer = peer_of(sock)
            refusal = self._refusal(peer)
            if refusal is None:
                self._sessions[peer] = self._session(sock, peer)
                return
            self._turn_away(sock, peer, refusal)
        except Exception as exc:
            sock.close()
            self._report(peer, exc)

    def _refusal(self, peer: Peer) -> PerdureError | None:
        if not self._may_connect(peer):
            return Forbidden()
        if len(self._sessions) >= self._max_clients:
            return DaemonUnreachable(f"the daemon has {self._max_clients} clients, its limit. Try again later.")
        return None

    def _turn_away(self, sock: socket.socket, peer: Peer, error: PerdureError) -> None:
        with sock, contextlib.suppress(OSError):
            sock.setblocking(False)
            packet.send(sock, packet.encode(codec.fault(0, error)))
        self._report(peer, error)

    def _session(self, sock: socket.socket, peer: Peer) -> Session:
        return Session(
            sock,
            peer,
            handler=self._handler,
            decoder=self._decoder,
            on_event=self._on_event,
            on_end=self._forget,
            report=self._report,
            running=self._running,
            loop=self._loop,
            max_calls=self._max_calls,
            max_message_bytes=self._max_message_bytes,
            max_fds=self._max_fds,
        )

    def _forget(self, session: Session) -> None:
        self._sessions.pop(session.peer, None)
        if self._on_gone is not None:
            try:
                self._on_gone(session.peer)
            except Exception as exc:
                self._report(session.peer, exc)
