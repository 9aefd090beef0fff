"""How workers end: crashes, drains, lost supervisors; and that nobody is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from perdure.wire.envelope import Fault
from perdure.wire.work import Drain, ForkWorker, Recall
from tests.support.wait import wait_until
from tests.worker.rig import ROOT, Rig, Worker, job_row

# --- crashes


def test_a_segfault_leaves_its_stack_and_its_slot(worker: Worker) -> None:
    """Nobody would know which job was it, nor where."""
    worker.perform(job_row(1, "noop"))
    worker.run(job_row(2, "segfault"), job_row(3, "noop"))
    assert worker.wait_exit() == -signal.SIGSEGV
    worker.drain_messages()
    assert [(slot.job_id, slot.lane) for slot in worker.page.executing()] == [(2, "sync")]
    assert "Segmentation fault" in worker.stacks
    assert "in segfault" in worker.stacks
    assert 3 not in worker.known()


def test_a_job_that_ends_its_worker_leaves_the_truth_about_its_neighbours(worker: Worker) -> None:
    """Finished neighbours would run again, and waiting ones would be charged."""
    before = range(1, 41)
    for job_id in (900, 901, 902):  # it has run, and briefly: nothing is sent just because it comes next
        worker.perform(job_row(job_id, "vanish", {"status": "wrong"}))
    worker.run(*(job_row(n, "noop") for n in before), job_row(50, "vanish"), job_row(51, "noop"))
    assert worker.wait_exit() == 9
    worker.drain_messages()
    assert [slot.job_id for slot in worker.page.executing()] == [50]
    assert set(worker.completed) | set(worker.page.finished_unsent()) == set(before)
    assert worker.page.finished_unsent()


def test_running_neighbours_in_the_async_lane_are_seen_too(worker: Worker) -> None:
    """Their interruption would go unrecorded."""
    worker.run(job_row(1, "asleep", {"seconds": 30}), job_row(2, "asleep", {"seconds": 30}))
    wait_until(lambda: worker.executes(1, 2))
    worker.run(job_row(3, "vanish"))
    assert worker.wait_exit() == 9
    assert sorted((slot.job_id, slot.lane) for slot in worker.page.executing()) == [
        (1, "async"),
        (2, "async"),
        (3, "sync"),
    ]


# --- taking jobs back


def test_jobs_that_have_not_begun_can_be_recalled(worker: Worker) -> None:
    """Short jobs would wait behind a long one although another worker is free."""
    worker.run(job_row(1, "sleep", {"seconds": 30}), *(job_row(n, "noop") for n in range(2, 12)))
    wait_until(lambda: worker.executes(1))
    worker.send(Recall(3))
    worker.pump(lambda: worker.returns == 1)
    assert worker.returned == [11, 10, 9]
    worker.send(Recall(0, [1, 4, 999]))
    worker.pump(lambda: worker.returns == 2)
    assert worker.returned[3:] == [4]
    worker.send(Recall(100))
    worker.pump(lambda: worker.returns == 3)
    assert sorted(worker.returned) == list(range(2, 12))


def test_waiting_async_jobs_can_be_recalled(rig: Rig) -> None:
    """The same for jobs that wait for a slot."""
    worker = rig.fork(async_slots=1)
    worker.run(*(job_row(n, "asleep", {"seconds": 30}) for n in range(1, 5)))
    wait_until(lambda: worker.executes(1))
    worker.send(Recall(1, [2]))
    worker.pump(lambda: worker.returns == 1)
    assert sorted(worker.returned) == [2, 4]


def test_a_recalled_job_is_never_run_and_a_run_one_never_recalled(worker: Worker) -> None:
    """A job would be lost, or run twice, when both ends of the queue meet."""
    total = 3000
    for start in range(1, total, 100):
        worker.run(*(job_row(n, "noop") for n in range(start, start + 100)))
        worker.send(Recall(7, [start + 50, start + 51]))
    worker.pump(lambda: len(worker.known()) + len(worker.returned) >= total)
    assert len(worker.completed) + len(worker.returned) == total
    assert set(worker.completed).isdisjoint(worker.returned)


# --- drains


def test_a_drain_gives_back_what_waits_and_finishes_what_runs(worker: Worker) -> None:
    """A deploy would burn attempts or lose outcomes."""
    worker.run(
        job_row(1, "sleep", {"seconds": 0.2}),
        *(job_row(n, "noop") for n in range(2, 8)),
        *(job_row(n, "asleep", {"seconds": 0.3}) for n in range(10, 16)),
    )
    wait_until(lambda: worker.executes(1, 10, 11, 12, 13))
    worker.send(Drain())
    assert worker.wait_exit() == 0
    worker.drain_messages()
    assert sorted(worker.completed) == [1, 10, 11, 12, 13]
    assert sorted(worker.returned) == [2, 3, 4, 5, 6, 7, 14, 15]
    assert worker.page.executing() == []
    assert worker.page.finished_unsent() == []


def test_an_idle_worker_drains_at_once(worker: Worker) -> None:
    """A stop would wait for its limit."""
    worker.send(Drain())
    assert worker.wait_exit() == 0


def test_jobs_that_come_after_the_drain_are_given_back(worker: Worker) -> None:
    """Jobs that cross the drain on the wire would be lost."""
    worker.run(job_row(1, "sleep", {"seconds": 0.2}))
    wait_until(lambda: worker.executes(1))
    worker.send(Drain())
    worker.run(job_row(2, "noop"), job_row(3, "anoop"))
    assert worker.wait_exit() == 0
    worker.drain_messages()
    assert worker.completed == [1]
    assert worker.returned == [2, 3]


def test_threads_and_tasks_left_behind_do_not_hold_up_the_end(rig: Rig) -> None:
    """A stop would hang on what some handler forgot."""
    worker = rig.fork()
    worker.perform(job_row(1, "leave_thread", {"seconds": 60}), job_row(2, "leave_task"))
    worker.perform(job_row(3, "asay", {"text": "x"}), job_row(4, "anoop"))
    worker.send(Drain())
    assert worker.wait_exit() == 0
    assert "thread_left_behind" in worker.output


# --- family


def test_a_worker_ends_when_its_channel_closes(worker: Worker) -> None:
    """It would go on with jobs that somebody else runs again."""
    worker.run(job_row(1, "spin", {"seconds": 30}), job_row(2, "asleep", {"seconds": 30}))
    wait_until(lambda: worker.executes(1, 2))
    worker.endpoint.close()
    assert worker.wait_exit() == 1


def test_a_program_started_by_a_job_does_not_hold_the_channel(worker: Worker) -> None:
    """The supervisor would wait for the end of a worker that is dead."""
    worker.perform(job_row(1, "child", {"seconds": 30}))
    worker.kill()
    worker.drain_messages()
    assert worker.ended
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker.results[1], signal.SIGKILL)


def test_workers_outlive_their_nursery(tmp_path: Path) -> None:
    """A nursery that is killed would take all running jobs along."""
    with Rig(tmp_path) as rig:
        rig.load()
        worker = rig.fork()
        rig.kill()
        worker.perform(job_row(1, "noop"), job_row(2, "anoop"))
        assert sorted(worker.completed) == [1, 2]


def test_a_nursery_ends_with_its_channel(tmp_path: Path) -> None:
    """Nurseries would pile up after reloads."""
    with Rig(tmp_path) as rig:
        rig.endpoint.close()
        wait_until(lambda: os.waitpid(rig.pid, os.WNOHANG)[0] == rig.pid)


def test_nobody_is_left_after_a_killed_supervisor(tmp_path: Path) -> None:
    """Orphans would run jobs that the next supervisor runs again."""
    script = (
        "import sys, time, pathlib; from tests.worker.rig import Rig, job_row\n"
        f"rig = Rig(pathlib.Path({str(tmp_path)!r})); rig.load(); workers = [rig.fork(), rig.fork()]\n"
        "workers[0].run(job_row(1, 'hold_gil'), job_row(2, 'asleep', {'seconds': 60}))\n"
        "while not workers[0].executes(1): time.sleep(0.001)\n"
        "print(rig.pid, *(w.pid for w in workers), flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as supervisor:
        assert supervisor.stdout is not None
        pids = [int(word) for word in supervisor.stdout.readline().split()]
        assert len(pids) == 3
        supervisor.kill()
        supervisor.wait()
    wait_until(lambda: not any(_lives(pid) for pid in pids), what="the end of all orphans")


def _lives(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


# --- the nursery


def test_a_module_that_cannot_be_imported_is_told_with_the_users_frames(tmp_path: Path) -> None:
    """A broken handler module would give no hint, or kill the nursery."""
    (tmp_path / "broken_jobs.py").write_text("def f():\n    return 1 / 0\n\nf()\n")
    (tmp_path / "exiting_jobs.py").write_text("import sys\nsys.exit(3)\n")
    (tmp_path / "unfinished_jobs.py").write_text("def f(:\n")
    (tmp_path / "good_jobs.py").write_text("from perdure import job\n@job('good')\ndef good(): ...\n")
    with Rig(tmp_path) as rig:
        broken = rig.load("broken_jobs", path=[tmp_path])
        assert isinstance(broken, Fault)
        assert broken.error.type == "ZeroDivisionError"
        assert "broken_jobs.py" in (broken.error.traceback or "")
        assert "nursery.py" not in (broken.error.traceback or "")
        assert "importlib" not in (broken.error.traceback or "")
        faults = [rig.load(name) for name in ("exiting_jobs", "unfinished_jobs", "no_such_jobs")]
        types = [fault.error.type for fault in faults if isinstance(fault, Fault)]
        assert types == ["ImportError", "SyntaxError", "ModuleNotFoundError"]
        kinds = rig.load("good_jobs")
        assert isinstance(kinds, list)
        assert [kind.name for kind in kinds] == ["good"]


def test_a_bad_request_is_refused_and_the_nursery_lives(tmp_path: Path) -> None:
    """A mistake of the supervisor would cost the nursery."""
    with Rig(tmp_path) as rig:
        assert isinstance(rig.call(ForkWorker({"id": 1})), Fault)
        assert isinstance(rig.load(), list)


def test_threads_at_import_are_told(tmp_path: Path) -> None:
    """A worker that inherits a locked lock hangs without a word."""
    source = (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True, name='mine').start()\n"
    )
    (tmp_path / "threaded_jobs.py").write_text(source)
    with Rig(tmp_path) as rig:
        assert isinstance(rig.load("threaded_jobs", path=[tmp_path]), list)
        assert "mine" in rig.log_path.read_text()
