"""Back-pressure with a real daemon: full queues refuse, let producers wait, or shed."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.client import Client
from perdure.errors import CallTimeout, ChannelClosed, DaemonStopping, QueueFull
from perdure.wire.control import Ping
from perdure.wire.data import JobFilter, JobSpec, JobView, QueueView
from tests.daemon.e2e import QUICK, dead_letter, errors_of, make_daemon, query, running
from tests.support.daemon import Daemon
from tests.support.wait import async_wait_until, wait_until

LIMITS = """
[queues.refuse]
max_depth = 10
[queues.block]
max_depth = 2
when_full = "block"
patience = "30s"
[queues.shed]
max_depth = 3
when_full = "shed"
[queues.old]
max_age = "300ms"
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon with a queue of each policy."""
    with running(tmp_path_factory.mktemp("queues"), QUICK + LIMITS) as one:
        yield one


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    """A client; all queues are paused, and empty before and after."""
    with daemon.client() as one:
        for name in ("refuse", "block", "shed", "old"):
            one.pause_sync(name)
        yield one
        for view in waiting(one):
            one.cancel_sync([view.id])


def start_filled(daemon: Daemon, queue: str, jobs: int) -> None:
    """Start it, with so many jobs that wait in a paused queue."""
    daemon.start()
    with daemon.client() as client:
        client.pause_sync(queue)
        client.enqueue_many_sync([JobSpec("noop", queue=queue)] * jobs)


def waiting(client: Client, queue: str | None = None) -> list[JobView]:
    """The jobs that wait, newest first."""
    states = ["available", "scheduled", "retryable", "parked"]
    return client.list_sync(JobFilter(states=states, queue=queue))


def ids(client: Client, queue: str) -> list[int]:
    """The ids of the jobs that wait, oldest first."""
    return sorted(view.id for view in waiting(client, queue))


def view_of(client: Client, queue: str) -> QueueView:
    """The queue as `perdure queue list` shows it."""
    (view,) = [view for view in client.queues_sync() if view.name == queue]
    return view


async def blocked(client: Client, *numbers: int, patience: float | None = None) -> list[asyncio.Task[int]]:
    """So many enqueues that stand in the line, in this order."""

    async def enqueue(number: int) -> int:
        return (await client.enqueue("echo", {"value": number}, queue="block", patience=patience)).id

    tasks = []
    for number in numbers:
        tasks.append(asyncio.create_task(enqueue(number)))
        await asyncio.sleep(0)
    # One connection: what was sent before has been looked at when this is answered.
    await client.request(Ping())
    await client.queues()
    assert not any(task.done() for task in tasks)
    return tasks


# --- refusing


def test_a_full_queue_refuses_the_next_job_and_not_the_one_before(client: Client) -> None:
    """A queue would take more than it may, or less; a batch would go in by half; the message would not help."""
    jobs = client.enqueue_many_sync([JobSpec("noop", queue="refuse")] * 8)
    with pytest.raises(QueueFull, match=r"queue refuse is full: 8 jobs wait in it, its limit is 10 .* 3 came at once"):
        client.enqueue_many_sync([JobSpec("noop", queue="refuse")] * 3)
    client.enqueue_many_sync([JobSpec("noop", queue="refuse"), JobSpec("noop", queue="refuse", delay_ms=99_000)])
    with pytest.raises(QueueFull, match=r"10 jobs wait.* Nothing was enqueued\. Try again later, or raise the limit"):
        client.enqueue_sync("noop", queue="refuse")
    assert len(ids(client, "refuse")) == 10
    client.cancel_sync(jobs[0].id)
    client.enqueue_sync("noop", queue="refuse")
    with pytest.raises(QueueFull):
        client.enqueue_sync("noop", queue="refuse")
    client.retry_sync(jobs[0].id)
    assert view_of(client, "refuse").pressure == 1.1, "what is retried is never refused"


def test_pressure_is_seen_before_anything_is_refused(daemon: Daemon, client: Client) -> None:
    """A producer would hear of a full queue only when it is refused."""
    with daemon.client() as other:
        assert other.pressure == 0.0
        seen = []
        for _ in range(10):
            seen.append(other.enqueue_sync("noop", queue="refuse").pressure)
            assert other.pressure == seen[-1]
        with pytest.raises(QueueFull):
            other.enqueue_sync("noop", queue="refuse")
        assert seen == [number / 10 for number in range(1, 11)]
        assert other.enqueue_sync("noop").pressure == 0.0, "a queue without limits"
    view = view_of(client, "refuse")
    assert (view.max_depth, view.when_full, view.pressure) == (10, "reject", 1.0)
    assert any("queue refuse is full" in text for text in client.status_sync().warnings)


def test_duplicates_are_told_by_a_full_queue(client: Client) -> None:
    """A job that is in the queue already would be refused for want of room."""
    first = client.enqueue_sync("noop", queue="refuse", unique="k")
    client.enqueue_many_sync([JobSpec("noop", queue="refuse")] * 9)
    again = client.enqueue_sync("noop", queue="refuse", unique="k")
    assert (again.id, again.duplicate, again.pressure) == (first.id, True, 1.0)
    with pytest.raises(QueueFull):
        client.enqueue_sync("noop", queue="refuse", unique="other")


def test_the_command_line_ends_with_5_and_says_how_many_are_in(daemon: Daemon, client: Client) -> None:
    """A script could not tell a full queue from a broken one, or would send a file again from its beginning."""
    lines = "".join(json.dumps({"kind": "noop", "queue": "refuse"}) + "\n" for _ in range(15))
    (daemon.folder / "pieces.toml").write_text("[limits]\nbatch = 4\n")
    done = daemon.command("enqueue", "--from", "-", "--config", "pieces.toml", stdin=lines)
    assert done.returncode == 5
    assert "stdin: 8 of 15 jobs are in the queue, up to line 8; then: queue refuse is full" in done.stderr
    assert "begins at line 9" in done.stderr
    assert len(ids(client, "refuse")) == 8
    listed = daemon.command("queue", "list").stdout
    assert "8/10" in listed
    assert "80%" in listed


# --- waiting for room


async def test_blocked_producers_go_in_in_their_order(daemon: Daemon, client: Client) -> None:
    """Somebody who came later would be served first, or two where there is room for one."""
    there = client.enqueue_many_sync([JobSpec("noop", queue="block")] * 2)
    async with daemon.client() as other:
        tasks = await blocked(other, 1, 2, 3)
        client.cancel_sync(there[0].id)
        first = await tasks[0]
        await other.queues()
        assert not tasks[1].done()
        client.cancel_sync(there[1].id)
        second = await tasks[1]
        assert ids(client, "block") == [first, second]
        client.resume_sync("block")
        third = await tasks[2]
        assert [end.result for end in client.wait_sync([first, second, third], 20)] == ["1", "2", "3"]


async def test_patience_ends_with_nothing_enqueued(daemon: Daemon, client: Client) -> None:
    """A producer would wait for ever, or its job come in after it was told that it had not."""
    there = client.enqueue_many_sync([JobSpec("noop", queue="block")] * 2)
    async with daemon.client() as other:
        (patient,) = await blocked(other, 1)
        with pytest.raises(QueueFull, match=r"queue block is full still, after 50ms: 2 jobs wait .* Nothing was enqu"):
            await other.enqueue("noop", queue="block", patience=0.05)
        with pytest.raises(
            QueueFull, match=r"queue block is full: 2 jobs wait in it, its limit is 2 \(max_depth\)\. Nothing"
        ):
            await other.enqueue("noop", queue="block", patience=0)
        with pytest.raises(QueueFull, match="3 jobs at once never fit into queue block"):
            await other.enqueue_many([JobSpec("noop", queue="block")] * 3)
        client.cancel_sync([job.id for job in there])
        taken = await patient
        assert ids(client, "block") == [taken]


async def test_the_deadline_of_a_call_ends_the_wait(daemon: Daemon, client: Client) -> None:
    """The daemon would enqueue a job for a client that has given up on it."""
    there = client.enqueue_many_sync([JobSpec("noop", queue="block")] * 2)
    async with daemon.client(timeout=0.2) as hasty:
        with pytest.raises(CallTimeout):
            await hasty.enqueue("noop", queue="block")
    client.cancel_sync([job.id for job in there])
    (one, two) = client.enqueue_many_sync([JobSpec("noop", queue="block")] * 2)
    assert ids(client, "block") == [one.id, two.id]


async def test_who_goes_away_leaves_the_line(daemon: Daemon, client: Client) -> None:
    """The job of a producer that was killed while it waited would be enqueued later, or hold up those behind it."""
    there = client.enqueue_many_sync([JobSpec("noop", queue="block")] * 2)
    async with daemon.client() as gone, daemon.client() as cancelled, daemon.client() as patient:
        (lost,) = await blocked(gone, 1)
        (dropped,) = await blocked(cancelled, 2)
        (waits,) = await blocked(patient, 3)
        await gone.aclose()
        with pytest.raises(ChannelClosed):
            await lost
        dropped.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dropped
        client.cancel_sync(there[0].id)
        third = await waits
        assert ids(client, "block") == [there[1].id, third]
        client.cancel_sync(there[1].id)
        last = client.enqueue_sync("noop", queue="block", patience=0)
        assert ids(client, "block") == [third, last.id], "and the others never come"


async def test_who_goes_away_leaves_no_payload(daemon: Daemon, client: Client) -> None:
    """Each producer that gave up at a full queue would leave its file in the spool for hours."""
    folder = daemon.folder / "perdure.db.d" / "spool"

    def whole() -> list[str]:
        return [name for name in os.listdir(folder) if not name.startswith(".")] if folder.exists() else []

    client.enqueue_many_sync([JobSpec("noop", queue="block")] * 2)
    async with daemon.client() as gone:
        waits = asyncio.create_task(gone.enqueue("noop", queue="block", blob=b"12345"))
        await async_wait_until(whole)
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        await async_wait_until(lambda: not whole())


async def test_concurrent_duplicates_shed_one_job(daemon: Daemon, client: Client) -> None:
    """Producers that enqueue the same unique job at once would throw a whole queue away."""
    there = client.enqueue_many_sync([JobSpec("noop", queue="shed")] * 3)
    async with daemon.client() as other:
        asked = [other.enqueue("noop", queue="shed", unique="k", priority=-1) for _ in range(6)]
        placed = await asyncio.gather(*asked)
    assert sorted(job.duplicate for job in placed) == [False] + [True] * 5
    assert ids(client, "shed") == [there[0].id, there[1].id, placed[0].id]


def test_a_long_file_goes_in_as_fast_as_it_is_worked_off(daemon: Daemon, client: Client) -> None:
    """`perdure enqueue --from` would give up at a full queue that lets producers wait."""
    client.resume_sync("block")
    lines = "".join(json.dumps({"kind": "noop", "queue": "block"}) + "\n" for _ in range(25))
    done = daemon.command("enqueue", "--from", "-", "--patience", "20s", "--wait", stdin=lines)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 25


async def test_many_producers_before_a_small_queue(daemon: Daemon, client: Client) -> None:
    """A wake-up would be missed, and a producer wait until its patience ends although the queue is empty."""
    client.resume_sync("block")

    async def produce(number: int) -> list[int]:
        async with daemon.client() as one:
            placed = [await one.enqueue("echo", {"value": number}, queue="block", patience=30) for _ in range(25)]
            return [job.id for job in placed]

    taken = [job_id for part in await asyncio.gather(*map(produce, range(8))) for job_id in part]
    assert len(set(taken)) == 200
    assert {end.state for end in client.wait_sync(taken, 30)} == {"completed"}
    assert view_of(client, "block").pressure == 0.0


def test_a_stop_tells_those_who_wait(tmp_path: Path) -> None:
    """A producer would hang until the daemon is gone, and not know whether its job is in."""
    daemon = make_daemon(tmp_path, QUICK + LIMITS)
    try:
        start_filled(daemon, "block", 2)

        async def wait_and_stop() -> None:
            async with daemon.client() as other:
                (task,) = await blocked(other, 1)
                assert daemon.process is not None
                daemon.process.terminate()
                with pytest.raises(DaemonStopping):
                    await task

        asyncio.run(wait_and_stop())
        assert daemon.stop() == 0
        assert query(tmp_path, "SELECT count(*) FROM jobs") == [(2,)]
    finally:
        daemon.close()


# --- shedding


def test_the_least_urgent_is_shed_and_told_of(daemon: Daemon, client: Client) -> None:
    """Urgent jobs would go for others, or a job vanish without anybody being told."""
    low = client.enqueue_sync("noop", queue="shed", priority=5)
    old, new = client.enqueue_many_sync([JobSpec("noop", queue="shed")] * 2)
    with daemon.client() as other:
        placed = other.enqueue_sync("noop", queue="shed", priority=-5)
        assert (placed.shed, placed.pressure) == (False, 1.0)
    letter = dead_letter(client, low.id)
    assert (letter.reason, letter.attempt, letter.queue) == ("shed", 0, "shed")
    (entry,) = errors_of(letter)
    assert entry["type"] == "QueueFull"
    assert entry["message"].startswith(
        "queue shed was full, and this was the least urgent of its available jobs: 4 jobs"
    )
    itself = client.enqueue_sync("noop", queue="shed", priority=1)
    assert itself.shed
    assert dead_letter(client, itself.id).reason == "shed"
    assert ids(client, "shed") == [old.id, new.id, placed.id]
    with pytest.raises(QueueFull, match="Jobs for later shed no others"):
        client.enqueue_sync("noop", queue="shed", delay="1h")
    explained = daemon.command("explain", str(low.id)).stdout
    assert "its queue, shed, was full, and no available job there was less urgent" in explained
    client.replay_sync(low.id)
    assert len(ids(client, "shed")) == 4, "a replay is never refused"


async def test_who_waits_for_a_job_hears_that_it_was_shed(daemon: Daemon, client: Client) -> None:
    """`perdure enqueue --wait` would hang for ever on a job that is in the dead letters."""
    async with daemon.client() as other:
        victim = await other.enqueue("noop", queue="shed", priority=9)
        waits = asyncio.create_task(other.wait(victim.id, 30))
        await other.request(Ping())
        await other.enqueue_many([JobSpec("noop", queue="shed")] * 3)
        (end,) = await waits
        assert (end.state, (end.error or "")[:10]) == ("dead", "QueueFull:")


def test_the_command_line_tells_of_a_shed_job(daemon: Daemon, client: Client) -> None:
    """A script would take the id of a dead job for a promise."""
    client.enqueue_many_sync([JobSpec("noop", queue="shed")] * 3)
    done = daemon.command("enqueue", "noop", "--queue", "shed", "--output", "json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["shed"], told["pressure"]) == (0, True, 1.0)
    assert f"job {told['id']} was shed: its queue is full" in done.stderr


# --- age, and restarts


def test_a_queue_whose_jobs_wait_too_long_is_full(daemon: Daemon, client: Client) -> None:
    """A queue that nobody works off would take jobs for ever, as long as it has no limit of depth."""
    first = client.enqueue_sync("noop", queue="old")

    def refused() -> bool:
        try:
            client.enqueue_sync("noop", queue="old")
        except QueueFull as error:
            return "its oldest job has been ready for" in str(error)
        return False

    wait_until(refused, 10, "the queue to be too old")
    assert view_of(client, "old").pressure > 1
    client.resume_sync("old")
    client.wait_sync(first.id, 20)

    wait_until(lambda: not refused(), 10, "the queue to take jobs again")


def test_a_restart_keeps_limits(tmp_path: Path) -> None:
    """After a restart a full queue would take as many jobs again."""
    daemon = make_daemon(tmp_path, QUICK + LIMITS)
    try:
        start_filled(daemon, "refuse", 8)
        daemon.kill()
        daemon.start()
        with daemon.client() as client:
            client.enqueue_many_sync([JobSpec("noop", queue="refuse")] * 2)
            with pytest.raises(QueueFull, match="10 jobs wait"):
                client.enqueue_sync("noop", queue="refuse")
        assert daemon.stop() == 0
        refused = daemon.command("enqueue", "noop", "--queue", "refuse")
        assert (refused.returncode, "10 jobs wait" in refused.stderr) == (5, True), "nor does it without a daemon"
    finally:
        daemon.close()
