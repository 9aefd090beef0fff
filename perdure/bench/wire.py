"""The idioms of the channels: event, call, subscription, port, each beside what a bare socket does in the same run."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import uvloop
from msgspec import Struct
from msgspec.msgpack import Decoder

from perdure.bench.daemon import daemon
from perdure.bench.far_end import PIECE_BYTES, Note, far_end
from perdure.bench.figure import Figure, Sizes, figure, p99
from perdure.errors import PerdureError
from perdure.wire import packet
from perdure.wire.blocking import BlockingCaller
from perdure.wire.calls import Caller, connect
from perdure.wire.channel import Channel
from perdure.wire.control import AttachPort, Enqueue, PauseQueue, Ping, ResumeQueue, Subscribe, WaitJobs
from perdure.wire.data import JobSpec
from perdure.wire.streams import Emitted

#: Other processes of the machine slow down some rounds: of what goes without a pause, the best round counts, as it
#: does for the limits.
ROUNDS = 5
#: One at a time: enough for a p99.
SAMPLES = 10_000
#: Of a round.
EVENTS = 50_000
CALLS = 12_800
#: Calls that one client has in flight when it does not wait for each.
IN_FLIGHT = 32
#: Values that a job emits: as fast as it can, and then with a pause after each.
VALUES = 100_000
SLOW_VALUES = 100
#: What goes through a port.
PORT_BYTES = 1 << 30
#: As long as an event of a job: 100 bytes.
TEXT = "x" * 80

GIB = 1 << 30


class Limits(Struct):
    """What bare sockets do here: microseconds of a round trip each, packets a second one way, bytes a second."""

    trips_us: list[float]
    packets: float
    bytes: float


def wire(folder: Path, sizes: Sizes) -> list[Figure]:
    """Events, calls, subscriptions and ports, each beside a bare socket; one worker, durability normal."""
    sizes = msgspec.structs.replace(sizes, workers=1, durability="normal")
    limits = Limits(*_bare(), max(_bare_stream() for _ in range(ROUNDS)))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures = runner.run(_events(limits))
        with daemon(folder, sizes) as running:
            caller, path = running.caller, str(running.socket)
            blocking = _blocking_calls(caller)
            figures += runner.run(_calls(path, limits, blocking))
            figures += _subscription(caller, limits)
            figures += _port(caller, limits)
    for one in figures:
        one.durability = sizes.durability
    return figures


# --- bare sockets: the limits


def _bare() -> tuple[list[float], float]:
    """Packets of the size of an event, from one process to another: round trips, and as fast as they go one way."""
    data = packet.encode(Note(time.monotonic_ns(), False, TEXT))
    ask, tell = b"\1" + data[1:], b"\0" + data[1:]
    with far_end("bare", socket.SOCK_SEQPACKET) as sock:
        packet.set_buffers(sock)
        trips = []
        for _ in range(SAMPLES):
            started = time.perf_counter_ns()
            sock.send(ask)
            sock.recv(65536)
            trips.append((time.perf_counter_ns() - started) / 1000)
        rates = []
        for _ in range(ROUNDS):
            started = time.perf_counter_ns()
            for _ in range(EVENTS):
                sock.send(tell)
            sock.send(ask)
            sock.recv(65536)
            rates.append(EVENTS / ((time.perf_counter_ns() - started) / 1e9))
        return trips, max(rates)


def _bare_stream() -> float:
    """Bytes a second from one process to another."""
    with far_end("sink", socket.SOCK_STREAM) as sock:
        sock.sendall(b"\1")
        sock.recv(1)
        return _pour(sock)


def _pour(sock: socket.socket) -> float:
    """Send PORT_BYTES, and wait until the other side says that it has them; bytes a second."""
    piece = memoryview(bytes(PIECE_BYTES))
    started = time.perf_counter()
    for _ in range(PORT_BYTES // PIECE_BYTES):
        sock.sendall(piece)
    sock.shutdown(socket.SHUT_WR)
    counted = sock.recv(8, socket.MSG_WAITALL)
    seconds = time.perf_counter() - started
    if int.from_bytes(counted, "big") != PORT_BYTES:
        raise PerdureError("the other side did not get all bytes")
    return PORT_BYTES / seconds


# --- events


async def _events(limits: Limits) -> list[Figure]:
    """Messages to another process, which nobody answers: what a worker tells the supervisor."""
    with far_end("channel", socket.SOCK_SEQPACKET) as sock:
        answers: asyncio.Queue[Note] = asyncio.Queue()
        drained = asyncio.Event()
        decoder: Decoder[Note] = Decoder(Note)
        channel = Channel(sock, decoder, answers.put_nowait, lambda _: None, on_drained=drained.set)
        taken = []
        for _ in range(SAMPLES):
            channel.send(Note(time.monotonic_ns(), True, TEXT))
            note = await answers.get()
            taken.append((note.came_ns - note.sent_ns) / 1000)
        rates = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            for _ in range(EVENTS):
                channel.send(Note(0, False, TEXT))
                if channel.pending_bytes:
                    drained.clear()
                    await drained.wait()
            channel.send(Note(0, True, ""))
            await answers.get()
            rates.append(EVENTS / (time.perf_counter() - started))
        channel.close()
    details = (
        f"best of {ROUNDS} rounds of {EVENTS:,} messages of 100 bytes over a Channel, each decoded at the other end"
    )
    return [
        figure("wire-event", max(rates), "events/s", limits.packets, "bare packets, one way", details),
        _delay("wire-event-latency", taken, [trip / 2 for trip in limits.trips_us], "half a bare round trip"),
    ]


# --- calls


def _blocking_calls(caller: BlockingCaller) -> list[float]:
    taken = []
    for _ in range(SAMPLES):
        started = time.perf_counter_ns()
        caller.request(Ping())
        taken.append((time.perf_counter_ns() - started) / 1000)
    return taken


async def _calls(path: str, limits: Limits, blocking: list[float]) -> list[Figure]:
    """Ping, on the control socket of a real daemon."""
    async with await connect(path) as caller:
        taken = []
        for _ in range(SAMPLES):
            started = time.perf_counter_ns()
            await caller.request(Ping())
            taken.append((time.perf_counter_ns() - started) / 1000)
        rates = []
        for _ in range(ROUNDS):
            started_all = time.perf_counter()
            await asyncio.gather(*(_ask_often(caller, CALLS // IN_FLIGHT) for _ in range(IN_FLIGHT)))
            rates.append(CALLS / (time.perf_counter() - started_all))
    one_by_one = f"{1e6 / statistics.mean(taken):,.0f} calls/s one at a time; without an event loop in the client: "
    one_by_one += f"median {statistics.median(blocking) / 1000:.3f} ms, p99 {p99(blocking) / 1000:.3f} ms"
    details = f"one client with {IN_FLIGHT} calls in flight, on the control socket of a daemon; Ping; best of {ROUNDS}"
    bare = 1e6 / statistics.mean(limits.trips_us)
    return [
        figure("wire-calls", max(rates), "calls/s", bare, "bare round trips, one at a time", details),
        _delay("wire-call-latency", taken, limits.trips_us, "a bare round trip", one_by_one),
    ]


async def _ask_often(caller: Caller, times: int) -> None:
    for _ in range(times):
        await caller.request(Ping())


# --- subscriptions


def _subscription(caller: BlockingCaller, limits: Limits) -> list[Figure]:
    """Values that a job emits, as a subscriber gets them: worker, supervisor, client."""
    came, skipped, seconds, _ = _follow(caller, VALUES, 0.0)
    rate = came / seconds
    details = f"{VALUES:,} values emitted at once by one job: {came:,} came, {skipped:,} were left out and counted"
    _, _, _, taken = _follow(caller, SLOW_VALUES, 0.037)
    slow = f"{SLOW_VALUES} values, one each 37 ms; they are gathered for up to 100 ms on purpose"
    half = [trip / 2 for trip in limits.trips_us]
    return [
        figure("wire-subscription", rate, "values/s", limits.packets, "bare packets, one way", details),
        _delay("wire-subscription-latency", taken, half, "half a bare round trip", slow),
    ]


def _follow(caller: BlockingCaller, count: int, pause_s: float) -> tuple[int, int, float, list[float]]:
    """Values that came, that did not, seconds, and how long each took (microseconds)."""
    came, skipped, taken = 0, 0, []
    caller.request(PauseQueue("bench"))
    spec = JobSpec("bench.tell", f'{{"count": {count}, "pause_s": {pause_s}}}', queue="bench")
    job_id = caller.request(Enqueue([spec]))[0].id
    with caller.subscription(Subscribe(ids=[job_id], topics=["emit"])) as news:
        caller.request(ResumeQueue("bench"))
        started = time.perf_counter()
        for message in news:
            now = time.monotonic_ns()
            skipped += message.skipped.values
            values = [entry for entry in message.entries if isinstance(entry, Emitted)]
            came += len(values)
            taken += [(now - int(entry.value)) / 1000 for entry in values]
    if came + skipped != count:
        raise PerdureError(f"{count - came - skipped:,} of {count:,} values are neither here nor counted as left out")
    return came, skipped, time.perf_counter() - started, taken


# --- ports


def _port(caller: BlockingCaller, limits: Limits) -> list[Figure]:
    """A gibibyte from a client to a handler, directly."""
    rounds = [_use_port(caller) for _ in range(ROUNDS)]
    taken = min((taken for taken, _ in rounds), key=statistics.median)
    rate = max(rate for _, rate in rounds)
    details = (
        f"{PORT_BYTES // GIB} GiB from a client to an async handler, best of {ROUNDS}; the supervisor sees none of it"
    )
    return [
        figure("wire-port", rate / GIB, "GiB/s", limits.bytes / GIB, "a bare stream socket", details),
        _delay("wire-port-latency", taken, limits.trips_us, "a bare round trip", "one byte, there and back"),
    ]


def _use_port(caller: BlockingCaller) -> tuple[list[float], float]:
    """Microseconds of round trips of a byte, and bytes a second."""
    job_id = caller.request(Enqueue([JobSpec("bench.swallow")]))[0].id
    _, fds = caller.request_with_fds(AttachPort(job_id), 30)
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket(fileno=fds[0]))
        sock.setblocking(True)
        taken = []
        for _ in range(SAMPLES // ROUNDS):
            started = time.perf_counter_ns()
            sock.sendall(b"\1")
            sock.recv(1)
            taken.append((time.perf_counter_ns() - started) / 1000)
        rate = _pour(sock)
    caller.request(WaitJobs([job_id]), 30)
    return taken, rate


# --- figures


def _delay(name: str, taken_us: Sequence[float], limit_us: Sequence[float], limit_is: str, details: str = "") -> Figure:
    """The median in milliseconds; p99 in the details."""
    text = f"median; p99 {p99(taken_us) / 1000:.3f} ms" + (f"; {details}" if details else "")
    return figure(name, statistics.median(taken_us) / 1000, "ms", statistics.median(limit_us) / 1000, limit_is, text)
