"""What becomes of jobs in a real daemon: results, logs, budgets, order, delays, limits, taking back."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.client import Client
from perdure.errors import CallTimeout, Duplicate, InvalidArguments, InvalidOption, PerdureError
from perdure.wire.data import JobSpec
from tests.daemon.e2e import QUICK, await_executing, await_rest, dead_letter, end_of, errors_of, running
from tests.support.daemon import Daemon
from tests.support.wait import wait_until

ONE_WORKER = QUICK.replace("count = 2", "count = 1")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One worker, so that order can be seen."""
    with running(tmp_path_factory.mktemp("jobs"), ONE_WORKER) as one:
        yield one


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    """A client; the daemon is idle before and after."""
    await_rest(daemon, 1)
    with daemon.client() as one:
        yield one
    await_rest(daemon, 1)


def lines(file: Path) -> list[str]:
    """What the handlers have noted."""
    return file.read_text().split() if file.exists() else []


# --- results, logs, budgets


def test_results_come_back(client: Client) -> None:
    """Who waits for a result would get nothing, or another job's."""
    values = [None, 0, [1, 2.5, "drei", None, True], {"ü": {"x": [[]]}}, "", False]
    jobs = [client.enqueue_sync("echo", {"value": value}) for value in values]
    ends = client.wait_sync([job.id for job in jobs], 20)
    assert [end.state for end in ends] == ["completed"] * len(values)
    assert [end.result for end in ends] == [
        None, "0", '[1,2.5,"drei",null,true]', '{"ü":{"x":[[]]}}', '""', "false"
    ]  # fmt: skip


def test_a_large_result_is_kept_and_a_larger_one_is_a_file(client: Client) -> None:
    """The queue's file would fill up, or a result would be cut in silence."""
    mebibyte = 1024 * 1024
    fits = end_of(client, client.enqueue_sync("fat", {"bytes": mebibyte - 2}).id)
    assert (fits.state, len(fits.result or ""), fits.blob) == ("completed", mebibyte, None)
    larger = end_of(client, client.enqueue_sync("fat", {"bytes": mebibyte - 1}).id)
    assert (larger.state, larger.result) == ("completed", None)
    assert larger.blob is not None
    assert larger.blob.size == mebibyte + 1
    assert len(client.result_sync(larger.id)) == mebibyte - 1


def test_arguments_up_to_the_limit(client: Client) -> None:
    """Arguments just under 1 MiB would not reach the worker; above, the refusal would not say why."""
    room = 1024 * 1024 - len('{"text":""}')
    end = end_of(client, client.enqueue_sync("size", {"text": "x" * room}).id)
    assert (end.state, end.result) == ("completed", str(room))
    with pytest.raises(PerdureError, match=r"limits\.args"):
        client.enqueue_sync("size", {"text": "x" * (room + 1)})


def test_many_large_arguments_at_once(client: Client) -> None:
    """A batch of large jobs would overflow a packet."""
    jobs = client.enqueue_many_sync([("size", {"text": "x" * 300_000}) for _ in range(20)])
    assert {end.result for end in client.wait_sync([job.id for job in jobs], 30)} == {"300000"}


def test_what_a_job_prints_is_in_its_log(client: Client) -> None:
    """`perdure logs` would show nothing, or the lines of others."""
    job, other = client.enqueue_sync("speak"), client.enqueue_sync("noop")
    client.wait_sync([job.id, other.id], 20)
    piece = client.log_sync(job.id)
    assert piece.finished
    assert "a line from print" in piece.text
    assert "a.line" in piece.text
    assert client.log_sync(other.id).text == ""


def test_wrong_arguments_are_refused_before_anything_is_taken(client: Client) -> None:
    """A job that cannot run would be found out at night."""
    with pytest.raises(InvalidArguments, match="seconds"):
        client.enqueue_many_sync([("nap", {"seconds": 0}), ("nap", {"seconds": "long"})])
    with pytest.raises(InvalidOption):
        client.enqueue_sync("noop", queue="a/b")


def test_retry_after_and_budgets(client: Client) -> None:
    """A handler could not say when to try again; a budget would hold for too long or too short."""
    job = client.enqueue_sync("attempts", {"failures": 2, "after": 0.01})
    assert end_of(client, job.id).result == "3"
    letter = dead_letter(client, client.enqueue_sync("attempts", {"failures": 9, "after": 0}, max_attempts=3).id)
    assert (letter.reason, letter.attempt, len(errors_of(letter))) == ("attempts", 3, 3)
    later = client.enqueue_sync("attempts", {"failures": 1, "after": 3600})
    wait_until(lambda: _state(client, later.id) == "retryable")
    view = client.get_sync(later.id)
    assert view is not None
    assert view.attempted_at is not None
    assert 3_590_000 < view.scheduled_at - view.attempted_at < 3_610_000
    client.cancel_sync(later.id)


def test_permanent_errors_are_not_tried_again(client: Client) -> None:
    """A job that can never work would burn its budget first."""
    letter = dead_letter(client, client.enqueue_sync("fail", {"permanent": True}).id)
    assert (letter.reason, letter.attempt) == ("permanent", 1)
    assert "this can never work" in errors_of(letter)[0]["message"]


