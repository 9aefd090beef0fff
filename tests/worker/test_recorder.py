"""The flight recorder's page: what is written is what is read, and garbage is nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.daemon.leftovers import Before, executing_before
from perdure.daemon.worker.recorder import DONE_RING_IDS, RecorderPage, Slot, hash_boot_id, read_leftover


def test_a_worker_and_its_supervisor_see_the_same(tmp_path: Path) -> None:
    """The supervisor would enforce the limits of other jobs than those that run."""
    ours = RecorderPage.create(tmp_path / "1.page", 2, run_id=7, boot_id="b")
    theirs = RecorderPage.from_fd(ours.fileno())
    theirs.set_pid(123)
    theirs.beat()
    theirs.note_lag(101.25, 16.001)
    theirs.slot_writer(0).begin(2**62, 3, 2**60, 1500)
    last = theirs.slot_writer(2)
    last.begin(5, 1, 10, None)
    assert ours.executing() == [Slot(2**62, 3, 2**60, 1500, "sync"), Slot(5, 1, 10, None, "async")]
    last.finish()
    assert [slot.job_id for slot in ours.executing()] == [2**62]
    assert (ours.pid, ours.heartbeat, ours.progress) == (123, 1, 1)
    assert ours.lag == (101.25, 16.001)
    theirs.close()
    ours.close()


def test_a_mark_belongs_to_one_execution(tmp_path: Path) -> None:
    """Recovery would cancel the next job of the slot, or run one again that nobody wants."""
    path = tmp_path / "1.page"
    page = RecorderPage.create(path, 1, run_id=7, boot_id="b")
    sync, later = page.slot_writer(0), page.slot_writer(1)
    sync.begin(5, 1, 100, None)
    later.begin(6, 1, 100, None)
    page.mark_unwanted({5, 7})
    assert [(slot.job_id, slot.unwanted) for slot in page.executing()] == [(5, True), (6, False)]
    sync.finish()
    sync.begin(5, 1, 101, None)
    assert [slot.unwanted for slot in page.executing()] == [False, False]
    page.mark_unwanted([5])
    assert executing_before(tmp_path, "b") == Before({(5, 1), (6, 1)}, {(5, 1)})
    page.acquit()
    assert executing_before(tmp_path, "b") == Before({(5, 1)}, {(5, 1)})
    page.close()


def test_a_limit_of_zero_is_not_no_limit(tmp_path: Path) -> None:
    """None and 0 share a word."""
    page = RecorderPage.create(tmp_path / "1.page", 0)
    page.slot_writer(0).begin(1, 1, 1, 0)
    assert page.executing()[0].timeout_ms == 0
    page.close()


def test_done_rings_of_both_lanes_are_told_and_reset(tmp_path: Path) -> None:
    """Finished neighbours of a crash would run twice."""
    page = RecorderPage.create(tmp_path / "1.page", 3)
    sync, later = page.done_ring("sync"), page.done_ring("async")
    for number in range(1, DONE_RING_IDS + 1):
        sync.add(number)
    later.add(9999)
    sync.add(777)  # one too many: let go, and nobody else's words are touched
    assert page.finished_unsent() == [*range(1, DONE_RING_IDS + 1), 9999]
    sync.reset()
    sync.add(4)
    assert page.finished_unsent() == [4, 9999]
    page.close()


def test_what_was_told_for_the_lane_is_crossed_out(tmp_path: Path) -> None:
    """The loop's thread tells finished neighbours of a long job while the lane may add more: none must get lost."""
    page = RecorderPage.create(tmp_path / "1.page", 0)
    ring = page.done_ring("sync")
    for number in (1, 2, 3):
        ring.add(number)
    ring.forget(2)
    ring.add(4)
    assert page.finished_unsent() == [3, 4]
    ring.forget(5)  # more than there are: some had no room
    ring.add(5)
    assert page.finished_unsent() == [5]
    ring.reset()
    ring.add(6)
    ring.forget(1)
    assert page.finished_unsent() == []
    page.close()


def test_slots_beyond_the_page_are_refused(tmp_path: Path) -> None:
    """A wrong slot number would write into the done rings."""
    page = RecorderPage.create(tmp_path / "1.page", 2)
    with pytest.raises(IndexError):
        page.slot_writer(3)
    page.close()


def test_what_a_killed_run_left_behind_can_be_read(tmp_path: Path) -> None:
    """Recovery would charge every claimed job with an interruption."""
    path = tmp_path / "1.page"
    page = RecorderPage.create(path, 4, run_id=12, boot_id="boot")
    page.slot_writer(3).begin(77, 2, 5, None)
    page.done_ring("async").add(78)
    page.close()
    leftover = read_leftover(path)
    assert leftover is not None
    assert (leftover.run_id, leftover.boot_hash) == (12, hash_boot_id("boot"))
    assert [(slot.job_id, slot.attempt) for slot in leftover.executing] == [(77, 2)]
    assert leftover.finished_unsent == [78]


@pytest.mark.parametrize("content", [b"", b"short", b"\0" * 64, b"\xff" * 100_000, b"SQLite format 3\0" * 100])
def test_garbage_is_no_leftover(tmp_path: Path, content: bytes) -> None:
    """A damaged file beside the queue would stop the daemon from starting."""
    path = tmp_path / "1.page"
    path.write_bytes(content)
    assert read_leftover(path) is None


def test_a_page_that_is_cut_short_is_no_leftover(tmp_path: Path) -> None:
    """Reading beyond the end of a mapped file is a SIGBUS."""
    path = tmp_path / "1.page"
    RecorderPage.create(path, 4).close()
    path.write_bytes(path.read_bytes()[:-8])
    assert read_leftover(path) is None
    assert read_leftover(tmp_path / "missing.page") is None
    assert read_leftover(tmp_path) is None


def test_a_stale_page_is_replaced(tmp_path: Path) -> None:
    """Slots of a former worker would be taken for jobs of the new one."""
    path = tmp_path / "1.page"
    old = RecorderPage.create(path, 1)
    old.slot_writer(0).begin(1, 1, 1, None)
    fresh = RecorderPage.create(path, 1)
    assert fresh.executing() == []
    old.close()
    fresh.close()
