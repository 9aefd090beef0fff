"""Cancellation of running jobs with a real daemon: each ends in time, once, and the record says how."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.client import Client
from perdure.wire.data import JobSpec, JobView
from tests.daemon.e2e import HANDLERS, QUICK, await_executing, await_rest, errors_of, running, workers_of
from tests.support.daemon import Daemon
from tests.support.wait import wait_until

GRACE_SECONDS = 0.5
#: What a busy machine may add.
SLACK_SECONDS = 1.5
SETTINGS = QUICK.replace("[jobs]", f'cancel_grace = "{GRACE_SECONDS:g}s"\n[jobs]')
CANCEL_HANDLERS = [HANDLERS, "tests.daemon.cancel_handlers"]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Two workers."""
    with running(tmp_path_factory.mktemp("cancel"), SETTINGS, handlers=CANCEL_HANDLERS) as one:
        yield one


def view_of(client: Client, job_id: int) -> JobView:
    """A job that must not be dead."""
    view = client.get_sync(job_id)
    assert view is not None
    return view


def outcome(client: Client, job_id: int) -> tuple[str, int, int]:
    """State, attempts, and how many entries its record of errors has."""
    view = view_of(client, job_id)
    return view.state, view.attempt, len(errors_of(view))


@pytest.mark.parametrize(("kind", "args"), [("nap", 60), ("spin", 60), ("awork", 60)])
def test_a_handler_that_runs_is_stopped_at_once(client: Client, daemon: Daemon, kind: str, args: float) -> None:
    """A cancel would be refused, wait for the handler's end, cost a worker, or leave no trace of what ran."""
    pids = [worker.pid for worker in workers_of(daemon)]
    job = client.enqueue_sync(kind, {"seconds": args})
    await_executing(daemon, job.id)
    started = time.monotonic()
    (verdict,) = client.cancel_sync(job.id)
    assert verdict.error is None
    assert time.monotonic() - started < SLACK_SECONDS
    assert outcome(client, job.id) == ("cancelled", 1, 1)
    (error,) = errors_of(view_of(client, job.id))
    assert error["type"] == "JobCancelled"
    assert error["message"].startswith("cancelled by ")
    assert "handlers.py" in error["traceback"]
    assert [worker.pid for worker in workers_of(daemon)] == pids


@pytest.mark.parametrize("kind", ["hold_gil", "hold_lock", "swallow", "block_loop", "suspend"])
def test_a_handler_that_will_not_end_is_killed_after_the_grace(client: Client, daemon: Daemon, kind: str) -> None:
    """It would run on for ever, its neighbours would pay for it, or nobody would know where it hung."""
    beside = [job.id for job in client.enqueue_many_sync([JobSpec("awork", '{"seconds":2}') for _ in range(4)])]
    await_executing(daemon, *beside)
    job = client.enqueue_sync(kind)
    await_executing(daemon, job.id)
    started = time.monotonic()
    (verdict,) = client.cancel_sync(job.id)
    assert verdict.error is None
    assert GRACE_SECONDS <= time.monotonic() - started < GRACE_SECONDS + 1 + SLACK_SECONDS
    assert outcome(client, job.id) == ("cancelled", 1, 1)
    (error,) = errors_of(view_of(client, job.id))
    assert error["message"].endswith("it did not end, so its worker was killed")
    assert kind == "suspend" or kind in error["stacks"]
    assert daemon.events("jobs.stopped_by_force")[-1]["jobs"] == [job.id]
    assert {end.state for end in client.wait_sync(beside, 20)} == {"completed"}
    assert {view_of(client, one).interruptions for one in beside} == {0}


@pytest.mark.parametrize("kind", ["catch", "acatch"])
def test_a_handler_that_returns_all_the_same_has_completed(client: Client, daemon: Daemon, kind: str) -> None:
    """Its result would be lost, or who cancelled would be told that nothing was done."""
    job = client.enqueue_sync(kind, {"seconds": 60})
    await_executing(daemon, job.id)
    (verdict,) = client.cancel_sync(job.id)
    assert verdict.error is not None
    assert (verdict.error.type, "completed" in verdict.error.message) == ("WrongState", True)
    view = view_of(client, job.id)
    assert (view.state, view.result, view.errors) == ("completed", '"done all the same"', None)


@pytest.mark.parametrize("kind", ["tidy", "atidy"])
def test_a_handler_may_clean_up(client: Client, daemon: Daemon, tmp_path: Path, kind: str) -> None:
    """Its finally blocks would not run, or would not be waited for; the second who cancels would break them off."""
    file = tmp_path / "witness"
    job = client.enqueue_sync(kind, {"file": str(file), "seconds": 60})
    wait_until(file.exists)
    verdicts = client.cancel_sync([job.id, job.id])
    assert [verdict.error for verdict in verdicts] == [None, None]
    assert file.read_text() == "begun\ntidied\n"
    assert outcome(client, job.id) == ("cancelled", 1, 1)