def test_the_soft_limit_raises_in_the_handler(client: Client, daemon: Daemon) -> None:
    """A timeout would cost a worker, though the handler can be stopped."""
    before = [worker.pid for worker in client.status_sync().workers]
    for kind in ("nap", "awork"):
        letter = dead_letter(client, client.enqueue_sync(kind, {"seconds": 60}, timeout=0.1, max_attempts=1).id)
        (error,) = errors_of(letter)
        assert error["type"] == "JobTimeout"
        assert "e2e_handlers.py" in error["traceback"]
    assert [worker.pid for worker in client.status_sync().workers] == before


# --- order and time


def test_priorities_decide_the_order(client: Client, tmp_path: Path) -> None:
    """An urgent job would wait behind a thousand others."""
    file = tmp_path / "order"
    client.pause_sync("ordered")
    for number, priority in enumerate((5, 0, -20, 19, 0, -3)):
        args = {"file": str(file), "text": f"{priority}/{number}"}
        client.enqueue_sync("note", args, queue="ordered", priority=priority)
    client.resume_sync("ordered")
    wait_until(lambda: len(lines(file)) == 6)
    assert lines(file) == ["-20/2", "-3/5", "0/1", "0/4", "5/0", "19/3"]


def test_a_paused_queue_waits_and_others_go_on(client: Client) -> None:
    """A pause would be ignored, forgotten, or stop everything."""
    client.pause_sync("held")
    job = client.enqueue_sync("noop", queue="held")
    assert end_of(client, client.enqueue_sync("noop").id).state == "completed"
    assert _state(client, job.id) == "available"
    assert client.status_sync().queues_paused == ["held"]
    client.resume_sync("held")
    assert end_of(client, job.id).state == "completed"


def test_delayed_jobs_run_when_due(client: Client) -> None:
    """A delayed job would run at once, or never."""
    job = client.enqueue_sync("noop", delay=0.3)
    assert _state(client, job.id) == "scheduled"
    assert end_of(client, job.id).state == "completed"
    view = client.get_sync(job.id)
    assert view is not None
    assert view.attempted_at is not None
    assert 290 <= view.attempted_at - view.created_at < 1500


def test_a_unique_key_holds_until_its_job_has_ended(client: Client) -> None:
    """The same work would be queued twice, or never again."""
    first = client.enqueue_sync("noop", unique="k", delay="1h")
    again = client.enqueue_sync("noop", unique="k")
    assert (again.id, again.duplicate) == (first.id, True)
    with pytest.raises(Duplicate):
        client.enqueue_sync("noop", unique="k", strict=True)
    client.retry_sync(first.id)
    assert end_of(client, first.id).state == "completed"
    assert not client.enqueue_sync("noop", unique="k").duplicate


# --- taking back, waiting


def test_queued_jobs_can_be_cancelled(client: Client) -> None:
    """A mistake could not be taken back."""
    job = client.enqueue_sync("noop", delay="1h")
    assert [verdict.error for verdict in client.cancel_sync(job.id)] == [None]
    assert end_of(client, job.id).state == "cancelled"
    (again,) = client.cancel_sync(job.id)
    assert again.error is not None


def test_jobs_sent_ahead_can_be_cancelled_beside_one_that_runs(client: Client, daemon: Daemon, tmp_path: Path) -> None:
    """Prefetch would take away what a producer may do with a job that has not begun."""
    client.wait_sync([job.id for job in client.enqueue_many_sync([JobSpec("note", _note(tmp_path))] * 50)], 20)
    blocker = client.enqueue_sync("work", {"file": str(tmp_path / "work"), "seconds": 1.0})
    file = tmp_path / "cancelled"
    behind = client.enqueue_many_sync([JobSpec("note", _note(file)) for _ in range(30)])
    await_executing(daemon, blocker.id)
    verdicts = client.cancel_sync([job.id for job in behind])
    assert [verdict.error for verdict in verdicts] == [None] * 30
    ends = client.wait_sync([job.id for job in behind], 20)
    assert {end.state for end in ends} == {"cancelled"}
    assert end_of(client, blocker.id).state == "completed"
    assert lines(file) == []


def test_waiting_has_a_limit_and_leaves_nothing_behind(client: Client) -> None:
    """A wait that was given up would hold on to the daemon's memory, or to the connection."""
    job = client.enqueue_sync("noop", delay="1h")
    for _ in range(3):
        with pytest.raises(CallTimeout):
            client.wait_sync(job.id, 0.05)
    client.retry_sync(job.id)
    assert end_of(client, job.id).state == "completed"


def test_queues_share_the_worker(client: Client, tmp_path: Path) -> None:
    """A queue with a long backlog would starve the others."""
    file = tmp_path / "shared"
    for name in ("large", "small"):
        client.pause_sync(name)
    client.enqueue_many_sync([JobSpec("note", _note(file, "large"), queue="large") for _ in range(1500)])
    client.enqueue_many_sync([JobSpec("note", _note(file, "small"), queue="small") for _ in range(20)])
    for name in ("large", "small"):
        client.resume_sync(name)
    wait_until(lambda: len(lines(file)) == 1520, 30)
    last_small = max(itertools.compress(itertools.count(), (line == "small" for line in lines(file))))
    assert last_small < 1000


def _note(file: Path, text: str = "x") -> str:
    return f'{{"file":"{file}","text":"{text}"}}'


def _state(client: Client, job_id: int) -> str:
    view = client.get_sync(job_id)
    return view.state if view else "gone"
