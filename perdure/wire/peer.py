"""Who is at the other end of a unix socket, as the kernel vouches for it."""

from __future__ import annotations

import array
import os
import pwd
import socket
import struct
from collections.abc import Callable

_UCRED = struct.Struct("iII")

#: SO_PEERGROUPS (Linux 4.13), which Python's socket module does not name; the same number on x86-64 and arm64.
_SO_PEERGROUPS = 59

#: The most that Python's getsockopt takes: 256 groups.
_GROUPS_BYTES = 1024


class Peer:
    """One connected client: process id, user id and group id at the moment it connected."""

    __slots__ = ("_groups", "gid", "pid", "uid")

    def __init__(self, pid: int, uid: int, gid: int, groups: frozenset[int] | None = None) -> None:
        self.pid = pid
        self.uid = uid
        self.gid = gid
        self._groups = groups

    @property
    def groups(self) -> frozenset[int]:
        """All group ids. Looked up in the user database only if the kernel did not tell."""
        if self._groups is None:
            self._groups = _groups_of_user(self.uid, self.gid)
        return self._groups

    def __repr__(self) -> str:
        return f"Peer(pid={self.pid}, uid={self.uid}, gid={self.gid})"


def peer_of(sock: socket.socket) -> Peer:
    """The other end of this connected unix socket. Raises OSError."""
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Peer(pid, uid, gid, _groups_of_socket(sock, gid))


def owner_or_group(owner_uid: int, group_id: int | None = None) -> Callable[[Peer], bool]:
    """The rule of the control socket: the owner, root, and who is in the configured group."""

    def may_connect(peer: Peer) -> bool:
        if peer.uid in (0, owner_uid):
            return True
        return group_id is not None and group_id in peer.groups

    return may_connect


def _groups_of_socket(sock: socket.socket, gid: int) -> frozenset[int] | None:
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError:
        return None
    groups = array.array("I")
    groups.frombytes(raw)
    return frozenset((gid, *groups))


def _groups_of_user(uid: int, gid: int) -> frozenset[int]:
    try:
        name = pwd.getpwuid(uid).pw_name
        return frozenset((gid, *os.getgrouplist(name, gid)))
    except (KeyError, OSError):
        return frozenset((gid,))
