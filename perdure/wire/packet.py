"""One message as one packet of an AF_UNIX SOCK_SEQPACKET socket: no state, and no loop.

A message of up to `INLINE_BYTES` is the packet itself. A larger one is written into a sealed memfd; the packet is then
a marker byte (one that no msgpack document starts with) and carries the memfd's descriptor. Other descriptors may
travel along. Whatever descriptors arrive are closed here unless they are handed to the caller.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from perdure.errors import MessageTooLarge, ProtocolError, UsageError

T_co = TypeVar("T_co", covariant=True)

#: Messages above this travel in a memfd: well under the kernel's smallest usual send buffer (208 KiB).
INLINE_BYTES = 96 * 1024

#: The largest message between the supervisor and its own processes.
OWN_MESSAGE_BYTES = 256 * 1024 * 1024

#: The largest message that a server takes from a client.
CLIENT_MESSAGE_BYTES = 64 * 1024 * 1024

#: The byte that the msgpack specification never uses.
MARKER = b"\xc1"

#: How many bytes may wait in the kernel for a slow reader. The kernel lowers it to net.core.wmem_max.
SEND_BUFFER_BYTES = 1024 * 1024

#: More descriptors than this with one message are a protocol error.
MOST_FDS = 16

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL

#: MFD_NOEXEC_SEAL (Linux 6.3), which Python's os module does not name yet. Hardened kernels insist on it.
_MFD_NOEXEC_SEAL = 0x0008
_MFD_FLAGS = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
# One more: a large message comes in a descriptor of its own.
_ANCILLARY_BYTES = socket.CMSG_SPACE((MOST_FDS + 1) * array.array("i").itemsize)
_RIGHTS = (socket.SOL_SOCKET, socket.SCM_RIGHTS)
# As plain numbers: socket's own are enums, and `flags & socket.MSG_TRUNC` takes as long as receiving the message.
_NO_SIGNAL = int(socket.MSG_NOSIGNAL)
_CLOSE_ON_EXEC = int(socket.MSG_CMSG_CLOEXEC)
_PACKET_CUT = int(socket.MSG_TRUNC)
_DESCRIPTORS_CUT = int(socket.MSG_CTRUNC)

#: Any message as msgpack. Raises TypeError, UnicodeEncodeError, OverflowError or RecursionError for what is not data.
encode = msgspec.msgpack.Encoder().encode


class Decoder(Protocol[T_co]):
    """What turns the bytes of one message into an object: a msgspec.msgpack.Decoder."""

    def decode(self, data: bytes, /) -> T_co:
        """The object; raises msgspec.DecodeError."""
        ...


def set_buffers(sock: socket.socket) -> None:
    """Let the kernel hold more for a slow reader; SO_RCVBUF has no effect on unix sockets."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)


def check_size(data: bytes, max_message_bytes: int) -> None:
    """Raise MessageTooLarge if the other side would refuse this message for its size."""
    if len(data) > max_message_bytes:
        raise MessageTooLarge(
            f"the message has {len(data):,} bytes; at most {max_message_bytes:,} go into one. "
            "Split it, or pass paths instead of contents."
        )


def check_fds(fds: Sequence[int]) -> None:
    """Raise UsageError if these are too many for one message."""
    if len(fds) > MOST_FDS:
        raise UsageError(f"{len(fds)} descriptors with one message; at most {MOST_FDS} can go")


def send(sock: socket.socket, data: bytes, fds: Sequence[int] = ()) -> None:
    """Send one message with copies of `fds`. Raises OSError (BlockingIOError: nothing of it was sent)."""
    if len(data) <= INLINE_BYTES:
        if fds:
            send_packet(sock, data, fds)
        else:
            sock.send(data, _NO_SIGNAL)
        return
    blob = make_blob(data)
    try:
        send_packet(sock, MARKER, (blob, *fds))
    finally:
        os.close(blob)


def send_packet(sock: socket.socket, packet: bytes, fds: Sequence[int] = ()) -> None:
    """Send one packet as it is."""
    if fds:
        sock.sendmsg([packet], [(*_RIGHTS, array.array("i", fds))], _NO_SIGNAL)
    else:
        sock.send(packet, _NO_SIGNAL)


