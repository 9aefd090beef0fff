"""The worker's way out: encoded messages on the channel's socket, from either thread.

A packet of a SEQPACKET socket goes out whole or not at all, so the two lanes need no lock and no hand-over between
threads. When the supervisor reads slowly, the sync lane waits: that is the back-pressure.

The order matters once: what calls to a dependency came to (Observed, from the loop's channel) must leave before the
outcome of the job that made them, or the supervisor would judge a failed job by a breaker that it does not know to be
in trouble. A call reports before it returns, so that holds by itself while the channel sends at once; while something
waits in the channel, outcomes wait, too. And what jobs have told (Told) leaves right before their outcomes (`before`),
as far as there is room: outcomes do not wait for that.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import sys
import termios
import time
from collections.abc import Callable
from typing import Final

from perdure.wire import packet

#: The exit status of a worker whose supervisor is gone.
ORPHANED: Final = 1
#: Pause while the loop's thread has something older to send, seconds.
_BEHIND_PAUSE: Final = 0.001
#: Pause when the machine is short of descriptors or memory for a large message, seconds.
_SHORTAGE_PAUSE: Final = 0.05
#: With so many bytes unread by the supervisor, what jobs tell can wait.
_UNREAD_BYTES: Final = 64 * 1024
_GONE: Final = frozenset((errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.ESHUTDOWN, errno.EBADF))


class Port:
    """Sends to the supervisor. If that is gone there is nothing to save: the process ends at once."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLOUT)
        #: How many bytes are waiting that must go out before anything that is sent here.
        self.older: Callable[[], int] = lambda: 0
        #: Sends what should be told before an outcome; False: not just now.
        self.before: Callable[[], bool] = lambda: True
        # Outcomes find room in the other half of what the kernel holds.
        self._room = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2

    def try_send(self, data: bytes) -> bool:
        """Send outcomes; False: not now, nothing of them was sent."""
        return not self.older() and self.before() and self._try(data)

    def send_waiting(self, data: bytes) -> None:
        """Send outcomes, and wait for room if there is none. Not for the loop's thread."""
        while not self.try_send(data):
            if self.older():
                time.sleep(_BEHIND_PAUSE)
            elif self._poll.poll(1000):
                # There is room, so it was a shortage, or the other thread was faster.
                time.sleep(_SHORTAGE_PAUSE if len(data) > packet.INLINE_BYTES else 0)

    # --- what jobs tell

    def tell(self, data: bytes) -> bool:
        """Send one message that may as well be left out; False: there is no room."""
        return not self.older() and self._try(data)

    def is_read(self) -> bool:
        """Whether the supervisor keeps up with reading."""
        return not self.older() and self._unread() <= _UNREAD_BYTES

    def has_room(self) -> bool:
        """Whether something can be sent that leaves room for outcomes."""
        return not self.older() and self._unread() <= self._room

    def _unread(self) -> int:
        """What the supervisor has not read, as the kernel counts it, in bytes."""
        size = bytearray(4)
        fcntl.ioctl(self._sock, termios.TIOCOUTQ, size)
        return int.from_bytes(size, sys.byteorder)

    def _try(self, data: bytes) -> bool:
        try:
            packet.send(self._sock, data)
        except OSError as error:
            if error.errno in _GONE:
                os._exit(ORPHANED)
            return False
        return True
