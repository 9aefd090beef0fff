"""Reaching a listening unix socket, and saying clearly why it cannot be reached."""

from __future__ import annotations

import errno
import os
import socket
import stat

from perdure.errors import ConfigError, DaemonUnreachable, Forbidden, PerdureError

#: What sockaddr_un has room for, without the closing zero byte.
PATH_BYTES = 107

#: How long to wait before trying again when the queue of connections that are not accepted yet is full.
RETRY_SECONDS = 0.02

#: How long to try by default.
CONNECT_SECONDS = 5.0


def check_path(path: str) -> None:
    """Raise ConfigError if no socket can have this path."""
    size = len(os.fsencode(path))
    if size > PATH_BYTES or not path or "\0" in path:
        raise ConfigError(
            f"the socket's path has {size} bytes; the system allows 1 to {PATH_BYTES}. "
            f"Set daemon.socket to a shorter one: {path[:200]!r}"
        )


def connect_once(path: str) -> socket.socket | None:
    """A connected SEQPACKET socket; None: the other side is too busy to accept now, try again soon.

    Raises ConfigError, DaemonUnreachable or Forbidden.
    """
    check_path(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        # A unix socket connects at once or not at all, so this never waits.
        sock.setblocking(False)
        sock.connect(path)
    except BlockingIOError:
        sock.close()
        return None
    except OSError as exc:
        sock.close()
        raise unreachable(path, exc) from exc
    except BaseException:
        sock.close()
        raise
    return sock


def too_busy(path: str, timeout_s: float) -> DaemonUnreachable:
    """The error for a listener that has accepted nothing within the time."""
    return DaemonUnreachable(
        f"the daemon at {path} did not accept a connection for {timeout_s:g} s. It is overloaded or stopped."
    )


def unreachable(path: str, error: OSError) -> PerdureError:
    """What an error of connect(2) means to a person."""
    start = "Start it with `perdure run`."
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return DaemonUnreachable(f"the daemon is not running: there is no socket {path}. {start}")
    if isinstance(error, PermissionError):
        return Forbidden(
            f"this user may not open the socket {path}. Ask to be put into the group named by daemon.socket_group."
        )
    if error.errno == errno.EPROTOTYPE:
        return DaemonUnreachable(f"the socket {path} belongs to another program. Check daemon.socket.")
    if isinstance(error, ConnectionRefusedError):
        if not _is_socket(path):
            return DaemonUnreachable(f"{path} is not a socket. Check daemon.socket.")
        return DaemonUnreachable(f"the daemon is not running: it left the socket {path} behind. {start}")
    return DaemonUnreachable(f"the daemon cannot be reached at {path}: {error.strerror or error}. Check daemon.socket.")


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False
