"""The channel on both kinds of loop: order, back-pressure, one end."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import socket
from typing import Any

import msgspec
import pytest

from perdure.errors import ProtocolError, UsageError
from perdure.wire import channel, packet
from perdure.wire.channel import Channel
from perdure.wire.endpoint import BlockingEndpoint
from perdure.wire.envelope import Fault
from perdure.wire.faults import to_data
from tests.support.wait import async_wait_until
from tests.wire.conftest import Pair, Run

DECODER = msgspec.msgpack.Decoder()


class Recorder:
    """A channel and all that it said."""

    def __init__(self, sock: socket.socket, **options: Any) -> None:
        self.messages: list[Any] = []
        self.ends: list[Exception | None] = []
        self.channel: Channel[Any] = Channel(sock, DECODER, self.messages.append, self.ends.append, **options)


def test_messages_arrive_in_order_through_a_slow_reader(run: Run, pair: Pair) -> None:
    """When the kernel's buffer is full, later messages would overtake earlier ones or be lost."""

    async def work() -> None:
        sender = Recorder(pair[0])
        numbers = range(400)
        for number in numbers:
            # Small, large and memfd messages, so that only some of them meet a full buffer.
            assert sender.channel.send([number, "x" * (number % 3 * 60_000)])
        assert sender.channel.pending_bytes > 0
        reader = Recorder(pair[1])
        await async_wait_until(lambda: len(reader.messages) == len(numbers))
        assert [message[0] for message in reader.messages] == list(numbers)
        assert sender.channel.pending_bytes == 0
        sender.channel.close()
        reader.channel.close()

    run(work())


def test_who_does_not_look_for_more_gets_it_all_the_same(run: Run, pair: Pair) -> None:
    """What comes together with a message would wait until something else comes; and an end would not be seen."""

    async def work() -> None:
        reader = Recorder(pair[1])
        reader.channel.look_for_more = False
        with BlockingEndpoint(pair[0], DECODER) as sender:
            for number in range(40):
                sender.send(number)
            await async_wait_until(lambda: len(reader.messages) == 40)
            assert reader.messages == list(range(40))
            sender.send("last")
        await async_wait_until(lambda: reader.ends)
        assert (reader.messages[-1], reader.ends) == ("last", [None])

    run(work())


def test_who_does_not_look_for_more_hears_the_last_words_of_one_that_breaks_off(run: Run, pair: Pair) -> None:
    """An end with unread messages is an error to the kernel, and comes before what had been sent."""

    async def work() -> None:
        reader = Recorder(pair[1])
        reader.channel.look_for_more = False
        with BlockingEndpoint(pair[0], DECODER) as sender:
            reader.channel.send("never read")
            for number in range(40):
                sender.send(number)
        await async_wait_until(lambda: reader.ends)
        assert (reader.messages, reader.ends) == (list(range(40)), [None])

    run(work())


def test_descriptors_survive_the_wait_in_the_queue(run: Run, pair: Pair) -> None:
    """The caller closes its own descriptors at once; a queued message would carry others that got their numbers."""

    async def work() -> None:
        drained = asyncio.Event()
        sender = Recorder(pair[0], on_drained=drained.set)
        while not sender.channel.pending_bytes:
            sender.channel.send("x" * 90_000)
        reader, writer = os.pipe()
        sender.channel.send("pipe", [writer])
        os.close(writer)
        taker = BlockingEndpoint(pair[1], DECODER)
        received = await asyncio.to_thread(take_until, taker, "pipe")
        await drained.wait()
        os.write(received[0], b"through")
        assert os.read(reader, 10) == b"through"
        packet.close_all([reader, *received])
        sender.channel.close()

    run(work())


def take_until(endpoint: BlockingEndpoint[Any], message: object) -> list[int]:
    """Read up to this message; its descriptors."""
    while (received := endpoint.recv()) is not None:
        if received[0] == message:
            return received[1]
    raise AssertionError("the other side ended")


