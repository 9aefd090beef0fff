"""Descriptors that travel with messages, and what becomes of them when something goes wrong; the fixture counts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perdure.errors import CallTimeout, NotFound, ProtocolError, UsageError
from perdure.wire import packet
from perdure.wire.blocking import BlockingCaller
from perdure.wire.calls import connect
from perdure.wire.channel import Channel
from perdure.wire.control import AttachPort, Enqueue, GetJob, GetResult, Ping, PortView, ResultView, WaitJobs
from perdure.wire.data import JobSpec
from perdure.wire.endpoint import BlockingEndpoint
from perdure.wire.envelope import Call, Reply, WithDescriptors
from perdure.wire.peer import Peer
from perdure.wire.server import Server
from tests.support.wait import async_wait_until
from tests.wire.conftest import Pair, Run, open_fds
from tests.wire.office import anybody, shut
from tests.wire.test_calls import raw_client, raw_fault


def read_pipe(text: bytes) -> int:
    """The reading end of a pipe in which this text waits."""
    reader, writer = os.pipe()
    os.write(writer, text)
    os.close(writer)
    return reader


def take_in(fds: Sequence[int]) -> bytes:
    """What can be read from these, which are closed."""
    text = b""
    for fd in fds:
        text += os.read(fd, 100)
        os.close(fd)
    return text


class Cloakroom:
    """A handler that takes descriptors and gives some out; `came` is what it read from those that it took."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.gone: list[Peer] = []
        self.server = Server(str(path), self, anybody, on_gone=self.gone.append, **options)
        self.server.start()
        self.came: list[bytes] = []
        self.late: list[asyncio.Future[Any]] = []
        self.waiting = 0
        self.dropped = 0

    def __call__(self, request: object, peer: Peer) -> Any:
        """Some requests take what came, some leave it, some give."""
        match request:
            case Enqueue():
                self.came.append(take_in(self.server.take_fds(peer)))
                assert self.server.take_fds(peer) == []
                return []
            case GetJob():
                take_in(self.server.take_fds(peer))
                raise NotFound
            case WaitJobs():
                return self._hold(self.server.take_fds(peer))
            case GetResult():
                return WithDescriptors(ResultView(), [read_pipe(b"result")])
            case AttachPort(number):
                self.late.append(asyncio.get_running_loop().create_future())
                if number == 2:
                    return self._in_time(self.late[-1])
                return self.late[-1]
        return None

    async def _hold(self, fds: list[int]) -> None:
        self.waiting += 1
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.dropped += 1
            packet.close_all(fds)

    async def _in_time(self, future: asyncio.Future[Any]) -> Any:
        with contextlib.suppress(asyncio.CancelledError):
            await future
        return WithDescriptors(PortView(2), [read_pipe(b"too late")])


def test_descriptors_go_both_ways(run: Run, path: Path) -> None:
    """Payloads, results and ports would have to be copied through the daemon."""

    async def work() -> None:
        room, caller = Cloakroom(path), await connect(str(path))
        fds = [read_pipe(b"one "), read_pipe(b"two")]
        assert await caller.request(Enqueue([]), 5, fds) == []
        packet.close_all(fds)
        assert room.came == [b"one two"]
        answer, received = await caller.request_with_fds(GetResult(1))
        assert isinstance(answer, ResultView)
        assert take_in(received) == b"result"
        # Who does not ask for them need not close them.
        assert isinstance(await caller.request(GetResult(1)), ResultView)
        await shut(room.server, caller)

    run(work())


def test_a_large_message_takes_as_many_as_a_small_one(run: Run, path: Path) -> None:
    """The descriptor that a large message itself travels in would push out one of the client's."""

    async def work() -> None:
        room, caller = Cloakroom(path), await connect(str(path))
        fds = [read_pipe(b"x") for _ in range(packet.MOST_FDS)]
        assert await caller.request(Enqueue([JobSpec("k", "x" * 200_000)]), None, fds) == []
        assert await caller.request(Enqueue([]), None, fds) == []
        assert room.came[0] == b"x" * packet.MOST_FDS
        with pytest.raises(UsageError, match="17 descriptors"):
            await caller.request(Ping(), None, [*fds, fds[0]])
        assert len(caller.pending) == 0
        packet.close_all(fds)
        await shut(room.server, caller)

    run(work())


@pytest.mark.parametrize("request_", [Ping(), GetJob(1)], ids=["nobody takes them", "taken before it fails"])
def test_descriptors_on_the_wrong_message_are_closed(run: Run, path: Path, request_: object) -> None:
    """Any client could use up the daemon's descriptors with requests that have no use for them."""

    async def work() -> None:
        room, caller = Cloakroom(path), await connect(str(path))
        fd = read_pipe(b"x")
        await caller.request(Ping())
        before = open_fds()
        for _ in range(20):
            with contextlib.suppress(NotFound):
                await caller.request(request_, None, [fd] * packet.MOST_FDS)
        assert open_fds() == before
        os.close(fd)
        await shut(room.server, caller)

    run(work())


