"""Workers and the services that jobs call: breakers, what is told of calls, time limits, the end."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import Any

import pytest

from perdure.wire.dependencies import BreakerState, Dependencies, Policy, QdrantOptions
from perdure.wire.work import Breakers, Done, Drain, Observed
from tests.support.wait import wait_until
from tests.worker.rig import BOTH, Rig, Worker, job_row

HANDLERS = "tests.worker.dependency_handlers"
#: No second try, so that a failed call is one call.
POLICY = Policy(tries=1)
#: For the fixtures `rig` and `worker`: these handlers and the driver of Qdrant; a worker that knows of "billing".
MODULES = ("perdure.adapters.qdrant", HANDLERS)
WORKER = {"dependencies": Dependencies(policies={"billing": POLICY, "postgres": POLICY}), "store_id": "s1"}


def breaker(worker: Worker, state: Any, probe_job: int = 0, name: str = "billing") -> None:
    worker.send(Breakers([BreakerState(name, state, 0, probe_job)]))


def counts(worker: Worker) -> tuple[int, int]:
    """Good and failed calls that were told."""
    return sum(seen.ok for seen in worker.observed), sum(seen.failed for seen in worker.observed)


# --- before a job begins


@BOTH
def test_a_job_whose_need_is_away_does_not_begin(worker: Worker, lane: str) -> None:
    """Jobs that were on their way when a breaker opened would run into the outage, one attempt each."""
    kind = f"{lane}needy"
    breaker(worker, "open")
    worker.perform(job_row(1, kind), job_row(2, "marks"))
    failed = worker.failed[1]
    assert (failed.dependency, failed.refused, failed.retryable) == ("billing", True, True)
    assert failed.error.type == "BreakerOpen"
    breaker(worker, "half_open", probe_job=4)
    worker.perform(job_row(3, kind), job_row(4, kind))
    assert worker.failed[3].refused
    assert worker.results[4] == "ran"
    breaker(worker, "closed")
    worker.perform(job_row(5, kind))
    assert worker.results[5] == "ran"


# --- calls


@BOTH
def test_a_failed_call_is_told_before_the_end_of_its_job(worker: Worker, lane: str) -> None:
    """The supervisor would charge the job for an outage of which it hears a moment later."""
    worker.perform(job_row(1, f"{lane}call", {"how": "gone", "times": 3}))
    failed = worker.failed[1]
    assert (failed.dependency, failed.refused, failed.error.type) == ("billing", False, "ConnectionRefusedError")
    first = worker.order[0]
    assert isinstance(first, Observed)
    assert (first.name, first.ok, first.failed) == ("billing", 2, 1)
    assert first.error is not None
    assert "billing is not there" in first.error


@BOTH
def test_many_failed_calls_are_told_before_their_jobs_end_even_if_the_supervisor_reads_slowly(
    worker: Worker, lane: str
) -> None:
    """Under load, when breakers matter most, the order would be lost."""
    count = 1500
    worker.run(*(job_row(n, f"{lane}call", {"how": "gone"}) for n in range(1, count + 1)))
    looks = [-2, -1]
    wait_until(lambda: looks.append(worker.page.progress) or looks[-1] == looks[-2] > 0, what="a worker that is stuck")
    assert looks[-1] < count
    seen = ended = 0
    worker.wait_for(*range(1, count + 1))
    for message in worker.order:
        if isinstance(message, Done):
            ended += len(message.failed)
            assert ended <= seen
        else:
            seen += message.failed
    assert (seen, ended) == (count, count)


@BOTH
def test_good_calls_are_told_together(worker: Worker, lane: str) -> None:
    """A message for each call would cost more than the calls."""
    worker.perform(job_row(1, f"{lane}call", {"times": 200}))
    worker.pump(lambda: counts(worker) == (200, 0))
    assert len(worker.observed) < 20


def test_good_calls_are_told_while_their_job_goes_on(worker: Worker) -> None:
    """A job that runs for an hour would hide that its service works."""
    worker.run(job_row(1, "acall_and_wait"))
    worker.pump(lambda: counts(worker) == (1, 0))
    assert 1 not in worker.known()


@BOTH
def test_a_mistake_of_the_caller_is_a_good_call(worker: Worker, lane: str) -> None:
    """One wrong job could shut a service for all others."""
    worker.perform(job_row(1, f"{lane}call", {"how": "bug"}))
    assert (worker.failed[1].error.type, worker.failed[1].dependency) == ("KeyError", None)
    worker.pump(lambda: counts(worker) == (1, 0))


@BOTH
def test_a_job_that_meets_an_open_breaker_is_refused(worker: Worker, lane: str) -> None:
    """It would be charged for an outage that is known."""
    breaker(worker, "open")
    worker.perform(job_row(1, f"{lane}call"))
    assert (worker.failed[1].dependency, worker.failed[1].refused) == ("billing", True)
    worker.perform(job_row(2, "in_spite"))
    assert worker.results[2] == "without"
    assert worker.observed == []


@BOTH
def test_the_verdict_of_a_probe_is_told_at_once(worker: Worker, lane: str) -> None:
    """The breaker would stay half open until the job ends."""
    breaker(worker, "half_open", probe_job=7)
    worker.perform(job_row(6, f"{lane}call"), job_row(7, f"{lane}call", {"times": 3}))
    assert worker.failed[6].refused
    assert worker.results[7] == "ok"
    verdict = next(message for message in worker.order if isinstance(message, Observed))
    assert (verdict.probe_job, verdict.ok, verdict.failed) == (7, 1, 0)


def test_child_tasks_and_threads_of_a_handler_may_call(worker: Worker) -> None:
    """Handlers that do several things at once could not use the adapters."""
    worker.perform(job_row(1, "around"), job_row(2, "same_thread"))
    assert worker.results == {1: {"child": "child", "thread": "thread"}, 2: True}


def test_the_wrong_lane_gets_advice(worker: Worker) -> None:
    """A blocking call on the loop would stop it for ever; a coroutine in a thread would fail in odd ways."""
    worker.perform(job_row(1, "wrong_place"), job_row(2, "awrong_place"))
    assert "ctx.blocking.guard" in worker.failed[1].error.message
    assert "await ctx.postgres" in worker.failed[2].error.message


def test_marks_name_queue_job_and_key(worker: Worker) -> None:
    """Two queues on one database would take each other's effects for done."""
    worker.perform(job_row(5, "marks"))
    assert worker.results[5] == ["s1:5.0:a", "s1:all:a"]


