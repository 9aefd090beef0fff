"""A channel for code without an event loop: the nursery, and blocking clients."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from types import TracebackType
from typing import Generic, TypeVar

from perdure.wire import packet
from perdure.wire.packet import Decoder

T = TypeVar("T")

#: A wait may end so much too late.
SAME_SECONDS = 0.002


class BlockingEndpoint(Generic[T]):
    """One end of a SEQPACKET socket, read and written by waiting. It owns the socket. Not for several threads at once.

    `max_fds`: how many descriptors a message may bring. `max_message_bytes`: the largest message, either way.
    """

    def __init__(
        self,
        sock: socket.socket,
        decoder: Decoder[T],
        *,
        max_fds: int = 4,
        max_message_bytes: int = packet.OWN_MESSAGE_BYTES,
    ) -> None:
        self._sock = sock
        self._decoder = decoder
        self._max_fds = max_fds
        self._max_message_bytes = max_message_bytes
        sock.setblocking(True)
        self._timeout_s: float | None = None
        packet.set_buffers(sock)

    def fileno(self) -> int:
        """The socket's descriptor, to wait for it with others. -1 when closed."""
        return self._sock.fileno()

    def recv(self, timeout_s: float | None = None) -> tuple[T, list[int]] | None:
        """The next message and its descriptors, which the caller must close; None when the other side is gone.

        Raises TimeoutError after `timeout_s` seconds, and ProtocolError if what came is not a message.
        """
        self._set_timeout(timeout_s)
        try:
            received = packet.receive(self._sock, self._max_message_bytes, self._max_fds)
        except ConnectionResetError:
            received = packet.receive(self._sock, self._max_message_bytes, self._max_fds)
        if received is None:
            return None
        data, fds = received
        try:
            return packet.decode(self._decoder, data), fds
        except BaseException:
            packet.close_all(fds)
            raise

    def send(self, message: object, fds: Sequence[int] = (), timeout_s: float | None = None) -> None:
        """Send a message with copies of `fds`.

        Raises UsageError (too large), TimeoutError, BrokenPipeError or ConnectionResetError (nobody reads any more).
        """
        self.send_encoded(packet.encode(message), fds, timeout_s)

    def send_encoded(self, data: bytes, fds: Sequence[int] = (), timeout_s: float | None = None) -> None:
        """The same for a message that is encoded already."""
        if fds or len(data) > self._max_message_bytes:
            packet.check_size(data, self._max_message_bytes)
            packet.check_fds(fds)
        self._set_timeout(timeout_s)
        packet.send(self._sock, data, fds)

    def _set_timeout(self, timeout_s: float | None) -> None:
        """Setting it is a syscall: not for what is left of the same time a moment later."""
        former = self._timeout_s
        if timeout_s is None or former is None:
            if timeout_s is former:
                return
        elif 0 <= former - timeout_s < SAME_SECONDS:
            return
        self._sock.settimeout(timeout_s)
        self._timeout_s = timeout_s

    def close(self) -> None:
        """Close the socket; again is harmless."""
        self._sock.close()

    def __enter__(self) -> BlockingEndpoint[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