def send_fds(client: socket.socket, data: bytes, count: int) -> None:
    """Send this packet with so many descriptors."""
    fd = read_pipe(b"x")
    packet.send_packet(client, data, [fd] * count)
    os.close(fd)


@pytest.mark.parametrize(
    ("count", "data"),
    [
        (packet.MOST_FDS + 1, packet.encode(Call(1, None, Ping()))),
        (200, packet.encode(Call(1, None, Ping()))),
        (5, b"\xff"),
        (5, packet.encode(Call(1, None, "nonsense"))),
        (5, packet.MARKER),
    ],
    ids=["one too many", "far too many", "garbage", "no request", "not a memfd"],
)
def test_abuse_is_answered_with_a_reason_and_leaks_nothing(run: Run, path: Path, count: int, data: bytes) -> None:
    """A hostile client would leave its descriptors in the daemon."""

    async def work() -> None:
        room, client = Cloakroom(path), raw_client(path)
        await async_wait_until(lambda: room.server.clients)
        before = open_fds()
        send_fds(client, data, count)
        fault = await raw_fault(client)
        assert (fault.id, fault.error.type) == (0, "ProtocolError")
        await async_wait_until(lambda: room.gone)
        assert len(open_fds()) == len(before) - 1
        client.close()
        await shut(room.server)

    run(work())


def test_an_empty_packet_with_descriptors_is_the_end(run: Run, path: Path) -> None:
    """A zero-byte packet reads like the end of the connection; what came with it would stay."""

    async def work() -> None:
        room, client = Cloakroom(path), raw_client(path)
        send_fds(client, b"", 3)
        await async_wait_until(lambda: room.gone)
        client.close()
        await shut(room.server)

    run(work())


@pytest.mark.parametrize("how", ["disconnect", "cancel", "deadline"])
def test_a_handler_that_holds_some_can_close_them_when_nobody_waits(run: Run, path: Path, how: str) -> None:
    """A producer that waits for room with its payload in hand, and goes, would leave the payload behind."""

    async def work() -> None:
        room, caller = Cloakroom(path), await connect(str(path))
        fd = read_pipe(b"x")
        await caller.request(Ping())
        before = open_fds()
        call = asyncio.ensure_future(caller.request(WaitJobs([1]), 0.05 if how == "deadline" else None, [fd, fd]))
        await async_wait_until(lambda: room.waiting)
        assert len(open_fds()) == len(before) + 2
        if how == "disconnect":
            caller.close()
        elif how == "cancel":
            call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await async_wait_until(lambda: room.dropped)
        assert len(open_fds()) == len(before) - 2 * (how == "disconnect")
        os.close(fd)
        await shut(room.server, caller)

    run(work())


def test_a_client_that_dies_before_it_is_read_leaves_nothing(run: Run, path: Path) -> None:
    """Descriptors that wait in the kernel for a busy daemon would stay in its table when they arrive."""

    async def work() -> None:
        room = Cloakroom(path, max_calls=1)
        client = raw_client(path)
        client.send(packet.encode(Call(1, None, WaitJobs([1]))))
        await async_wait_until(lambda: room.waiting)
        for number in range(2, 10):
            send_fds(client, packet.encode(Call(number, None, Enqueue([]))), 4)
        client.close()
        await async_wait_until(lambda: room.gone and room.dropped)
        assert room.came == []
        await shut(room.server)

    run(work())


@pytest.mark.parametrize("number", [1, 2], ids=["a future", "a handler that ignores its cancellation"])
def test_an_answer_that_nobody_wants_any_more_is_closed(run: Run, path: Path, number: int) -> None:
    """A port or a result for a client that has gone would stay open in the daemon."""

    async def work() -> None:
        room, caller = Cloakroom(path), await connect(str(path))
        for _ in range(3):
            call = asyncio.ensure_future(caller.request_with_fds(AttachPort(number)))
            await async_wait_until(lambda: len(room.late) == 1)
            future = room.late.pop()
            if number == 1:
                # Before the cancellation arrives: the answer goes out, and nobody waits for it there.
                future.set_result(WithDescriptors(PortView(1), [read_pipe(b"too late")]))
            call.cancel()
            await asyncio.wait([call])
        assert await caller.request(Ping()) is None
        await async_wait_until(lambda: room.server.calls_in_flight == 0)
        await shut(room.server, caller)

    run(work())