def test_queued_descriptors_are_closed_with_the_channel(run: Run, pair: Pair) -> None:
    """Closing with a full queue would leak (the fixture counts)."""

    async def work() -> None:
        sender = Recorder(pair[0])
        while not sender.channel.pending_bytes:
            sender.channel.send("x" * 200_000)
        sender.channel.send("more", [0, 1, 2])
        sender.channel.close()
        assert sender.ends == [None]
        assert not sender.channel.send("late")

    run(work())


def test_the_end_comes_once_after_everything_sent(run: Run, pair: Pair) -> None:
    """A worker's last outcomes would be lost, or its end be handled twice."""

    async def work() -> None:
        pair[1].send(packet.encode("first"))
        pair[1].send(packet.encode("last"))
        pair[1].close()
        reader = Recorder(pair[0])
        await async_wait_until(lambda: reader.ends)
        reader.channel.close()
        assert reader.messages == ["first", "last"]
        assert reader.ends == [None]

    run(work())


def test_a_send_to_the_dead_does_not_lose_what_they_said(run: Run, pair: Pair) -> None:
    """The supervisor sends work to a worker that just died; the worker's last outcomes are still in the socket."""

    async def work() -> None:
        channel = Recorder(pair[0])
        channel.channel.send("never read")
        pair[1].send(packet.encode("last words"))
        pair[1].close()
        assert not channel.channel.send("to the dead")
        await async_wait_until(lambda: channel.ends)
        assert channel.messages == ["last words"]
        assert channel.ends == [None]

    run(work())


def test_all_that_the_dead_have_said_is_read(run: Run, pair: Pair) -> None:
    """uvloop stops watching a socket with an error: much of what was sent, and the end, would never come."""

    async def work() -> None:
        channel = Recorder(pair[0])
        channel.channel.send("never read")
        for number in range(200):
            pair[1].send(packet.encode(number))
        pair[1].close()
        await async_wait_until(lambda: channel.ends)
        assert channel.messages == list(range(200))
        assert channel.ends == [None]

    run(work())


def test_garbage_ends_the_channel_with_a_farewell(run: Run, pair: Pair) -> None:
    """A broken peer would raise into the loop, or be cut off without a reason."""

    async def work() -> None:
        channel = Recorder(pair[0], farewell=lambda error: Fault(0, to_data(error)))
        pair[1].send(b"\xc4")
        await async_wait_until(lambda: channel.ends)
        assert isinstance(channel.ends[0], ProtocolError)
        fault = msgspec.msgpack.decode(pair[1].recv(10_000), type=Fault)
        assert fault.error.type == "ProtocolError"
        assert "cannot be read" in fault.error.message

    run(work())


