"""What the daemon says to systemd, and what systemd hands to the daemon: sd_notify(3) and sd_listen_fds(3).

Written by hand: the protocol is one datagram with `KEY=value` lines. Nothing in here needs an event loop.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping
from typing import Final, Self

#: How long a message that must not be lost may wait while the manager's queue is full. Pings and status never wait.
PATIENCE_SECONDS: Final = 1.0
#: Pings per watchdog limit: two may be late or lost before the manager acts.
PINGS_PER_LIMIT: Final = 3
#: The number of the first descriptor that systemd hands over.
FIRST_LISTEN_FD: Final = 3

#: Set by systemd for the daemon alone. A job that saw these could believe it was the service, or read its secrets.
NOT_FOR_JOBS: Final = frozenset(
    {
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_FDNAMES",
        "CREDENTIALS_DIRECTORY",
        "JOURNAL_STREAM",
    }
)


class Notifier:
    """The line to the service manager; without one, every method does nothing and returns False.

    No method raises when the manager is gone: a daemon that works must not stop because nobody listens.
    """

    def __init__(self, address: str | None = None, watchdog_interval_seconds: float | None = None) -> None:
        #: Seconds from one `watchdog()` to the next; None: nobody waits for pings.
        self.watchdog_interval_seconds = watchdog_interval_seconds
        self._address = address
        self._stopping = False
        # Opened once: a daemon that has run out of descriptors can still say that it lives.
        self._socket = _datagram_socket() if address else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str]) -> Notifier:
        """The manager that started this process, if there is one.

        Takes NOTIFY_SOCKET, WATCHDOG_* and LISTEN_* out of `environ`, so that children do not inherit them: call
        `listen_fds` before.
        """
        interval = _watchdog_interval(environ)
        address = _socket_address(environ.get("NOTIFY_SOCKET", ""))
        for name in NOT_FOR_JOBS - {"CREDENTIALS_DIRECTORY", "JOURNAL_STREAM"}:
            environ.pop(name, None)
        return cls(address, interval if address else None)

    @property
    def active(self) -> bool:
        """Whether a manager listens, as far as is known."""
        return self._socket is not None

    def ready(self, status: str) -> bool:
        """The queue is open and the socket listens, or a reload is over."""
        return self._send(f"READY=1\nSTATUS={_one_line(status)}", wait=True)

    def reloading(self, monotonic_usec: int) -> bool:
        """A reload begins; `ready` ends it. `monotonic_usec`: CLOCK_MONOTONIC now, in microseconds.

        Both fields travel in one datagram: systemd 253 and later ignores a reload that does not say when it began.
        """
        return self._send(f"RELOADING=1\nMONOTONIC_USEC={monotonic_usec}", wait=True)

    def stopping(self) -> bool:
        """The stop has begun. From now on `watchdog` is silent: the stop has its own limit."""
        self._stopping = True
        return self._send("STOPPING=1", wait=True)

    def status(self, text: str) -> bool:
        """The line that `systemctl status` shows."""
        return self._send(f"STATUS={_one_line(text)}")

    def extend(self, usec: int) -> bool:
        """Ask for `usec` more microseconds, from now, for the start or the stop that is under way."""
        return self._send(f"EXTEND_TIMEOUT_USEC={usec}", wait=True)

    def watchdog(self) -> bool:
        """The main loop turns and the store answers."""
        if self._stopping or self.watchdog_interval_seconds is None:
            return False
        return self._send("WATCHDOG=1")

    def close(self) -> None:
        """Let go of the socket; everything said afterwards goes nowhere."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str, *, wait: bool = False) -> bool:
        if self._socket is None or self._address is None:
            return False
        try:
            self._socket.settimeout(PATIENCE_SECONDS if wait else 0)
            self._socket.sendto(message.encode(errors="replace"), self._address)
        except OSError:  # the manager is gone or its queue is full
            return False
        return True


def listen_fds(environ: Mapping[str, str]) -> list[int]:
    """The listening sockets that systemd opened for this process, in the order of the socket unit.

    Empty when there are none, or when they were meant for another process (LISTEN_PID). Children do not inherit them.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = _positive(environ.get("LISTEN_FDS", "")) or 0
    descriptors = list(range(FIRST_LISTEN_FD, FIRST_LISTEN_FD + count))
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return descriptors


def job_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """A copy of `environ` without what is between systemd and the daemon (NOT_FOR_JOBS)."""
    return {name: value for name, value in environ.items() if name not in NOT_FOR_JOBS}


def _datagram_socket() -> socket.socket | None:
    try:
        return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    except OSError:
        return None


def _socket_address(value: str) -> str | None:
    """A path as it is, an abstract address ('@name') in the kernel's spelling; other kinds (vsock) are not for us."""
    if value.startswith("@"):
        return "\0" + value[1:]
    return value if value.startswith("/") else None


def _watchdog_interval(environ: Mapping[str, str]) -> float | None:
    """Seconds between pings; None without a limit, or when the limit is for another process."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    limit_usec = _positive(environ.get("WATCHDOG_USEC", ""))
    return limit_usec / PINGS_PER_LIMIT / 1_000_000 if limit_usec else None


def _positive(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and int(text) > 0 else None


def _one_line(text: str) -> str:
    """A line break would begin another field."""
    return " ".join(text.splitlines())
