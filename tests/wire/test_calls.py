"""Calls from client to server over a real socket, on both kinds of loop."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perdure.errors import CallTimeout, ChannelClosed, DaemonStopping, Forbidden, NotFound, ProtocolError, UsageError
from perdure.wire import packet
from perdure.wire.calls import connect
from perdure.wire.control import GetJob, GetStatus, ListQueues, PauseQueue, RetryJobs, WaitJobs
from perdure.wire.data import Verdict
from perdure.wire.endpoint import BlockingEndpoint
from perdure.wire.envelope import Call, Cancel, Event, Fault, Reply
from perdure.wire.peer import Peer
from perdure.wire.session import PENDING_BYTES
from tests.support.wait import async_wait_until
from tests.wire.conftest import Run
from tests.wire.office import LIST, Office, serving, shut


def test_answers_have_their_types(run: Run, path: Path) -> None:
    """A value, a coroutine's result and a Future's would not come back as what control.REPLIES promises."""

    async def work() -> None:
        office = Office()
        server, caller = serving(path, office), await connect(str(path))
        assert await caller.request(PauseQueue("q")) is None
        assert await caller.request(RetryJobs([1, 2]), 5) == [Verdict(1), Verdict(2)]
        assert (await caller.request(ListQueues()))[0].name == "q" * 100_000
        waiting = asyncio.ensure_future(caller.request(LIST))
        await async_wait_until(lambda: office.futures)
        office.futures[0].set_result([])
        assert await waiting == []
        await shut(server, caller)

    run(work())


def test_faults_come_out_as_their_class(run: Run, path: Path) -> None:
    """The client would not know what went wrong; an answer that cannot be encoded would never come."""

    async def work() -> None:
        reports: list[Exception] = []
        server = serving(path, Office(), report=lambda _, error: reports.append(error))
        caller = await connect(str(path))
        with pytest.raises(NotFound, match="no job 7"):
            await caller.request(GetJob(7))
        with pytest.raises(Exception, match="TypeError: Encoding objects of type object"):
            await caller.request(GetStatus())
        assert [type(error) for error in reports] == [TypeError]
        await shut(server, caller)

    run(work())


@pytest.mark.parametrize("how", ["timeout", "cancel", "disconnect"])
def test_the_handler_stops_when_nobody_waits(run: Run, path: Path, how: str) -> None:
    """A call that was given up would run on in the daemon."""

    async def work() -> None:
        office = Office()
        server, caller = serving(path, office), await connect(str(path))
        waiting = asyncio.ensure_future(caller.request(WaitJobs([1]), 0.05 if how == "timeout" else None))
        await async_wait_until(lambda: office.begun)
        expected: type[BaseException] = CallTimeout
        if how == "cancel":
            waiting.cancel()
            expected = asyncio.CancelledError
        elif how == "disconnect":
            caller.close()
            expected = ChannelClosed
        with pytest.raises(expected):
            await waiting
        assert len(caller.pending) == 0
        await async_wait_until(lambda: office.cancelled == 1 and server.calls_in_flight == 0)
        await shut(server, caller)

    run(work())


def test_the_servers_deadline_holds_without_the_clients(run: Run, path: Path) -> None:
    """A client that does not cancel would keep its calls for ever."""

    async def work() -> None:
        office = Office()
        server, client = serving(path, office), raw_client(path)
        client.send(packet.encode(Call(1, 10, WaitJobs([1]))))
        fault = await raw_fault(client)
        assert (fault.id, fault.error.type) == (1, "CallTimeout")
        await async_wait_until(lambda: office.cancelled == 1 and server.calls_in_flight == 0)
        # And that was the only answer to it.
        client.send(packet.encode(Call(2, None, GetJob(1))))
        assert (await raw_fault(client)).id == 2
        client.close()
        await shut(server)

    run(work())


def test_a_call_that_the_daemon_drops_is_answered(run: Run, path: Path) -> None:
    """A Future that the daemon cancels by itself would leave the client waiting."""

    async def work() -> None:
        office = Office()
        server, caller = serving(path, office), await connect(str(path))
        waiting = asyncio.ensure_future(caller.request(LIST))
        await async_wait_until(lambda: office.futures)
        office.futures[0].cancel()
        with pytest.raises(DaemonStopping):
            await waiting
        await shut(server, caller)

    run(work())


def test_closing_the_server_ends_everything(run: Run, path: Path) -> None:
    """Stopping would hang on clients, or leave the socket file."""

    async def work() -> None:
        office = Office()
        ends: list[Exception | None] = []
        server, caller = serving(path, office), await connect(str(path), on_close=ends.append)
        waiting = asyncio.ensure_future(caller.request(WaitJobs([1])))
        await async_wait_until(lambda: office.begun)
        await shut(server)
        assert not path.exists()
        with pytest.raises(ChannelClosed):
            await waiting
        with pytest.raises(ChannelClosed):
            await caller.request(PauseQueue("q"))
        assert len(ends) == 1

    run(work())


def raw_client(path: Path) -> socket.socket:
    """A connection without our code on this side."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(5)
    sock.connect(str(path))
    return sock