def receive(sock: socket.socket, max_message_bytes: int, max_fds: int = 0) -> tuple[bytes, list[int]] | None:
    """The next message and the descriptors that came with it (the caller's to close); None at the end.

    Raises BlockingIOError or TimeoutError as the socket does, and ProtocolError if what came is not a message. A
    ConnectionResetError comes when the other side went away without reading all we sent. The kernel says so once,
    before it hands out what that side had sent: the next call finds it, or the end.
    """
    data, ancillary, flags, _ = sock.recvmsg(INLINE_BYTES, _ANCILLARY_BYTES, _CLOSE_ON_EXEC)
    if not (ancillary or flags & (_PACKET_CUT | _DESCRIPTORS_CUT) or len(data) > max_message_bytes):
        if not data:
            return None
        if data[0] != MARKER[0]:
            return data, []  # nearly always
    fds = _descriptors(ancillary)
    try:
        _check_whole(flags, fds)
        if data[:1] == MARKER:
            data = _take_blob(fds, max_message_bytes)
        elif len(data) > max_message_bytes:
            raise _too_large(len(data), max_message_bytes)
        if len(fds) > max_fds:
            raise ProtocolError(f"{len(fds)} descriptors came with a message that may have {max_fds}")
    except BaseException:
        close_all(fds)
        raise
    if not data:
        close_all(fds)
        return None
    return data, fds


def decode(decoder: Decoder[T_co], data: bytes) -> T_co:
    """The message in `data`. Raises ProtocolError with the reason, whatever the bytes are."""
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, MemoryError, ValueError, OverflowError) as exc:
        raise ProtocolError(f"the message cannot be read: {str(exc) or type(exc).__name__}") from exc


def close_all(fds: Iterable[int]) -> None:
    """Close every one of these descriptors."""
    for fd in fds:
        os.close(fd)


def make_blob(data: bytes | memoryview) -> int:
    """A sealed memfd with this content; the caller closes it. Raises OSError when there is no memory or descriptor."""
    fd = _memfd()
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def read_blob(fd: int, max_message_bytes: int) -> bytes:
    """The content of a sealed memfd. Raises ProtocolError if its owner could still change it, or if it is too large.

    It is read and never mapped: a page that cannot be loaded is then an error and not a SIGBUS.
    """
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        seals = 0
    if seals & SEALS != SEALS:
        raise ProtocolError("a large message came in something that is not a sealed memfd")
    size = os.fstat(fd).st_size
    if size > max_message_bytes:
        raise _too_large(size, max_message_bytes)
    data = os.pread(fd, size, 0)
    if len(data) != size or not size:
        raise ProtocolError(f"a large message of {size} bytes could be read only up to byte {len(data)}")
    return data


def _memfd() -> int:
    try:
        return os.memfd_create("perdure-message", _MFD_FLAGS | _MFD_NOEXEC_SEAL)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
    return os.memfd_create("perdure-message", _MFD_FLAGS)


def _take_blob(fds: list[int], max_message_bytes: int) -> bytes:
    if not fds:
        raise ProtocolError("a large message came without its descriptor")
    blob = fds.pop(0)
    try:
        return read_blob(blob, max_message_bytes)
    finally:
        os.close(blob)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds: Any = array.array("i")
    for level, kind, payload in ancillary:
        if (level, kind) == _RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return list(fds)


def _check_whole(flags: int, fds: list[int]) -> None:
    if flags & _PACKET_CUT:
        raise ProtocolError(f"a packet larger than {INLINE_BYTES} bytes was cut; larger messages go into a memfd")
    if flags & _DESCRIPTORS_CUT:
        raise ProtocolError(f"descriptors were lost ({len(fds)} arrived): too many in one message, or open here")


def _too_large(size: int, limit: int) -> ProtocolError:
    return ProtocolError(f"a message of {size:,} bytes is refused; the limit is {limit:,}")
