"""Packets: what is sent arrives whole with its descriptors, and nothing else is taken or kept open."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import socket
import threading

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import ProtocolError, UsageError
from perdure.wire import packet
from perdure.wire.endpoint import BlockingEndpoint
from tests.wire.conftest import Pair

DECODER = msgspec.msgpack.Decoder()
LIMIT = 32 * 1024 * 1024


def send_raw(sock: socket.socket, data: bytes, fds: list[int]) -> None:
    """What a hostile or broken peer could send."""
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])


@pytest.mark.parametrize("size", [1, 1000, packet.INLINE_BYTES, packet.INLINE_BYTES + 1, 10_000_000])
def test_any_size_arrives_whole(pair: Pair, size: int) -> None:
    """A message around the limit of what a packet holds would be cut or refused."""
    data = b"\xc4" + os.urandom(size - 1)
    packet.send(pair[0], data)
    assert packet.receive(pair[1], LIMIT) == (data, [])


def test_descriptors_arrive_beside_a_large_message(pair: Pair) -> None:
    """The memfd that carries a large message would be mixed up with the descriptors that belong to it."""
    reader, writer = os.pipe()
    packet.send(pair[0], b"x" * 200_000, [writer])
    os.close(writer)
    received = packet.receive(pair[1], LIMIT, max_fds=1)
    assert received is not None
    os.write(received[1][0], b"hello")
    assert os.read(reader, 5) == b"hello"
    assert not os.get_inheritable(received[1][0])
    packet.close_all([reader, *received[1]])


def test_the_end_is_none(pair: Pair) -> None:
    """A closed connection would look like an error or a message."""
    pair[0].close()
    assert packet.receive(pair[1], LIMIT) is None


def test_last_words_survive_a_reset(pair: Pair) -> None:
    """What a worker sent before it died would be lost, because it had not read everything sent to it."""
    pair[1].send(b"unread")
    pair[0].send(packet.encode("last words"))
    pair[0].close()
    endpoint = BlockingEndpoint(pair[1], DECODER)
    assert endpoint.recv() == ("last words", [])
    assert endpoint.recv() is None


def blob(seals: int, content: bytes = b"\x01") -> int:
    """A memfd with these seals."""
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, content)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


@pytest.mark.parametrize("missing", [fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW, fcntl.F_SEAL_WRITE, fcntl.F_SEAL_SEAL])
def test_a_memfd_without_all_seals_is_refused(pair: Pair, missing: int) -> None:
    """A peer could change a message while it is read."""
    fd = blob(packet.SEALS & ~missing)
    send_raw(pair[0], packet.MARKER, [fd])
    os.close(fd)
    with pytest.raises(ProtocolError, match="not a sealed memfd"):
        packet.receive(pair[1], LIMIT)


def test_what_is_no_memfd_is_refused(pair: Pair) -> None:
    """A pipe in the place of a memfd would block the reader."""
    reader, writer = os.pipe()
    send_raw(pair[0], packet.MARKER, [reader])
    packet.close_all([reader, writer])
    with pytest.raises(ProtocolError, match="not a sealed memfd"):
        packet.receive(pair[1], LIMIT)


def test_an_empty_memfd_is_refused(pair: Pair) -> None:
    """An empty message would look like the end of the connection."""
    fd = blob(packet.SEALS, b"")
    send_raw(pair[0], packet.MARKER, [fd])
    os.close(fd)
    with pytest.raises(ProtocolError):
        packet.receive(pair[1], LIMIT)


def test_a_marker_alone_is_refused(pair: Pair) -> None:
    """A missing descriptor would be an IndexError."""
    pair[0].send(packet.MARKER)
    with pytest.raises(ProtocolError, match="without its descriptor"):
        packet.receive(pair[1], LIMIT)


@pytest.mark.parametrize("size", [2000, 200_000])
def test_more_than_the_limit_is_refused(pair: Pair, size: int) -> None:
    """A client could make the server hold any amount of memory."""
    packet.send(pair[0], b"x" * size)
    with pytest.raises(ProtocolError, match="the limit is 1,000"):
        packet.receive(pair[1], 1000)


def test_a_huge_sparse_memfd_costs_nothing(pair: Pair) -> None:
    """A terabyte that takes no room at the sender's would be read."""
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 1 << 40)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, packet.SEALS)
    send_raw(pair[0], packet.MARKER, [fd])
    os.close(fd)
    with pytest.raises(ProtocolError, match="is refused"):
        packet.receive(pair[1], packet.OWN_MESSAGE_BYTES)


