"""Mutated messages on both kinds of sockets: who sends garbage is sent away with a reason, and nothing else happens."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.errors import ProtocolError
from perdure.wire import codec, packet
from perdure.wire.channel import Channel
from perdure.wire.control import ClientEvent, Request
from perdure.wire.envelope import Call, Cancel, Event, Fault, Reply
from perdure.wire.mailroom import news_decoder
from perdure.wire.server import Server
from perdure.wire.streams import News
from perdure.wire.work import FromNursery, FromWorker, ToNursery, ToWorker
from tests.support.wait import async_wait_until
from tests.wire.conftest import Run, open_fds
from tests.wire.mutator import Mutator, examples, is_valid
from tests.wire.office import anybody, shut
from tests.wire.test_many_calls import left_over

LONG = [pytest.mark.channels_long, pytest.mark.limit(3_600)]
#: How many messages: in the ordinary suite, and in the long one. Half of a million for each socket.
COUNTS = [2_500, pytest.param(500_000, marks=LONG)]

CONTROL_SEEDS = [
    *(Call(7, 5000, request) for request in examples(Request)),
    *(Call(8, None, request) for request in examples(Request)),
    Cancel(7),
    *(Event(event) for event in examples(ClientEvent)),
]
WORKER_SEEDS = examples(FromWorker)
ORDER_SEEDS = examples(ToWorker)

#: Every decoder that reads what another process has written, with messages that it takes.
DECODERS: dict[str, tuple[Any, list[Any]]] = {
    "control": (codec.control_decoder(), CONTROL_SEEDS),
    "answers": (codec.answer_decoder(), [Reply(7, None), Event(News(1, [])), codec.fault(7, ProtocolError())]),
    "news": (news_decoder(), examples(News)),
    "from worker": (msgspec.msgpack.Decoder(FromWorker), WORKER_SEEDS),
    "to worker": (msgspec.msgpack.Decoder(ToWorker), ORDER_SEEDS),
    "to nursery": (
        msgspec.msgpack.Decoder(Call[ToNursery] | Cancel),
        [Call(1, 5, order) for order in examples(ToNursery)],
    ),
    "from nursery": (msgspec.msgpack.Decoder(FromNursery), examples(FromNursery)),
}


def test_there_is_an_example_of_everything() -> None:
    """A kind of message that nobody mutates would be believed to be safe."""
    for decoder, seeds in DECODERS.values():
        assert [seed for seed in seeds if not is_valid(packet.encode(seed), decoder)] == []
    assert len(CONTROL_SEEDS) > 50


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("examples_", [300, pytest.param(20_000, marks=LONG)])
def test_hypothesis_finds_no_other_error(name: str, examples_: int) -> None:
    """A message that raises anything but ProtocolError would go through the hands that know what to do with garbage."""
    decoder, seeds = DECODERS[name]
    whole = [packet.encode(seed) for seed in seeds]

    @given(
        st.sampled_from(whole),
        st.lists(st.tuples(st.integers(0, 200), st.integers(0, 12), st.binary(max_size=12)), max_size=6),
    )
    @settings(max_examples=examples_, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def decode(data: bytes, cuts: list[tuple[int, int, bytes]]) -> None:
        for place, length, new in cuts:
            data = data[:place] + new + data[place + length :]
        with contextlib.suppress(ProtocolError):
            packet.decode(decoder, data)

    decode()


# --- the control socket


class Enemy:
    """A client of the control socket that sends what it likes, and looks at what becomes of it."""

    def __init__(self, path: Path, dice: random.Random) -> None:
        self.path = path
        self.dice = dice
        self.decoder = codec.control_decoder()
        self.connections = 0
        self.refused = 0
        self.spare = os.open("/dev/null", os.O_RDONLY)

    async def send(self, messages: list[bytes]) -> None:
        """All of them, on one connection as long as they are valid."""
        sock = self._connected()
        for data in messages:
            bad = not is_valid(data, self.decoder)
            try:
                # The server stops reading when its answers are not read.
                while not self._try(sock, data):
                    await self._read(sock)
            except BrokenPipeError:
                # One before it was no question that can be asked: a call with the id of one that still waits.
                bad = True
            if bad:
                self.refused += 1
                await self._read_farewell(sock)
                sock.close()
                sock = self._connected()
        sock.close()

    def _connected(self) -> socket.socket:
        self.connections += 1
        self.last = b""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.setblocking(False)
        sock.connect(str(self.path))
        return sock

    def _try(self, sock: socket.socket, data: bytes) -> bool:
        luck = self.dice.random()
        try:
            if luck > 0.99:
                send_in_memfd(sock, data)
            else:
                fds = [self.spare] * self.dice.randrange(1, packet.MOST_FDS + 1) if luck < 0.02 else []
                packet.send_packet(sock, data, fds)
        except BlockingIOError:
            return False
        return True

    async def _read(self, sock: socket.socket) -> bool:
        """False at the end."""
        try:
            try:
                data = sock.recv(100_000)
            except BlockingIOError:
                data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 100_000), 10)
        except ConnectionResetError:
            # Said once when the server ended with something unread; what it had sent comes after it.
            return True
        self.last = data or self.last
        return bool(data)

    async def _read_farewell(self, sock: socket.socket) -> None:
        while await self._read(sock):
            pass
        fault = msgspec.msgpack.decode(self.last, type=Fault)
        assert (fault.id, fault.error.type) == (0, "ProtocolError")
        assert fault.error.message


def send_in_memfd(sock: socket.socket, data: bytes) -> None:
    """As only large messages need to travel."""
    blob = packet.make_blob(data)
    try:
        packet.send_packet(sock, packet.MARKER, [blob])
    finally:
        os.close(blob)


def resident_bytes() -> int:
    """How much memory this process has."""
    return psutil.Process().memory_info().rss


@pytest.mark.parametrize("count", COUNTS)
def test_the_control_socket_survives_mutants(run: Run, path: Path, count: int) -> None:
    """Any user of the socket could stop the daemon, make it leak, or be sent away without a word."""

    async def work() -> None:
        dice = random.Random(31)
        # Counted, not kept: an exception holds on to all that its traceback has seen.
        reports: Counter[type] = Counter()
        gone: Counter[str] = Counter()
        server = Server(
            str(path),
            lambda _request, _peer: None,
            anybody,
            on_event=lambda _body, _peer: None,
            on_gone=lambda _: gone.update(["clients"]),
            report=lambda _, error: reports.update([type(error)]),
        )
        server.start()
        mutator, enemy, before = Mutator(CONTROL_SEEDS, dice), Enemy(path, dice), len(open_fds())
        resident = 0
        for first in range(0, count, 500):
            if first == 50_000:
                resident = resident_bytes()
            await enemy.send([mutator() for _ in range(min(500, count - first))])
            await async_wait_until(lambda: server.clients == [])
            assert len(open_fds()) == before
        assert count / 5 < enemy.refused
        assert reports == {ProtocolError: enemy.refused}
        await async_wait_until(lambda: gone["clients"] == enemy.connections)
        os.close(enemy.spare)
        await shut(server)
        assert not resident or resident_bytes() - resident < 64 * 2**20
        await async_wait_until(lambda: not left_over())

    run(work())


# --- the channels between the supervisor and its workers


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("side", ["supervisor", "worker"])
def test_the_workers_channel_survives_mutants(run: Run, side: str, count: int) -> None:
    """A worker whose memory a handler has spoiled could stop the supervisor; or the other way round."""
    decoder, seeds = DECODERS["from worker" if side == "supervisor" else "to worker"]
    most = 1 if side == "supervisor" else 0

    async def work() -> None:
        dice = random.Random(32)
        mutator, before = Mutator(seeds, dice), len(open_fds())
        spare = os.open("/dev/null", os.O_RDONLY)
        messages: list[object] = []
        ends: list[Exception | None] = []
        sent = taken = refused = 0
        while sent < count:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            # As WorkerLink and LoopSide make theirs.
            channel: Channel[object] = Channel(
                ours, decoder, messages.append, ends.append, max_fds=side == "supervisor"
            )
            ends.clear()
            messages.clear()
            expected, bad = 0, False
            while not bad and expected < 50 and sent < count:
                data = mutator()
                fds = [spare] * dice.randrange(1, 3) if dice.random() < 0.02 else []
                bad = not is_valid(data, decoder) or len(fds) > most
                packet.send_packet(theirs, data, fds)
                sent += 1
                expected += not bad
            theirs.close()
            while not ends:
                await asyncio.sleep(0)
            assert len(messages) == expected
            assert [type(end) for end in ends] == [ProtocolError if bad else type(None)]
            assert channel.closed
            taken, refused = taken + expected, refused + bad
        assert taken + refused == count
        assert refused > count / 5
        os.close(spare)
        assert len(open_fds()) == before

    run(work())