def test_the_command_answers_for_each_id(client: Client, daemon: Daemon) -> None:
    """One id that cannot be cancelled would hide the others, or its exit code would be lost."""
    done = client.enqueue_sync("noop")
    client.wait_sync(done.id, 20)
    waiting, napping = client.enqueue_sync("noop", delay="1h"), client.enqueue_sync("nap", {"seconds": 60})
    asleep, caught = client.enqueue_sync("awork", {"seconds": 60}), client.enqueue_sync("acatch", {"seconds": 60})
    await_executing(daemon, napping.id, asleep.id, caught.id)
    ids = [waiting.id, napping.id, asleep.id]
    result = daemon.command("cancel", *map(str, [*ids, caught.id, done.id, 10**9]))
    assert result.stdout.splitlines() == [f"{job_id} cancelled" for job_id in ids]
    assert f"job {caught.id} completed before it could be stopped" in result.stderr
    assert f"job {done.id} is completed: there is nothing to cancel" in result.stderr
    assert result.returncode == 5
    again = client.enqueue_sync("nap", {"seconds": 60})
    await_executing(daemon, again.id)
    assert daemon.command("cancel", str(again.id)).returncode == 0


def test_jobs_sent_ahead_are_taken_back(client: Client, daemon: Daemon) -> None:
    """They would run, or be charged an attempt."""
    short = client.enqueue_many_sync([JobSpec("nap", '{"seconds":0}') for _ in range(50)])
    client.wait_sync([job.id for job in short], 20)
    naps = [job.id for job in client.enqueue_many_sync([JobSpec("nap", '{"seconds":60}') for _ in range(10)])]
    wait_until(lambda: sum(len({*worker.executing} & {*naps}) for worker in workers_of(daemon)) == 2)
    assert [verdict.error for verdict in client.cancel_sync(naps)] == [None] * 10
    views = [view_of(client, job_id) for job_id in naps]
    assert sorted((view.state, view.attempt) for view in views) == [("cancelled", 0)] * 8 + [("cancelled", 1)] * 2


def test_jobs_are_cancelled_the_moment_they_are_enqueued(client: Client) -> None:
    """Between the store and a worker nobody would find them: they would run although their canceller has asked."""
    for count in range(1, 21):
        naps = [job.id for job in client.enqueue_many_sync([JobSpec("nap", '{"seconds":60}') for _ in range(count)])]
        assert [verdict.error for verdict in client.cancel_sync(naps)] == [None] * count


def test_a_job_that_runs_alone_is_stopped(client: Client, daemon: Daemon) -> None:
    """Those on their last life would be out of reach."""
    job = client.enqueue_sync("last_life", max_interruptions=2)
    wait_until(lambda: view_of(client, job.id).attempt == 2, 20)
    await_executing(daemon, job.id)
    assert client.cancel_sync(job.id)[0].error is None
    assert outcome(client, job.id) == ("cancelled", 2, 2)


def test_a_cancelled_job_can_be_run_again(client: Client, daemon: Daemon) -> None:
    """The wish would hit the next life of the job, in the same worker."""
    job = client.enqueue_sync("nap", {"seconds": 0.3})
    for _ in range(3):
        await_executing(daemon, job.id)
        assert client.cancel_sync(job.id)[0].error is None
        assert client.retry_sync(job.id)[0].error is None
    assert client.wait_sync(job.id, 20)[0].state == "completed"


@pytest.mark.parametrize("total", [400, pytest.param(1_000, marks=pytest.mark.channels_long)])
async def test_random_cancels_leave_nothing_behind(daemon: Daemon, total: int) -> None:
    """Any moment of a job's life: a slot would stay taken, an outcome be lost, or be told twice."""
    await_rest(daemon)
    rng = random.Random(7)
    specs = [JobSpec(rng.choice(["moment", "amoment"]), f'{{"seed":{n}}}') for n in range(total)]
    async with Client(daemon.socket, timeout=60) as client:

        async def live(spec: JobSpec) -> tuple[int, str | None]:
            """Enqueue one, wait a moment, cancel it, perhaps twice at once."""
            (job,) = await client.enqueue_many([spec])
            for _ in range(rng.randrange(12)):
                await client.get(job.id)
            answers = await asyncio.gather(*(client.cancel(job.id) for _ in range(rng.choice([1, 1, 2]))))
            errors = {verdict.error.type if verdict.error else None for (verdict,) in answers}
            assert errors <= {None, "WrongState"}
            return job.id, None if None in errors else errors.pop()

        told: dict[int, str | None] = {}
        for first in range(0, total, 50):
            told |= dict(await asyncio.gather(*map(live, specs[first : first + 50])))
        views = [await client.get(job_id) for job_id in told]
    ended = [view for view in views if view is not None]
    assert len(ended) == total
    assert {(told[view.id], view.state) for view in ended} == {(None, "cancelled"), ("WrongState", "completed")}
    # Not begun: no attempt, no entry; begun: one of each, unless it completed.
    assert {(view.attempt, len(errors_of(view))) for view in ended} == {(0, 0), (1, 1), (1, 0)}
    assert all(view.state == "completed" for view in ended if view.attempt and not view.errors)
    await_rest(daemon)