async def raw_fault(sock: socket.socket) -> Fault:
    """The next message, which must be a Fault."""
    endpoint = BlockingEndpoint(sock, msgspec.msgpack.Decoder(Fault | Reply))
    received = await asyncio.to_thread(endpoint.recv, 5)
    assert received is not None
    assert isinstance(received[0], Fault)
    return received[0]


GARBAGE = [
    b"\xff",
    b"\xc1",
    b"GET / HTTP/1.1\r\n\r\n",
    packet.encode({"type": "call"}),
    packet.encode(Call(1, None, {"type": "unknown"})),
    packet.encode(Call(1, None, {"type": "get", "id": "seven"})),
    packet.encode(Call(0, None, GetJob(1))),
    packet.encode(Call(1, -5, GetJob(1))),
    packet.encode(Event(None)),
    b"\x91" * 50_000,
    b"x" * (packet.INLINE_BYTES + 1),
]


@pytest.mark.parametrize("data", GARBAGE)
def test_garbage_is_answered_and_the_client_sent_away(run: Run, path: Path, data: bytes) -> None:
    """A foreign or hostile client would disturb the daemon, or an old client not learn why it is refused."""

    async def work() -> None:
        reports: list[Exception] = []
        server = serving(path, Office(), report=lambda _, error: reports.append(error))
        client = raw_client(path)
        client.send(data)
        fault = await raw_fault(client)
        assert (fault.id, fault.error.type) == (0, "ProtocolError")
        assert await asyncio.to_thread(client.recv, 10) == b""
        assert [type(error) for error in reports] == [ProtocolError]
        client.close()
        good = await connect(str(path))
        assert await good.request(PauseQueue("q")) is None
        await shut(server, good)

    run(work())


def test_a_call_id_used_twice_is_refused(run: Run, path: Path) -> None:
    """Two calls with one id would share an answer, and one of them never end."""

    async def work() -> None:
        server, client = serving(path, Office()), raw_client(path)
        for _ in range(2):
            client.send(packet.encode(Call(5, None, LIST)))
        fault = await raw_fault(client)
        assert (fault.id, fault.error.type) == (0, "ProtocolError")
        client.close()
        await shut(server)

    run(work())


def test_an_oversize_request_is_refused_by_both_sides(run: Run, path: Path) -> None:
    """A client could fill the daemon's memory; an honest one would only see its connection end."""

    async def work() -> None:
        server, caller = serving(path, Office(), max_message_bytes=100_000), await connect(str(path))
        with pytest.raises(UsageError, match="Split it"):
            await caller.request(PauseQueue("q" * packet.CLIENT_MESSAGE_BYTES))
        assert await caller.request(PauseQueue("q")) is None
        with pytest.raises(ProtocolError, match="the limit is 100,000"):
            await caller.request(PauseQueue("q" * 200_000))
        await shut(server, caller)

    run(work())