def test_an_error_in_on_message_closes_with_that_error(run: Run, pair: Pair) -> None:
    """A bug in a handler of messages would go to the loop, and the connection limp on without the message."""

    async def work() -> None:
        ends: list[Exception | None] = []
        Channel(pair[0], DECODER, lambda message: 1 // message, ends.append)
        pair[1].send(packet.encode(0))
        await async_wait_until(lambda: ends)
        assert isinstance(ends[0], ZeroDivisionError)

    run(work())


def test_a_busy_peer_does_not_starve_the_loop(run: Run, pair: Pair) -> None:
    """One worker with a thousand packets would keep the others, and the timers, waiting."""

    async def work() -> None:
        for number in range(200):
            pair[1].send(packet.encode(number))
        channel = Recorder(pair[0])
        seen = []
        while len(channel.messages) < 200:
            await asyncio.sleep(0)
            seen.append(len(channel.messages))
        assert max(b - a for a, b in itertools.pairwise(seen)) <= 16
        channel.channel.close()

    run(work())


@pytest.mark.parametrize("broken_off", [False, True], ids=["stays", "breaks off"])
def test_a_few_large_messages_do_not_starve_the_loop_either(run: Run, pair: Pair, *, broken_off: bool) -> None:
    """Large requests take long to answer: eight calls of a thousand jobs that came together held all others up."""

    async def work() -> None:
        seen = [0]
        reader = Recorder(pair[1])
        if broken_off:  # with a message unread, so that the reader is told of the end before what was sent
            reader.channel.send("unread")
        with BlockingEndpoint(pair[0], DECODER) as sender:
            for number in range(8):
                sender.send([number, b"x" * channel.BYTES_PER_TURN])
            if broken_off:
                sender.close()
            while len(reader.messages) < 8:
                await asyncio.sleep(0)
                seen.append(len(reader.messages))
        assert [message[0] for message in reader.messages] == list(range(8))
        assert max(after - before for before, after in itertools.pairwise(seen)) == 1
        reader.channel.close()

    run(work())


def test_small_messages_are_read_together(run: Run, pair: Pair) -> None:
    """Each would cost a turn of the loop."""

    async def work() -> None:
        with BlockingEndpoint(pair[0], DECODER) as sender:
            for number in range(16):
                sender.send([number, b"x" * 1_000])
            reader = Recorder(pair[1])
            seen = [0]
            while len(reader.messages) < 16:
                await asyncio.sleep(0)
                seen.append(len(reader.messages))
        assert max(after - before for before, after in itertools.pairwise(seen)) == 16
        reader.channel.close()

    run(work())


def test_pausing_holds_messages_back(run: Run, pair: Pair) -> None:
    """Back-pressure would not reach the peer, or resuming would lose what waited."""

    async def work() -> None:
        channel = Recorder(pair[0])
        channel.channel.pause_reading()
        pair[1].send(packet.encode("held"))
        # A message on another channel, sent later and arrived, is the proof that this one would have arrived too.
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        other, sender = Recorder(ends[0]), Recorder(ends[1])
        sender.channel.send("later")
        await async_wait_until(lambda: other.messages)
        other.channel.close()
        sender.channel.close()
        assert channel.messages == []
        assert channel.channel.paused
        channel.channel.resume_reading()
        await async_wait_until(lambda: channel.messages == ["held"])
        channel.channel.close()

    run(work())


def test_a_peer_that_goes_while_paused_is_noticed(run: Run, pair: Pair) -> None:
    """The calls of a client that is gone would run on until they end by themselves."""

    async def work() -> None:
        channel = Recorder(pair[0])
        channel.channel.pause_reading()
        pair[1].close()
        await async_wait_until(lambda: channel.ends)
        assert channel.ends == [None]

    run(work())


def test_a_shortage_of_descriptors_only_delays(run: Run, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large message in a bad moment (EMFILE) would be lost and take the channel with it."""
    make_blob = packet.make_blob
    failures = iter([OSError(errno.EMFILE, "too many"), OSError(errno.ETOOMANYREFS, "in flight")])

    def short(data: bytes) -> int:
        for failure in failures:
            raise failure
        return make_blob(data)

    async def work() -> None:
        sender, reader = Recorder(pair[0]), Recorder(pair[1])
        monkeypatch.setattr(packet, "make_blob", short)
        assert sender.channel.send("x" * 200_000)
        assert sender.channel.send("after it")
        await async_wait_until(lambda: len(reader.messages) == 2)
        assert [len(message) for message in reader.messages] == [200_000, 8]
        sender.channel.close()
        reader.channel.close()

    run(work())


def test_too_large_a_message_is_the_senders_error(run: Run, pair: Pair) -> None:
    """It would be noticed by the receiver, who ends the connection."""

    async def work() -> None:
        sender = Recorder(pair[0], max_message_bytes=1000)
        with pytest.raises(UsageError):
            sender.channel.send("x" * 1001)
        assert sender.channel.send("small")
        sender.channel.close()

    run(work())