def test_an_answer_that_arrives_as_its_caller_gives_up_is_closed(run: Run, path: Path) -> None:
    """A task that is cancelled in the moment between the answer's arrival and its own turn would leak the answer."""

    async def work() -> None:
        room, caller = Cloakroom(path), await connect(str(path))
        call = asyncio.ensure_future(caller.request_with_fds(GetResult(1)))
        deliver = caller.channel._on_message

        def deliver_and_cancel(message: Any) -> None:
            deliver(message)
            call.cancel()

        caller.channel._on_message = deliver_and_cancel
        await asyncio.wait([call])
        assert call.cancelled()
        caller.channel._on_message = deliver
        assert await caller.request(Ping()) is None
        await shut(room.server, caller)

    run(work())


def test_an_answer_of_the_wrong_type_is_closed(run: Run, path: Path) -> None:
    """The descriptor of an answer that cannot be read would stay open in the client."""

    async def work() -> None:
        room, caller = Cloakroom(path), await connect(str(path))
        with pytest.raises(ProtocolError):
            await caller.call_with_fds(GetResult(1), reply=int)
        await shut(room.server, caller)

    run(work())


def test_a_client_that_does_not_take_its_answers_gets_no_more(run: Run, path: Path) -> None:
    """One client could fill the kernel's table of descriptors on their way, and stop the supervisor from forking."""

    async def work() -> None:
        room, client = Cloakroom(path), raw_client(path)
        for number in range(1, 51):
            client.send(packet.encode(Call(number, None, GetResult(1))))
        other = await connect(str(path))
        assert await other.request(Ping()) is None
        waiting = 0
        endpoint = BlockingEndpoint(client, msgspec.msgpack.Decoder(Reply), max_fds=packet.MOST_FDS)
        with contextlib.suppress(BlockingIOError):
            while (came := endpoint.recv(0)) is not None:
                packet.close_all(came[1])
                waiting += 1
        assert waiting < 10
        for _ in range(50 - waiting):
            came = await asyncio.to_thread(endpoint.recv, 5)
            assert came is not None
            assert take_in(came[1]) == b"result"
        endpoint.close()
        await shut(room.server, other)

    run(work())


def test_who_was_served_is_gone_once(run: Run, path: Path) -> None:
    """What the daemon keeps for a client would stay, or be taken from another; an error there stop the server."""

    async def work() -> None:
        reports: list[Exception] = []
        gone: list[Peer] = []

        def on_gone(peer: Peer) -> None:
            gone.append(peer)
            raise ValueError

        server = Server(
            str(path), lambda _r, _p: None, anybody, on_gone=on_gone, report=lambda _, error: reports.append(error),
            max_clients=2,
        )  # fmt: skip
        server.start()
        first, second, third = [await connect(str(path)) for _ in range(3)]
        assert await first.request(Ping()) is None
        assert await second.request(Ping()) is None
        peers = server.clients
        with pytest.raises(Exception, match="2 clients"):
            await third.request(Ping())
        first.close()
        await async_wait_until(lambda: gone)
        await shut(server, second, third)
        assert set(gone) == set(peers)
        assert len(gone) == 2
        assert [type(error).__name__ for error in reports] == ["DaemonUnreachable", "ValueError", "ValueError"]

    run(work())


def test_a_channel_without_leave_takes_none(run: Run, pair: Pair) -> None:
    """A worker could put descriptors into the supervisor with messages that have none."""

    async def work() -> None:
        ends: list[Exception | None] = []
        Channel(pair[0], msgspec.msgpack.Decoder(), lambda _: None, ends.append)
        send_fds(pair[1], packet.encode("x"), 1)
        await async_wait_until(lambda: ends)
        assert isinstance(ends[0], ProtocolError)

    run(work())


def test_the_blocking_client_passes_them_too(path: Path) -> None:
    """The command line could hand over no payload and fetch no result."""
    ready, done = threading.Event(), threading.Event()
    came: list[bytes] = []

    async def serve() -> None:
        room = Cloakroom(path)
        ready.set()
        await asyncio.to_thread(done.wait, 20)
        came.extend(room.came)
        await shut(room.server)

    thread = threading.Thread(target=asyncio.run, args=[serve()])
    thread.start()
    ready.wait(10)
    fd = read_pipe(b"payload")
    with BlockingCaller.connect(str(path)) as caller:
        assert caller.request(Enqueue([]), 5, [fd]) == []
        answer, received = caller.request_with_fds(GetResult(1), 5)
        assert isinstance(answer, ResultView)
        assert take_in(received) == b"result"
        assert isinstance(caller.request(GetResult(1)), ResultView)
        with pytest.raises(CallTimeout):
            caller.request(WaitJobs([1]), 0.05, [fd])
        with pytest.raises(UsageError):
            caller.request(Ping(), None, [fd] * 17)
    os.close(fd)
    done.set()
    thread.join()
    assert came == [b"payload"]