# --- adapters


def qdrant(options: QdrantOptions, **policy: Any) -> Dependencies:
    return Dependencies(qdrant=options, policies={"qdrant": Policy(tries=1, **policy)})


def test_both_lanes_share_an_adapter(rig: Rig, tmp_path: Path) -> None:
    """Each lane would have connections of its own; the embedded Qdrant lets one process open it once."""
    worker = rig.fork(dependencies=qdrant(QdrantOptions(path=str(tmp_path / "points")), timeout_ms=30_000))
    worker.perform(job_row(1, "write_point"))
    assert worker.results == {1: 1}, worker.report()
    worker.perform(job_row(2, "awrite_point"))
    worker.perform(job_row(2, "awrite_point", attempt=2), job_row(3, "count_points"))
    assert worker.results == {1: 1, 2: 2, 3: 2}, worker.report()
    worker.send(Drain())
    assert worker.wait_exit() == 0
    worker.drain_messages()
    assert counts(worker)[1] == 0
    assert counts(worker)[0] > 5


class BlackHole:
    """Accepts connections and never answers."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(10)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> BlackHole:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def accept(self) -> socket.socket:
        """The next connection."""
        return self._listener.accept()[0]


@BOTH
@pytest.mark.parametrize("kind", ["count_points"])
def test_a_time_limit_ends_a_call_that_hangs(rig: Rig, lane: str, kind: str) -> None:
    """A job that is over would go on in the loop, and keep its connection."""
    with BlackHole() as hole:
        worker = rig.fork(dependencies=qdrant(QdrantOptions(url=hole.url, timeout_ms=60_000), timeout_ms=60_000))
        worker.run(job_row(1, lane + kind, timeout_ms=700))
        connection = hole.accept()
        worker.wait_for(1)
        assert worker.failed[1].error.type in ("JobTimeout", "CallTooLong")
        connection.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(4096):
                pass
        connection.close()
        assert counts(worker) == (0, 0)
        worker.send(Drain())
        assert worker.wait_exit() == 0


def test_a_call_that_hangs_does_not_hold_up_the_end(rig: Rig) -> None:
    """A drained worker would have to be killed."""
    with BlackHole() as hole:
        worker = rig.fork(dependencies=qdrant(QdrantOptions(url=hole.url, timeout_ms=1_000), timeout_ms=1_000))
        worker.run(job_row(1, "acount_points"))
        connection = hole.accept()
        worker.send(Drain())
        worker.wait_for(1)
        assert worker.failed[1].dependency == "qdrant"
        assert worker.wait_exit() == 0
        connection.close()
