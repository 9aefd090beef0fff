"""The listening end of a unix socket: making its file, and taking it away again."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import socket
import stat

from perdure.errors import ConfigError
from perdure.wire import reach

#: Connections that may wait to be accepted.
BACKLOG = 128


class SocketFile:
    """The file of a listening socket. It is removed only if it is still the one that was made."""

    def __init__(self, path: str) -> None:
        self.path = path
        found = os.lstat(path)
        self._identity = (found.st_dev, found.st_ino)

    def remove(self) -> None:
        """Remove the file, unless another process has put its own there meanwhile."""
        with contextlib.suppress(FileNotFoundError):
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) == self._identity:
                os.unlink(self.path)


def listen(path: str, mode: int, group: str) -> tuple[socket.socket, SocketFile]:
    """Listen at `path`. A socket file that a dead daemon left there is replaced; anything else there is not touched.

    Nobody can connect before mode and group are as they should be. Raises ConfigError.
    """
    reach.check_path(path)
    group_id = _group_id(group)
    _clear_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    file = None
    try:
        sock.bind(path)
        file = SocketFile(path)
        if group_id is not None:
            os.chown(path, -1, group_id, follow_symlinks=False)
        os.chmod(path, mode)
        sock.listen(BACKLOG)
    except OSError as exc:
        sock.close()
        if file is not None:
            file.remove()
        reason = exc.strerror or str(exc)
        raise ConfigError(f"cannot listen at {path}: {reason}. Check daemon.socket and daemon.socket_group.") from exc
    return sock, file


def _group_id(group: str) -> int | None:
    if not group:
        return None
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigError(f"daemon.socket_group: there is no group {group!r} on this machine") from None


def _clear_stale(path: str) -> None:
    try:
        found = os.lstat(path)
    except OSError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigError(f"daemon.socket: {path} exists and is not a socket. Remove it or choose another path.")
    if _somebody_listens(path):
        raise ConfigError(f"daemon.socket: another process listens at {path}. Stop it or choose another path.")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _somebody_listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as sock:
        sock.setblocking(False)
        try:
            sock.connect(path)
        except OSError as exc:
            return exc.errno not in (errno.ECONNREFUSED, errno.ENOENT)
    return True