def test_a_peer_that_may_not_connect_hears_why(run: Run, path: Path) -> None:
    """Anyone on the machine could use the daemon; who may not would see a bare disconnect."""

    async def work() -> None:
        seen: list[Peer] = []

        def nobody(peer: Peer) -> bool:
            seen.append(peer)
            return False

        server = serving(path, Office(), may_connect=nobody)
        caller = await connect(str(path))
        with pytest.raises(Forbidden, match=r"daemon\.socket_group"):
            await caller.request(PauseQueue("q"))
        with pytest.raises(Forbidden):
            await caller.request(PauseQueue("q"))
        assert server.clients == []
        assert len(seen) == 1
        await shut(server, caller)

    run(work())


def test_one_client_too_many_is_told_so(run: Run, path: Path) -> None:
    """Clients that never leave would use up the daemon's descriptors."""

    async def work() -> None:
        server = serving(path, Office(), max_clients=1)
        first = await connect(str(path))
        assert await first.request(PauseQueue("q")) is None
        second = await connect(str(path))
        with pytest.raises(Exception, match="has 1 clients"):
            await second.request(PauseQueue("q"))
        first.close()
        await async_wait_until(lambda: not server.clients)
        third = await connect(str(path))
        assert await third.request(PauseQueue("q")) is None
        await shut(server, second, third)

    run(work())


async def have_begun(office: Office, count: int) -> None:
    """Wait until so many calls wait for a Future."""
    await async_wait_until(lambda: len(office.futures) == count)


def test_too_many_calls_in_flight_wait_their_turn(run: Run, path: Path) -> None:
    """One client could make the daemon hold any number of calls."""

    async def work() -> None:
        office = Office()
        server, caller = serving(path, office, max_calls=4), await connect(str(path))
        calls = [asyncio.ensure_future(caller.request(LIST)) for _ in range(20)]
        answered = 0
        while answered < 20:
            await have_begun(office, min(answered + 4, 20))
            assert server.calls_in_flight <= 4
            for future in office.futures[answered:]:
                future.set_result([])
                answered += 1
        assert await asyncio.gather(*calls) == [[]] * 20
        await shut(server, caller)

    run(work())


def ask_often(client: socket.socket, count: int) -> None:
    """Ask and do not read the answers."""
    for number in range(count):
        client.send(packet.encode(Call(number + 1, None, ListQueues())))


def test_a_client_that_does_not_read_is_not_read(run: Run, path: Path) -> None:
    """The answers for a client that only asks would pile up in the daemon's memory."""

    async def work() -> None:
        begun = 0

        def verbose(request: object, peer: Peer) -> str:
            nonlocal begun
            begun += 1
            return "x" * 90_000

        server, client, count = serving(path, verbose), raw_client(path), 150
        asking = asyncio.ensure_future(asyncio.to_thread(ask_often, client, count))
        peer = (await async_wait_until(lambda: server.clients))[0]
        await async_wait_until(lambda: server.pending_bytes(peer) > PENDING_BYTES)
        other = await connect(str(path))
        await other.call(ListQueues())
        assert begun < count
        assert server.pending_bytes(peer) < 2 * PENDING_BYTES
        other.close()
        endpoint = BlockingEndpoint(client, msgspec.msgpack.Decoder(Reply))
        for number in range(count):
            received = await asyncio.to_thread(endpoint.recv, 5)
            assert received is not None
            assert received[0].id == number + 1
        await asking
        endpoint.close()
        await shut(server)

    run(work())


def test_events_go_both_ways(run: Run, path: Path) -> None:
    """Subscriptions would have nothing to stand on."""

    async def work() -> None:
        heard: list[Any] = []
        told: list[bytes] = []
        decoder = msgspec.msgpack.Decoder(Call[str] | Cancel | Event[str])
        server = serving(path, Office(), decoder=decoder, on_event=lambda body, _: heard.append(body))
        caller = await connect(str(path), on_event=lambda body: told.append(bytes(body)))
        assert caller.event("to the server")
        await async_wait_until(lambda: heard == ["to the server"])
        assert server.send(server.clients[0], Event("to the client"))
        await async_wait_until(lambda: told == [packet.encode("to the client")])
        peer = server.clients[0]
        await shut(server, caller)
        assert not server.send(peer, Event("nobody there"))

    run(work())
