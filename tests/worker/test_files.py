"""Payloads and results that are files, with a real worker."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from perdure.clock import SystemClock
from perdure.daemon.spool import look, partials_of
from perdure.daemon.spool_file import SpoolFile
from perdure.daemon.worker.desk import JobDesk
from perdure.daemon.worker.spooling import Spool
from perdure.errors import UsageError
from perdure.wire.data import Blob
from perdure.wire.work import JobRow
from tests.support.disks import small_disk_at
from tests.support.wait import wait_until
from tests.worker.rig import Rig, Worker, job_row

CONTENT = os.urandom(300_000)


#: For the fixtures `rig` and `worker`: the handlers of files.
MODULES = ("tests.daemon.file_handlers",)


def named(path: Path, content: bytes = CONTENT) -> Blob:
    """A payload at a path."""
    path.write_bytes(content)
    return Blob(len(content), hashlib.sha256(content).hexdigest(), path=str(path), mtime_ns=path.stat().st_mtime_ns)


def with_payload(job_id: int, kind: str, blob: Blob, args: object = None) -> JobRow:
    """A job with it."""
    row = job_row(job_id, kind, args)
    row.blob = msgspec.json.encode(blob).decode()
    return row


def files(worker: Worker) -> list[str]:
    """What is in the spool."""
    return sorted(os.listdir(worker.spool)) if worker.spool.exists() else []


@pytest.mark.parametrize("content", [CONTENT, b""])
def test_a_named_payload_is_mapped(worker: Worker, tmp_path: Path, content: bytes) -> None:
    """The handler would get nothing, or a copy of gigabytes."""
    blob = named(tmp_path / "data", content)
    worker.perform(with_payload(1, "sum", blob), with_payload(2, "asum", blob), with_payload(3, "describe", blob))
    assert (worker.results[1]["sha256"], worker.results[1]["size"]) == (blob.sha256, len(content))
    assert worker.results[2] == blob.sha256
    assert worker.results[3] == [len(content), str(tmp_path / "data"), False]


def test_a_spooled_payload_is_mapped(worker: Worker) -> None:
    """--spool would be of no use."""
    made = SpoolFile(str(worker.spool))
    made.write(memoryview(CONTENT))
    blob = made.keep()
    worker.perform(with_payload(1, "sum", blob))
    assert worker.results[1]["sha256"] == hashlib.sha256(CONTENT).hexdigest() == blob.sha256
    os.unlink(worker.spool / blob.spool)
    worker.perform(with_payload(2, "sum", blob))
    assert (worker.failed[2].error.type, worker.failed[2].retryable) == ("PayloadGone", False)


def test_a_job_without_a_payload_is_told_so(worker: Worker) -> None:
    """It would work on nothing, or break on an error that says nothing."""
    worker.perform(job_row(1, "sum"), job_row(2, "describe"))
    assert (worker.failed[1].error.type, worker.failed[1].error.message) == ("UsageError", "job 1 has no payload")
    assert 2 in worker.completed


def test_payloads_that_are_not_what_they_were(worker: Worker, tmp_path: Path) -> None:
    """The job would work on something else than it was enqueued with, or hang on a fifo."""
    blobs = {name: named(tmp_path / name) for name in ("gone", "short", "other", "folder", "fifo", "link", "touched")}
    (tmp_path / "gone").unlink()
    os.truncate(tmp_path / "short", 10)
    (tmp_path / "other").write_bytes(CONTENT[::-1])
    (tmp_path / "folder").unlink()
    (tmp_path / "folder").mkdir()
    (tmp_path / "fifo").unlink()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("link")
    os.utime(tmp_path / "touched", ns=(1, 1))
    worker.perform(*(with_payload(number, "sum", blob) for number, blob in enumerate(blobs.values())))
    found = {list(blobs)[number]: failed.error.type for number, failed in worker.failed.items()}
    assert found == {
        "gone": "PayloadGone",
        "short": "PayloadChanged",
        "other": "PayloadChanged",
        "folder": "PayloadChanged",
        "fifo": "PayloadChanged",
        "link": "PayloadGone",
    }
    assert not any(failed.retryable for failed in worker.failed.values())
    assert worker.results[6]["sha256"] == blobs["touched"].sha256


def test_a_payload_is_given_back_at_the_end(worker: Worker, tmp_path: Path) -> None:
    """A worker would collect maps and descriptors of every file that it has ever seen."""
    blob = named(tmp_path / "data")

    def held() -> tuple[int, int]:
        maps = Path(f"/proc/{worker.pid}/maps").read_text().count(str(tmp_path / "data"))
        links = [os.readlink(entry) for entry in Path(f"/proc/{worker.pid}/fd").iterdir()]
        return maps, links.count(str(tmp_path / "data"))

    worker.perform(with_payload(1, "sum", blob), with_payload(2, "asum", blob), with_payload(3, "same", blob))
    worker.perform(job_row(4, "describe"))
    assert held() == (0, 0)
    worker.perform(with_payload(5, "keep", blob))
    # The map has a descriptor of its own, Python's doing.
    assert held() == (1, 1), "what a handler has kept must stay readable; ours is closed"


def test_bytes_and_written_files_become_results(worker: Worker, tmp_path: Path) -> None:
    """They would be refused, or lie in the spool under another content than the queue says."""
    blob = named(tmp_path / "data")
    worker.perform(
        job_row(1, "give", {"size": 5}),
        job_row(2, "agive", {"size": 200_000}),
        job_row(3, "give", {"size": 0}),
        job_row(4, "write", {"size": 1_500_000}),
        job_row(5, "awrite", {"size": 3}),
        with_payload(6, "same", blob),
        job_row(7, "give", {"size": 150_000, "how": "text"}),
    )
    assert worker.failed == {}
    assert [worker.spooled[number].size for number in range(1, 8)] == [5, 200_000, 0, 1_500_000, 3, 300_000, 150_002]
    assert [number for number, one in worker.spooled.items() if one.json] == [7]
    for one in worker.spooled.values():
        assert hashlib.sha256((worker.spool / one.spool).read_bytes()).hexdigest() == one.sha256
    assert files(worker) == sorted(one.spool for one in worker.spooled.values())


def test_a_failed_attempt_leaves_no_file(worker: Worker) -> None:
    """The spool would fill with halves of results."""
    worker.perform(
        job_row(1, "write", {"size": 5000, "fail": "raise"}),
        job_row(2, "write", {"size": 5000, "fail": "return"}),
        job_row(3, "give", {"size": 10_000_001}),
        job_row(4, "write", {"size": 10_000_001}),
    )
    assert {number: one.error.type for number, one in worker.failed.items()} == {
        1: "ValueError",
        3: "ResultTooLarge",
        4: "ResultTooLarge",
    }
    assert worker.results == {2: 7}
    assert files(worker) == []


def test_a_forked_child_does_not_touch_its_parents_result(worker: Worker) -> None:
    """The child would take the file for its own, and the job would fail or lose its result."""
    worker.perform(job_row(1, "fork-write"))
    assert worker.failed == {}
    assert (worker.spool / worker.spooled[1].spool).read_bytes() == b"12345"
    assert files(worker) == [worker.spooled[1].spool]


def test_what_cannot_be_closed_costs_no_outcome(worker: Worker) -> None:
    """The worker would die of it with all its jobs, or the job would never end."""
    worker.perform(job_row(1, "detach"), job_row(2, "adetach"))
    assert worker.results == {1: 7, 2: 7}
    assert files(worker) == []


def test_a_killed_worker_leaves_what_can_be_told_from_the_living(worker: Worker, tmp_path: Path) -> None:
    """The half of a result would stay for ever; or that of a living worker would be taken away."""
    worker.run(job_row(1, "write", {"size": 5000, "wait_at": str(tmp_path / "there")}))
    wait_until((tmp_path / "there").exists)
    assert partials_of(worker.spool, worker.pid) == []
    assert look(worker.spool, 0).partial == []
    worker.kill(signal.SIGKILL)
    worker.wait_exit()
    assert partials_of(worker.spool, worker.pid) == files(worker)
    assert look(worker.spool, 0).partial == files(worker)


def test_a_full_disk_fails_the_attempt_only(rig: Rig, tmp_path: Path) -> None:
    """A job that has done its work would go to the dead letters, or half of its result would stay."""
    with small_disk_at(tmp_path / "disk", "1m") as disk:
        worker = rig.fork(spool_dir=str(disk / "spool"))
        worker.perform(job_row(1, "give", {"size": 3_000_000}), job_row(2, "agive", {"size": 3_000_000}))
        worker.perform(job_row(3, "write", {"size": 3_000_000}), job_row(4, "give", {"size": 3}))
        assert {number: one.retryable for number, one in worker.failed.items()} == {1: True, 2: True, 3: True}
        assert worker.failed[1].error.type == worker.failed[2].error.type == "StoreFull"
        assert os.listdir(disk / "spool") == [worker.spooled[4].spool]
        worker.close()


def test_what_outlives_its_job_gets_no_files(tmp_path: Path) -> None:
    """A thread that a handler has left behind would read zeros for its payload, or hold files that nobody closes."""
    bench: Any = SimpleNamespace(spool=Spool(str(tmp_path / "spool"), 1 << 30), clock=SystemClock())
    row = with_payload(1, "sum", named(tmp_path / "data"))
    used, unused = JobDesk(bench, row), JobDesk(bench, row)
    assert used.blob() == CONTENT
    for desk in (used, unused):
        desk.close()
        for late in (desk.blob, desk.result_file):
            with pytest.raises(UsageError, match="job 1 has ended"):
                late()
    assert used.payload is not None
    assert used.payload.size == len(CONTENT)
    assert not (tmp_path / "spool").exists()
