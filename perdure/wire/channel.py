"""A SEQPACKET socket on an event loop: asyncio's own or uvloop."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import select
import socket
import sys
import termios
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from perdure.errors import ProtocolError
from perdure.wire import packet
from perdure.wire.packet import Decoder

T = TypeVar("T")

#: How many packets one peer may have read before other peers get their turn.
PACKETS_PER_TURN = 16
#: And how many bytes of them: a thousand jobs in a message of 130 KB take about 1.5 ms to check.
BYTES_PER_TURN = 256 * 1024

#: How long to wait when the machine has no descriptor or memory left for a message.
SHORTAGE_PAUSE_SECONDS = 0.05

_SHORTAGES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ETOOMANYREFS))
_GONE = frozenset((errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.ESHUTDOWN))


class Channel(Generic[T]):
    """Messages to and from one peer, in order. It owns the socket. Use it only in the loop's thread.

    `on_message(message)` is called for each message. `on_close(cause)` is called exactly once, also after `close()`;
    `cause` is None if either side just closed, a ProtocolError if what came was no message, or what `on_message`
    raised. `on_drained()` is called when nothing waits to be sent any more. `farewell(error)` makes a last message for
    a peer that broke the protocol. `max_message_bytes` bounds what is received, and what is sent, unless
    `max_send_bytes` is given. `max_fds`: how many descriptors a message may bring (take_fds); more of them are a
    ProtocolError.
    """

    __slots__ = (
        "_decoder",
        "_farewell",
        "_fd",
        "_fds",
        "_hangup",
        "_loop",
        "_max_fds",
        "_max_message_bytes",
        "_max_send_bytes",
        "_on_close",
        "_on_drained",
        "_on_message",
        "_peer_gone",
        "_queue",
        "_retry",
        "_sock",
        "closed",
        "look_for_more",
        "messages",
        "pending_bytes",
    )

    def __init__(
        self,
        sock: socket.socket,
        decoder: Decoder[T],
        on_message: Callable[[T], object],
        on_close: Callable[[Exception | None], object],
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        max_message_bytes: int = packet.OWN_MESSAGE_BYTES,
        max_send_bytes: int | None = None,
        max_fds: int = 0,
        on_drained: Callable[[], object] | None = None,
        farewell: Callable[[ProtocolError], object] | None = None,
    ) -> None:
        self._sock = sock
        self._fd = sock.fileno()
        self._decoder = decoder
        self._on_message = on_message
        self._on_close = on_close
        self._on_drained = on_drained
        self._farewell = farewell
        self._loop = loop or asyncio.get_running_loop()
        self._max_message_bytes = max_message_bytes
        self._max_send_bytes = max_send_bytes or max_message_bytes
        self._max_fds = max_fds
        #: What came with the message that `on_message` has now.
        self._fds: list[int] = []
        #: Encoded messages with the descriptors that travel along, which are ours until sent.
        self._queue: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._retry: asyncio.TimerHandle | None = None
        self._hangup: select.epoll | None = None
        self._peer_gone = False
        #: True once `on_close` was called.
        self.closed = False
        #: Whether to look for another message as soon as one was dealt with. To look in vain costs a syscall and an
        #: exception; not to look, a turn of the loop for each further message.
        self.look_for_more = True
        #: How many messages have come in.
        self.messages = 0
        #: Bytes that wait here because the peer reads slowly.
        self.pending_bytes = 0
        sock.setblocking(False)
        packet.set_buffers(sock)
        self._loop.add_reader(self._fd, self._read)

    # --- sending

    def send(self, message: object, fds: Sequence[int] = ()) -> bool:
        """Encode a message now and send it as soon as the peer reads. False: the peer is gone, it was dropped.

        `fds` are copied: the caller may close its own at once. Raises what encoding raises, UsageError if the
        message is too large, and OSError if the descriptors must wait and cannot be copied.
        """
        return self.send_encoded(packet.encode(message), fds)

    def send_encoded(self, data: bytes, fds: Sequence[int] = ()) -> bool:
        """The same for a message that is encoded already: one encoding can go to many peers."""
        if len(data) > self._max_send_bytes or fds:
            packet.check_size(data, self._max_send_bytes)
            packet.check_fds(fds)
        if self.closed or self._peer_gone:
            return False
        if not self._queue:
            try:
                packet.send(self._sock, data, fds)
            except OSError as exc:
                if exc.errno in _GONE:
                    self._peer_gone = True
                    return False
                self._enqueue(data, fds)
                self._wait_to_send(exc)
            return not self.closed
        self._enqueue(data, fds)
        return True

    def _enqueue(self, data: bytes, fds: Sequence[int]) -> None:
        copies: list[int] = []
        try:
            copies.extend(os.dup(fd) for fd in fds)
        except BaseException:
            packet.close_all(copies)
            raise
        self._queue.append((data, tuple(copies)))
        self.pending_bytes += len(data)

    def _wait_to_send(self, reason: OSError) -> None:
        """Try again when that can help; otherwise give the channel up."""
        if isinstance(reason, BlockingIOError):
            self._loop.add_writer(self._fd, self._write)
        elif reason.errno in _SHORTAGES:
            self._loop.remove_writer(self._fd)
            self._retry = self._loop.call_later(SHORTAGE_PAUSE_SECONDS, self._write)
        else:
            self.close(reason)

    def _write(self) -> None:
        self._retry = None
        while self._queue:
            data, fds = self._queue[0]
            try:
                packet.send(self._sock, data, fds)
            except OSError as exc:
                if exc.errno in _GONE:
                    self._drop_unsent()
                    return
                self._wait_to_send(exc)
                return
            self._queue.popleft()
            packet.close_all(fds)
            self.pending_bytes -= len(data)
        self._loop.remove_writer(self._fd)
        if self._on_drained is not None:
            self._on_drained()

    def _drop_unsent(self) -> None:
        """The peer reads no more. What it sent before is still to be read; the end comes after that."""
        self._peer_gone = True
        self._loop.remove_writer(self._fd)
        for _, fds in self._queue:
            packet.close_all(fds)
        self._queue.clear()
        self.pending_bytes = 0

    # --- receiving

    def _read(self) -> None:
        allowed = BYTES_PER_TURN
        for _ in range(PACKETS_PER_TURN):
            try:
                received = packet.receive(self._sock, self._max_message_bytes, self._max_fds)
                if received is None:
                    self.close()
                    return
                data, self._fds = received
                message = packet.decode(self._decoder, data)
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionResetError:
                # The peer ended with messages of ours unread. What it had sent is still to come, and then the end.
                self._peer_gone = True
                continue
            except ProtocolError as exc:
                self._close_untaken()
                self._refuse(exc)
                return
            except OSError as exc:
                self.close(exc)
                return
            self.messages += 1
            try:
                self._on_message(message)
            except Exception as exc:
                self.close(exc)
                return
            finally:
                if self._fds:
                    self._close_untaken()
            if self.closed or self._hangup is not None:
                return
            allowed -= len(data)
            if allowed <= 0 or not (self.look_for_more or self._peer_gone):
                break  # if there is more, the loop calls again
        if self._peer_gone:
            # uvloop stops watching a socket that has an error. All that will ever come is here already.
            self._loop.remove_reader(self._fd)
            self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if not self.closed and self._hangup is None:
            self._read()

    def take_fds(self) -> list[int]:
        """The descriptors that came with the message that `on_message` has right now; the caller closes them.

        What nobody has taken when `on_message` returns is closed.
        """
        fds, self._fds = self._fds, []
        return fds

    def _close_untaken(self) -> None:
        packet.close_all(self.take_fds())

    def _refuse(self, error: ProtocolError) -> None:
        if self._farewell is not None:
            self.send(self._farewell(error))
        self.close(error)

    def pause_reading(self) -> None:
        """Let the peer wait. If it goes away meanwhile, the channel closes and what it had sent is dropped."""
        if self.closed or self._hangup is not None:
            return
        self._loop.remove_reader(self._fd)
        # A loop cannot watch for a hang-up alone, but it can watch an epoll that does.
        self._hangup = select.epoll(1)
        self._hangup.register(self._fd, select.EPOLLRDHUP)
        self._loop.add_reader(self._hangup.fileno(), self.close)

    def resume_reading(self) -> None:
        """Read again after `pause_reading`."""
        if self.closed or self._hangup is None:
            return
        self._stop_hangup_watch()
        self._loop.add_reader(self._fd, self._read)

    @property
    def paused(self) -> bool:
        """Whether `pause_reading` is in force."""
        return self._hangup is not None

    def _stop_hangup_watch(self) -> None:
        if self._hangup is not None:
            self._loop.remove_reader(self._hangup.fileno())
            self._hangup.close()
            self._hangup = None

    def fileno(self) -> int:
        """The socket's descriptor; -1 when closed."""
        return self._sock.fileno()

    # --- the end

    def unread_bytes(self) -> int:
        """What the peer has not read yet of what was sent, as the kernel counts it."""
        size = bytearray(4)
        fcntl.ioctl(self._fd, termios.TIOCOUTQ, size)
        return int.from_bytes(size, sys.byteorder)

    def finish(self) -> None:
        """The peer is known to have ended: read what it had sent, then close."""
        self.resume_reading()
        before = -1
        while not self.closed and before != self.messages:
            before = self.messages
            self._read()
        self.close()

    def close(self, cause: Exception | None = None) -> None:
        """Close now; what was not sent is dropped. Calls `on_close(cause)`; again is harmless."""
        if self.closed:
            return
        self.closed = True
        if self._retry is not None:
            self._retry.cancel()
        self._stop_hangup_watch()
        self._loop.remove_reader(self._fd)
        self._drop_unsent()
        self._sock.close()
        self._on_close(cause)
