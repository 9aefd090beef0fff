"""A cancellation is under way when the daemon stops, reloads, is killed, or is not there at all."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from perdure.client import Client
from perdure.errors import CallTimeout
from perdure.wire.data import Verdict
from tests.daemon.e2e import HANDLERS, QUICK, await_executing, end_of, make_daemon, query, running
from tests.support.daemon import Daemon
from tests.support.wait import async_wait_until, wait_until

CANCEL_HANDLERS = [HANDLERS, "tests.daemon.cancel_handlers"]
#: A grace that is never over in these tests.
PATIENT = QUICK.replace("[jobs]", 'cancel_grace = "1m"\n[jobs]')
RECORD = "SELECT state, attempt, interruptions, json_array_length(errors), errors ->> '$[0].type' FROM jobs"
CANCELLED = ("cancelled", 1, 0, 1, "JobCancelled")


def prepare(folder: Path, daemon: str = 'drain_limit = "10s"') -> Daemon:
    """A daemon with much patience for jobs that are cancelled."""
    return make_daemon(folder, PATIENT, daemon=daemon, handlers=CANCEL_HANDLERS)


def cancel_and_leave(daemon: Daemon, job_id: int) -> None:
    """Cancel, and hang up before it is decided."""
    with daemon.client(timeout=0.3) as client, pytest.raises(CallTimeout):
        client.cancel_sync(job_id)


async def test_a_stop_waits_for_the_clean_up_and_whoever_cancelled_is_answered(tmp_path: Path) -> None:
    """A deploy would run a cancelled job again, or leave its canceller without an answer."""
    file = tmp_path / "witness"
    daemon = prepare(tmp_path)
    try:
        daemon.start()
        async with Client(daemon.socket) as client:
            job = await client.enqueue("tidy", {"file": str(file), "seconds": 60, "tidying": 0.7})
            await async_wait_until(file.exists)
            cancelling = asyncio.ensure_future(client.cancel(job.id))
            # Requests of a connection are taken in their order: the cancellation, then this one.
            await asyncio.ensure_future(client.status())
            daemon.send(signal.SIGTERM)
            assert await cancelling == [Verdict(job.id)]
        assert daemon.stop() == 0
        assert file.read_text() == "begun\ntidied\n"
        assert query(tmp_path, RECORD) == [CANCELLED]
    finally:
        daemon.close()


def test_a_stop_that_is_cut_short_does_not_bring_the_job_back(tmp_path: Path) -> None:
    """The next daemon would run what somebody had cancelled; and the neighbour would be charged."""
    daemon = prepare(tmp_path, 'drain_limit = "200ms"')
    try:
        daemon.start()
        with daemon.client() as client:
            job, other = client.enqueue_sync("swallow"), client.enqueue_sync("awork", {"seconds": 60})
            await_executing(daemon, job.id, other.id)
        cancel_and_leave(daemon, job.id)
        assert daemon.stop() == 0
        assert query(tmp_path, f"{RECORD} ORDER BY id") == [CANCELLED, ("available", 0, 0, None, None)]
        assert daemon.processes() == []
    finally:
        daemon.close()


def test_a_reload_does_not_bring_it_back_either(tmp_path: Path) -> None:
    """The old worker would wait for ever, or its job would run again in a new one."""
    file = tmp_path / "witness"
    with running(tmp_path, PATIENT, handlers=CANCEL_HANDLERS) as daemon, daemon.client() as client:
        job = client.enqueue_sync("tidy", {"file": str(file), "seconds": 60, "tidying": 1.0})
        wait_until(file.exists)
        cancel_and_leave(daemon, job.id)
        client.reload_sync()
        assert end_of(client, job.id).state == "cancelled"
        assert file.read_text() == "begun\ntidied\n"
        hanging = client.enqueue_sync("awork", {"seconds": 60})
        await_executing(daemon, hanging.id)
        client.reload_sync()
        assert client.cancel_sync(hanging.id) == [Verdict(hanging.id)]


def test_a_supervisor_that_is_killed_meanwhile(tmp_path: Path) -> None:
    """The job would run again although somebody has cancelled it."""
    daemon = prepare(tmp_path)
    try:
        daemon.start()
        with daemon.client() as client:
            sync, later = client.enqueue_sync("hold_lock"), client.enqueue_sync("swallow")
            other = client.enqueue_sync("awork", {"seconds": 60})
            await_executing(daemon, sync.id, later.id, other.id)
        cancel_and_leave(daemon, sync.id)
        cancel_and_leave(daemon, later.id)
        daemon.kill()
        wait_until(lambda: not daemon.processes(), 10, "the workers to end with their supervisor")
        daemon.start()
        assert daemon.events("jobs.recovered")[-1]["cancelled"] == 2
        rows = query(tmp_path, f"{RECORD} WHERE id <> ?", other.id)
        assert rows == [CANCELLED] * 2
        with daemon.client() as client:
            assert client.cancel_sync(other.id) == [Verdict(other.id)]
        assert daemon.stop() == 0
    finally:
        daemon.close()


def test_without_a_daemon_what_it_left_running_can_be_cancelled(tmp_path: Path) -> None:
    """The only way to be rid of a job that brings the daemon down would be to start it once more."""
    daemon = prepare(tmp_path)
    try:
        daemon.start()
        with daemon.client() as client:
            job = client.enqueue_sync("nap", {"seconds": 60})
            await_executing(daemon, job.id)
        daemon.kill()
        wait_until(lambda: not daemon.processes(), 10, "the workers to end with their supervisor")
        result = daemon.command("cancel", str(job.id))
        assert (result.returncode, result.stdout) == (0, f"{job.id} cancelled\n")
        daemon.start()
        with daemon.client() as client:
            view = client.get_sync(job.id)
        assert view is not None
        assert (view.state, view.interruptions) == ("cancelled", 0)
        assert daemon.stop() == 0
    finally:
        daemon.close()


def test_a_canceller_that_goes_away_has_cancelled(tmp_path: Path) -> None:
    """Ctrl-C would leave the job running, or the daemon with something that nobody takes away."""
    settings = QUICK.replace("[jobs]", 'cancel_grace = "700ms"\n[jobs]')
    with running(tmp_path, settings, handlers=CANCEL_HANDLERS) as daemon, daemon.client() as client:
        job = client.enqueue_sync("swallow")
        await_executing(daemon, job.id)
        started = time.monotonic()
        cancel_and_leave(daemon, job.id)
        assert end_of(client, job.id).state == "cancelled"
        assert time.monotonic() - started < 3


def test_a_client_of_the_stopping_daemon_can_still_cancel(tmp_path: Path) -> None:
    """A stop that waits for a long job could not be hurried by cancelling that."""
    daemon = prepare(tmp_path, 'drain_limit = "10m"')
    try:
        daemon.start()
        with daemon.client() as client:
            job = client.enqueue_sync("nap", {"seconds": 600})
            await_executing(daemon, job.id)
            daemon.send(signal.SIGTERM)
            wait_until(lambda: daemon.events("stop.begun"), 10, "the stop to begin")
            assert client.cancel_sync(job.id) == [Verdict(job.id)]
        assert daemon.stop() == 0
        assert query(tmp_path, RECORD) == [CANCELLED]
    finally:
        daemon.close()
