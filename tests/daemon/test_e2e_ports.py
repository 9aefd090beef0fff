"""Direct lines between clients and jobs of a real daemon."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from perdure.adapters.port import BlockingPort
from perdure.client import Client
from perdure.errors import CallTimeout, DaemonStopping, NotFound, WrongState
from tests.daemon.e2e import await_executing, await_rest, end_of, make_daemon, running
from tests.support.daemon import Daemon
from tests.support.wait import wait_until

HANDLERS = ("tests.daemon.port_handlers",)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon whose supervisor must hold as many descriptors at the end as at the beginning."""
    with running(tmp_path_factory.mktemp("ports"), handlers=HANDLERS) as one:
        with one.client() as client:
            end_of(client, client.enqueue_sync("never", {"seconds": 0}).id)
        await_rest(one)
        before = descriptors(one)
        yield one
        await_rest(one)
        wait_until(lambda: descriptors(one) <= before, 10, f"the supervisor to have closed all; before: {before}")


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with daemon.client() as one:
        yield one


def descriptors(daemon: Daemon) -> int:
    """How many the supervisor has open, without the clients of this moment."""
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


def received(port: BlockingPort) -> bytes:
    """All that comes."""
    return b"".join(port)


def attaching(daemon: Daemon, job_id: int, stdin: int | None = subprocess.PIPE) -> subprocess.Popen[bytes]:
    """`perdure attach ID`, running."""
    command = [sys.executable, "-m", "perdure", "attach", str(job_id)]
    return subprocess.Popen(
        command, cwd=daemon.folder, env=daemon.environ, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize("kind", ["shout", "shout-blocking"])
def test_bytes_go_both_ways(client: Client, kind: str) -> None:
    """A client could not talk with its job."""
    job_id = client.enqueue_sync(kind).id
    with client.attach_sync(job_id) as port:
        port.send(b"hello ")
        assert port.receive() == b"HELLO "
        port.send(b"again")
        port.end()
        assert received(port) == b"AGAIN"
    assert end_of(client, job_id).result == "11"


async def test_for_coroutines_too(daemon: Daemon) -> None:
    """A program with an event loop could not attach, or only by stopping its loop."""
    async with daemon.client() as client:
        job_id = (await client.enqueue("shout")).id
        async with await client.attach(job_id) as port:
            data = os.urandom(3_000_000)
            sending = asyncio.ensure_future(port.send(data))
            back = b""
            while len(back) < len(data):
                back += await port.receive()
            await sending
            port.end()
            assert await port.receive() == b""
        assert back == data.upper()
        assert (await client.wait(job_id))[0].result == "3000000"


def test_from_the_shell(daemon: Daemon, client: Client) -> None:
    """`perdure attach` would lose bytes, or not end."""
    job_id = client.enqueue_sync("shout").id
    done = attaching(daemon, job_id).communicate(b"from the shell\n" * 10_000, timeout=30)
    assert done == (b"FROM THE SHELL\n" * 10_000, b"")
    assert end_of(client, job_id).state == "completed"


def test_files_as_standard_streams(daemon: Daemon, client: Client, tmp_path: Path) -> None:
    """What the kernel does for pipes it may refuse for files, in the middle of the stream."""
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(b"abc" * 1_000_000)
    job_id = client.enqueue_sync("shout").id
    with source.open("rb") as stdin, target.open("ab") as stdout:
        command = [sys.executable, "-m", "perdure", "attach", str(job_id)]
        subprocess.run(
            command, cwd=daemon.folder, env=daemon.environ, stdin=stdin, stdout=stdout, timeout=30, check=True
        )
    assert target.read_bytes() == b"ABC" * 1_000_000


# --- not at the right moment


def test_before_the_job_offers(daemon: Daemon, client: Client, tmp_path: Path) -> None:
    """A client that comes first would be sent away, or never hear of the port."""
    job_id = client.enqueue_sync("later", {"file": str(tmp_path / "go")}).id
    attached: list[BlockingPort] = []

    def attach() -> None:
        with daemon.client() as own:
            attached.append(own.attach_sync(job_id))

    thread = threading.Thread(target=attach)
    thread.start()
    await_executing(daemon, job_id)
    with pytest.raises(CallTimeout):
        client.attach_sync(job_id, timeout=0.1)
    (tmp_path / "go").touch()
    thread.join(20)
    with attached[0] as port:
        port.send(b"first")
    assert end_of(client, job_id).result == '"first"'


def test_before_the_job_has_begun(daemon: Daemon, client: Client) -> None:
    """A client would have to poll for the start of its job."""
    client.pause_sync("waits")
    job_id = client.enqueue_sync("shout", queue="waits").id
    process = attaching(daemon, job_id)
    with pytest.raises(CallTimeout):
        client.attach_sync(job_id, timeout=0.2)
    client.resume_sync("waits")
    assert process.communicate(b"x", timeout=30)[0] == b"X"


def test_the_command_gives_up_or_has_nowhere_to_write(daemon: Daemon, client: Client) -> None:
    """It would blame the daemon for a job without a port, or use up a port without being able to say what came."""
    later = client.enqueue_sync("never", {"seconds": 0.1}, delay="1h").id
    late = daemon.command("attach", str(later), "--timeout", "200ms")
    assert (late.returncode, late.stdout) == (1, "")
    assert daemon.command("wait", str(later), "--timeout", "200ms").returncode == 1
    assert f"job {later} has opened no port within the time given" in late.stderr
    nowhere = ["sh", "-c", f"exec '{sys.executable}' -m perdure attach {later} >&-"]
    refused = subprocess.run(nowhere, cwd=daemon.folder, env=daemon.environ, capture_output=True, text=True, timeout=30)
    assert (refused.returncode, "stdout is closed" in refused.stderr) == (2, True)
    client.cancel_sync(later)


def test_after_the_end(client: Client) -> None:
    """A client would wait for ever for a job that has ended, or ends without a port."""
    job_id = client.enqueue_sync("never", {"seconds": 0.3}).id
    with pytest.raises(WrongState, match=f"job {job_id} has ended without offering a port"):
        client.attach_sync(job_id)
    with pytest.raises(WrongState, match=f"job {job_id} is completed: only one that runs has a port"):
        client.attach_sync(job_id)
    with pytest.raises(NotFound):
        client.attach_sync(10**9)


def test_twice(client: Client) -> None:
    """Two clients would steal each other's bytes, or the second wait without a word."""
    job_id = client.enqueue_sync("shout").id
    with client.attach_sync(job_id) as port:
        with pytest.raises(WrongState, match="another client is at the port"):
            client.attach_sync(job_id)
        port.send(b"mine")
        assert port.receive() == b"MINE"
    assert end_of(client, job_id).result == "4"


def test_both_wait_and_one_gets_it(daemon: Daemon, client: Client, tmp_path: Path) -> None:
    """Both would get an end of the same line."""
    job_id = client.enqueue_sync("later", {"file": str(tmp_path / "go")}).id
    await_executing(daemon, job_id)
    outcomes: list[object] = []

    def attach() -> None:
        with daemon.client() as own:
            try:
                outcomes.append(own.attach_sync(job_id, timeout=20))
            except WrongState as error:
                outcomes.append(error)

    threads = [threading.Thread(target=attach) for _ in range(3)]
    for thread in threads:
        thread.start()
    (tmp_path / "go").touch()
    for thread in threads:
        thread.join(20)
    ports = [one for one in outcomes if isinstance(one, BlockingPort)]
    assert (len(ports), len(outcomes)) == (1, 3)
    ports[0].send(b"x")
    ports[0].close()
    assert end_of(client, job_id).state == "completed"


def test_one_after_the_other(client: Client) -> None:
    """A job could serve one client in its life."""
    job_id = client.enqueue_sync("two-clients").id
    for name in (b"ada", b"bob"):
        port = _attach_when_free(client, job_id)
        port.send(name)
        assert received(port) == b"thanks"
        port.close()
    assert end_of(client, job_id).result == '["ada","bob"]'


def _attach_when_free(client: Client, job_id: int) -> BlockingPort:
    def attach() -> BlockingPort | None:
        try:
            return client.attach_sync(job_id)
        except WrongState:
            return None

    port = wait_until(attach, 10)
    assert port is not None
    return port


def test_a_port_that_nobody_comes_to(client: Client) -> None:
    """A job would wait for ever, or a client get the line of an attempt that is over."""
    job_id = client.enqueue_sync("impatient").id
    wait_until(lambda: "nobody came" in client.log_sync(job_id).text)
    with client.attach_sync(job_id) as port:
        assert received(port) == b"second try"
    assert f"no client came to the port of job {job_id} within 0.1 s" in (end_of(client, job_id).result or "")


def test_one_port_at_a_time(client: Client) -> None:
    """Two coroutines of a job would take each other's client."""
    job_id = client.enqueue_sync("twice-at-once").id
    assert end_of(client, job_id).result == '["UsageError"]'


def test_the_port_ends_with_its_job(client: Client) -> None:
    """A client would get a line to a job that has ended, and wait for ever."""
    job_id = client.enqueue_sync("leaves-its-port").id
    assert end_of(client, job_id).state == "completed"
    with pytest.raises(WrongState):
        client.attach_sync(job_id)


def test_a_context_is_of_no_use_after_its_job(client: Client) -> None:
    """A task that outlives its job would start commands that nobody ends."""
    results: set[str | None] = set()
    while len(results) < 2:
        results |= {end.result for end in client.wait_sync([client.enqueue_sync("too-late").id for _ in range(4)])}
    (told,) = results - {'"first"'}
    assert (told or "").count("has ended: it can run no command and open no port any more") == 2


# --- somebody dies


def test_the_client_dies(daemon: Daemon, client: Client) -> None:
    """A job would wait for ever for a client that is gone."""
    job_id = client.enqueue_sync("listener").id
    process = attaching(daemon, job_id)
    assert process.stdout is not None
    assert process.stdout.read(5) == b"hello"
    process.kill()
    process.communicate()
    assert end_of(client, job_id).result == '"gone"'


def test_a_client_that_dies_while_it_waits(daemon: Daemon, client: Client, tmp_path: Path) -> None:
    """The port would be given to somebody who is gone."""
    job_id = client.enqueue_sync("later", {"file": str(tmp_path / "go")}).id
    process = attaching(daemon, job_id)
    await_executing(daemon, job_id)
    process.kill()
    process.communicate()
    (tmp_path / "go").touch()
    with client.attach_sync(job_id) as port:
        port.send(b"heir")
    assert end_of(client, job_id).result in ('"heir"', '""')


def test_the_job_dies(daemon: Daemon, client: Client) -> None:
    """A client would wait for ever for a job whose worker has crashed."""
    job_id = client.enqueue_sync("talk-and-die").id
    with client.attach_sync(job_id) as port:
        assert port.receive() == b"last words"
        port.send(b"bye")
        try:
            assert received(port) == b""
        except ConnectionError:
            pass
    assert end_of(client, job_id).state == "completed"


def test_the_daemon_stops(tmp_path: Path) -> None:
    """A client that waits would hang, or a conversation be cut although the daemon does not take part in it."""
    one = make_daemon(tmp_path / "stops", handlers=HANDLERS, daemon='drain_limit = "5s"')
    try:
        one.start()
        with one.client() as client:
            talks = client.enqueue_sync("shout").id
            waits = client.enqueue_sync("never", {"seconds": 1}).id
            port = client.attach_sync(talks)
            await_executing(one, talks, waits)
            refused: list[Exception] = []

            def attach() -> None:
                with one.client() as own:
                    try:
                        own.attach_sync(waits)
                    except Exception as error:
                        refused.append(error)

            thread = threading.Thread(target=attach)
            thread.start()
            one.send(signal.SIGTERM)
            port.send(b"still there")
            assert port.receive() == b"STILL THERE"
            port.close()
            thread.join(20)
            assert isinstance(refused[0], WrongState | DaemonStopping)
        assert one.stop() == 0, one.log()
    finally:
        one.close()


# --- much


def throughput(daemon: Daemon, client: Client, gib: float, how: Callable[[int], object]) -> float:
    """GiB a second; and the supervisor takes no part in it."""
    supervisor = psutil.Process(daemon.pid)
    before = supervisor.memory_info().rss
    began = time.monotonic()
    how(int(gib * 1024))
    took = time.monotonic() - began
    assert supervisor.memory_info().rss - before < 1 << 20
    return gib / took


def measure(daemon: Daemon, client: Client, gib: float) -> dict[str, float]:
    """Into a job and out of it, through `perdure attach` and through the client. Without the start of the program."""

    def attach_in(mib: int) -> None:
        job_id = client.enqueue_sync("sink").id
        process = attaching(daemon, job_id)
        assert process.stdin is not None
        data = bytes(1 << 20)
        for _ in range(mib):
            process.stdin.write(data)
        assert process.communicate(timeout=120)[0] == str(mib << 20).encode()

    def attach_out(mib: int) -> None:
        with attaching(daemon, client.enqueue_sync("source", {"mib": mib}).id, stdin=None) as process:
            assert process.stdout is not None
            room, count = bytearray(1 << 20), 0
            while got := os.readv(process.stdout.fileno(), [room]):
                count += got
            assert count == mib << 20
            assert process.wait(30) == 0

    def client_in(mib: int) -> None:
        with client.attach_sync(client.enqueue_sync("sink").id) as port:
            data = bytes(1 << 20)
            for _ in range(mib):
                port.send(data)
            port.end()
            assert received(port) == str(mib << 20).encode()

    ways = {"attach, in": attach_in, "attach, out": attach_out, "client, in": client_in}
    return {name: throughput(daemon, client, gib, way) for name, way in ways.items()}


def test_much_in_little_time(daemon: Daemon, client: Client) -> None:
    """Bytes would be lost, or pass through the supervisor."""
    rates = measure(daemon, client, 0.25)
    assert min(rates.values()) > 0.05  # a hang, or a copy too many; the promise is for the long test


@pytest.mark.channels_long
@pytest.mark.limit(300)
def test_a_gibibyte_a_second(daemon: Daemon, client: Client) -> None:
    """The promise of docs/files.md."""
    rates = [measure(daemon, client, 8) for _ in range(3)]
    best = {name: max(one[name] for one in rates) for name in rates[0]}
    print("GiB/s:", ", ".join(f"{name} {rate:.2f}" for name, rate in best.items()), file=sys.stderr)
    assert min(best.values()) >= 1.0
