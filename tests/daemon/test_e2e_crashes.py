"""T11, T13: jobs that kill their worker go to the dead letters with the cause, and take nobody along."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from perdure.client import Client
from perdure.wire.data import JobSpec
from tests.daemon.e2e import (
    QUICK,
    await_executing,
    await_rest,
    dead_letter,
    end_of,
    errors_of,
    kill,
    running,
    workers_of,
)
from tests.support.daemon import Daemon
from tests.support.wait import wait_until


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Two workers that die often."""
    with running(tmp_path_factory.mktemp("crashes"), QUICK + "max_interruptions = 2\n") as one:
        yield one


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    """A client; afterwards every worker is there again and idle."""
    with daemon.client() as one:
        yield one
    await_rest(daemon)


@pytest.mark.parametrize("lane", ["crash", "acrash"])
@pytest.mark.parametrize(
    ("how", "cause", "in_stacks"),
    [
        ("exit", {"status": 7}, ""),
        ("segv", {"signal": "SIGSEGV"}, "in crash"),
        ("abort", {"signal": "SIGABRT"}, "in crash"),
        ("kill", {"signal": "SIGKILL"}, ""),
        ("term", {"signal": "SIGTERM"}, ""),
        ("c-stack", {"signal": "SIGSEGV"}, "_recurse"),
    ],
)
def test_a_poisonous_job_is_quarantined(
    client: Client, lane: str, how: str, cause: dict[str, object], in_stacks: str
) -> None:
    """T11: it would kill workers for ever, or die without a word about why."""
    letter = dead_letter(client, client.enqueue_sync(lane, {"how": how}).id)
    errors = errors_of(letter)
    assert (letter.reason, letter.interruptions, len(errors)) == ("interruptions", 2, 2)
    for error in errors:
        assert error["type"] == "JobInterrupted"
        assert cause.items() <= error["exit"].items()
        assert {"pid", "cpu_seconds", "max_rss_bytes"} <= error["exit"].keys()
        # The end of its stack leaves a second thread no room to write: Python has a spare one for the first only.
        assert in_stacks in error.get("stacks", "") or (lane, how) == ("acrash", "c-stack")


@pytest.mark.parametrize(("kind", "error"), [("recurse", "RecursionError"), ("hoard", "MemoryError")])
def test_a_shortage_that_python_sees_is_a_failure_only(client: Client, daemon: Daemon, kind: str, error: str) -> None:
    """T11: a worker would die of what an exception can tell."""
    await_rest(daemon)
    before = {worker.pid for worker in workers_of(daemon)}
    letter = dead_letter(client, client.enqueue_sync(kind, max_attempts=1).id)
    assert (letter.reason, letter.interruptions) == ("attempts", 0)
    assert errors_of(letter)[-1]["type"] == error
    assert {worker.pid for worker in workers_of(daemon)} == before


def test_neighbours_are_not_hurt(client: Client) -> None:
    """T11: jobs beside a poisonous one would be lost, charged as failed, or buried with it."""
    neighbours = [JobSpec("noop" if n % 3 else "anoop") for n in range(300)]
    poison = [JobSpec("crash", f'{{"how":"{how}"}}', priority=n) for n, how in enumerate(("exit", "segv", "kill"))]
    mixed = [*neighbours[:150], poison[0], *neighbours[150:], *poison[1:]]
    jobs = client.enqueue_many_sync(mixed)
    ends = client.wait_sync([job.id for job in jobs], 40)
    dead = [index for index, end in enumerate(ends) if end.state == "dead"]
    assert [mixed[index].kind for index in dead] == ["crash"] * 3
    assert sum(end.state == "completed" for end in ends) == 300
    views = [client.get_sync(job.id) for job, end in zip(jobs, ends, strict=True) if end.state == "completed"]
    assert max(view.interruptions for view in views if view) <= 1


def test_jobs_beside_a_crash_in_the_async_lane_are_run_again(client: Client, daemon: Daemon) -> None:
    """T11: long jobs in the same worker would end with it."""
    beside = client.enqueue_many_sync([JobSpec("awork", '{"seconds":0.5}') for _ in range(8)])
    ids = [job.id for job in beside]
    await_executing(daemon, *ids)
    poison = client.enqueue_sync("acrash", {"how": "exit"})
    dead_letter(client, poison.id)
    assert {end.state for end in client.wait_sync(ids, 20)} == {"completed"}


def test_a_killed_worker_is_replaced_at_once(client: Client, daemon: Daemon) -> None:
    """A daemon would run with fewer and fewer workers."""
    await_rest(daemon)
    for worker in workers_of(daemon):
        kill(worker.pid, signal.SIGKILL)
    assert end_of(client, client.enqueue_sync("noop").id, 10).state == "completed"


def test_an_idle_workers_death_charges_nobody(client: Client, daemon: Daemon) -> None:
    """Jobs that wait for a worker would pay for its end."""
    await_rest(daemon)
    for worker in workers_of(daemon):
        kill(worker.pid, signal.SIGSTOP)
    jobs = client.enqueue_many_sync([JobSpec("noop") for _ in range(10)])
    wait_until(lambda: any(worker.waiting for worker in workers_of(daemon)), 10, "jobs to be sent ahead")
    for worker in workers_of(daemon):
        kill(worker.pid, signal.SIGKILL)
    client.wait_sync([job.id for job in jobs], 20)
    views = [client.get_sync(job.id) for job in jobs]
    assert {(view.state, view.attempt, view.interruptions) for view in views if view} == {("completed", 1, 0)}


def test_the_cap_survives_a_replay(client: Client) -> None:
    """T13: each replay of a poisonous job would be worth more crashes than the budget says."""
    job = client.enqueue_sync("crash", {"how": "exit"})
    first = dead_letter(client, job.id)
    assert first.max_interruptions == 2
    assert [verdict.error for verdict in client.replay_sync(job.id)] == [None]
    wait_until(
        lambda: (letter := client.dead_get_sync(job.id)) is not None and letter.deaths == 2, 20, "its second death"
    )
    second = client.dead_get_sync(job.id)
    assert second is not None
    assert (second.reason, second.max_interruptions, second.deaths) == ("interruptions", 2, 2)
    assert len(errors_of(second)) <= 4
    assert client.replay_sync(job.id, {"how": "none"})[0].error is None
    assert end_of(client, job.id).state == "completed"