def test_a_packet_that_was_cut_is_refused(pair: Pair) -> None:
    """Half a message would be taken for a whole one."""
    pair[0].send(b"x" * (packet.INLINE_BYTES + 1))
    with pytest.raises(ProtocolError, match="was cut"):
        packet.receive(pair[1], LIMIT)


@pytest.mark.parametrize("count", [1, packet.MOST_FDS, packet.MOST_FDS + 1, 200])
@pytest.mark.parametrize("data", [b"\xc0", b""])
def test_descriptors_that_nobody_expects_are_closed(pair: Pair, count: int, data: bytes) -> None:
    """A client could fill the daemon's descriptor table (the fixture counts what is left open)."""
    send_raw(pair[0], data, [pair[0].fileno()] * count)
    with pytest.raises(ProtocolError, match="descriptors"):
        packet.receive(pair[1], LIMIT)


@given(st.binary(max_size=200))
def test_decoding_garbage_is_always_a_protocol_error(data: bytes) -> None:
    """Bytes from outside would raise something that nobody catches."""
    decoder = msgspec.msgpack.Decoder(list[dict[str, int]])
    with contextlib.suppress(ProtocolError):
        packet.decode(decoder, data)


def test_decoding_a_deep_nest_is_a_protocol_error() -> None:
    """Ten thousand nested lists would end in a RecursionError."""
    with pytest.raises(ProtocolError, match="cannot be read"):
        packet.decode(DECODER, b"\x91" * 90_000)


def test_endpoints_talk(pair: Pair) -> None:
    """The nursery would get neither its questions nor the descriptors for a new worker."""
    with BlockingEndpoint(pair[0], DECODER) as here, BlockingEndpoint(pair[1], DECODER, max_fds=2) as there:
        here.send({"a": 1}, fds=[pair[0].fileno(), pair[1].fileno()])
        received = there.recv()
        assert received is not None
        assert received[0] == {"a": 1}
        assert len(received[1]) == 2
        packet.close_all(received[1])
        there.send("answer")
        assert here.recv() == ("answer", [])
    assert here.fileno() == there.fileno() == -1


def test_endpoint_closes_descriptors_of_what_it_cannot_decode(pair: Pair) -> None:
    """Garbage with descriptors would leak them."""
    send_raw(pair[0], b"\xc1\xc1", [pair[0].fileno()])
    send_raw(pair[0], b"\xa5abc", [pair[0].fileno()])
    endpoint = BlockingEndpoint(pair[1], DECODER)
    for _ in range(2):
        with pytest.raises(ProtocolError):
            endpoint.recv()


def test_endpoint_times_out_and_ends(pair: Pair) -> None:
    """A blocking client would wait for ever for a daemon that is stuck, or not notice that it is gone."""
    endpoint = BlockingEndpoint(pair[0], DECODER)
    with pytest.raises(TimeoutError):
        endpoint.recv(timeout_s=0.01)
    pair[1].close()
    assert endpoint.recv() is None
    with pytest.raises(BrokenPipeError):
        endpoint.send("anybody?")


def test_endpoint_waits_for_a_slow_reader(pair: Pair) -> None:
    """A full send buffer would lose messages or fail."""
    here, there = BlockingEndpoint(pair[0], DECODER), BlockingEndpoint(pair[1], DECODER)
    count = 200

    def write() -> None:
        for number in range(count):
            here.send([number, "x" * 50_000])

    writer = threading.Thread(target=write)
    writer.start()
    received = [there.recv() for _ in range(count)]
    writer.join()
    assert [one[0][0] for one in received if one] == list(range(count))


def test_sending_too_much_names_the_limit(pair: Pair) -> None:
    """The other side would end the connection; the sender would not know why."""
    endpoint = BlockingEndpoint(pair[0], DECODER, max_message_bytes=1000)
    with pytest.raises(UsageError, match="at most 1,000"):
        endpoint.send("x" * 1001)
