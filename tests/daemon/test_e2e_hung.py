"""T14, T15: jobs that hang are gone within their limit and a second, and their record says where they hung."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from perdure.client import Client
from perdure.wire.data import JobSpec
from tests.daemon.e2e import (
    QUICK,
    await_executing,
    dead_letter,
    end_of,
    errors_of,
    kill,
    running,
    workers_of,
)
from tests.support.daemon import Daemon
from tests.support.wait import wait_until

#: Grace 200 ms, so that the tests are short; a worker that begins nothing for a second is stuck.
SETTINGS = QUICK.replace("[jobs]", 'hard_grace = "200ms"\nstuck_after = "1s"\n[jobs]')
LIMIT_SECONDS = 0.2
#: What a busy machine may add to the promised second.
SLACK_SECONDS = 0.8


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Two workers that hang often."""
    with running(tmp_path_factory.mktemp("hung"), SETTINGS) as one:
        yield one


@pytest.mark.parametrize("kind", ["hold_gil", "hold_lock", "swallow", "block_loop"])
def test_a_hung_handler_is_gone_in_time_with_its_stacks(client: Client, daemon: Daemon, kind: str) -> None:
    """T14: a job that cannot be interrupted would hold its worker for ever, and nobody would know where it hung."""
    started = time.monotonic()
    job = client.enqueue_sync(kind, timeout=LIMIT_SECONDS, max_attempts=1)
    letter = dead_letter(client, job.id)
    assert time.monotonic() - started < LIMIT_SECONDS + 1 + SLACK_SECONDS
    (error,) = errors_of(letter)
    assert (letter.reason, letter.interruptions, error["type"]) == ("attempts", 0, "JobTimeout")
    assert "e2e_handlers.py" in error["stacks"]
    assert kind in error["stacks"]
    assert error["stacks"].count("hread 0x") >= 2


def test_the_stacks_name_suspended_tasks(client: Client) -> None:
    """T14: no thread's stack shows a coroutine that waits."""
    letter = dead_letter(client, client.enqueue_sync("swallow", timeout=LIMIT_SECONDS, max_attempts=1).id)
    (error,) = errors_of(letter)
    assert f"Task job {letter.id} swallow attempt 1" in error["stacks"]
    assert "await asyncio.sleep(60)" in error["stacks"]


def test_neighbours_of_a_hung_job_are_not_charged(client: Client, daemon: Daemon) -> None:
    """T14: whoever runs beside a hung job would pay for its end."""
    beside = [job.id for job in client.enqueue_many_sync([JobSpec("awork", '{"seconds":1}') for _ in range(6)])]
    await_executing(daemon, *beside)
    dead_letter(client, client.enqueue_sync("swallow", timeout=LIMIT_SECONDS, max_attempts=1).id)
    assert {end.state for end in client.wait_sync(beside, 20)} == {"completed"}
    views = [client.get_sync(job_id) for job_id in beside]
    assert {(view.interruptions, view.errors) for view in views if view} == {(0, None)}


def test_other_jobs_flow_while_one_hangs(client: Client, daemon: Daemon) -> None:
    """T14: jobs that were sent to the worker of a hung one would wait with it although another worker is free."""
    hung = client.enqueue_sync("hold_lock", timeout=2, max_attempts=1)
    await_executing(daemon, hung.id)
    jobs = client.enqueue_many_sync([JobSpec("noop") for _ in range(200)])
    started = time.monotonic()
    assert {end.state for end in client.wait_sync([job.id for job in jobs], 10)} == {"completed"}
    assert time.monotonic() - started < 1.5
    dead_letter(client, hung.id)


def test_a_hung_job_is_retried_within_its_budget(client: Client) -> None:
    """T14: a hang that is over the next time would be final, or would count as a crash."""
    letter = dead_letter(client, client.enqueue_sync("hold_lock", timeout=0.1, max_attempts=2).id)
    assert (letter.reason, letter.attempt, letter.interruptions) == ("attempts", 2, 0)
    assert [error["type"] for error in errors_of(letter)] == ["JobTimeout"] * 2


def test_a_stopped_worker_with_a_limit_is_replaced(client: Client) -> None:
    """T15: a process that was stopped is alive for every check of its pid."""
    letter = dead_letter(client, client.enqueue_sync("suspend", timeout=LIMIT_SECONDS, max_attempts=1).id)
    assert errors_of(letter)[0]["type"] == "JobTimeout"


def test_a_worker_that_begins_nothing_is_replaced(client: Client, daemon: Daemon) -> None:
    """T15: a worker that lives but has stopped working would keep its jobs for ever."""
    victims = [worker.pid for worker in workers_of(daemon)]
    for pid in victims:
        kill(pid, signal.SIGSTOP)
    job = client.enqueue_sync("noop")
    end = end_of(client, job.id, 10)
    view = client.get_sync(job.id)
    for pid in victims:
        kill(pid, signal.SIGCONT)
    assert end.state == "completed"
    assert view is not None
    assert (view.attempt, view.interruptions) == (1, 0)
    assert daemon.events("worker.stuck")


def test_a_lane_that_died_is_noticed(client: Client, daemon: Daemon) -> None:
    """T15: the heart of a worker beats on while the lane that should run its jobs is gone."""
    assert end_of(client, client.enqueue_sync("sabotage").id).state == "completed"
    count = len(daemon.events("worker.stuck"))
    jobs = client.enqueue_many_sync([JobSpec("noop") for _ in range(40)])
    assert {end.state for end in client.wait_sync([job.id for job in jobs], 15)} == {"completed"}
    wait_until(lambda: len(daemon.events("worker.stuck")) > count, 10, "the silent worker to be seen")
    views = [client.get_sync(job.id) for job in jobs]
    assert {view.interruptions for view in views if view} == {0}
