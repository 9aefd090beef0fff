"""Jobs that tell more than anybody can take."""

from __future__ import annotations

from pathlib import Path

from perdure.daemon.worker.news_buffer import ROOM
from perdure.daemon.worker.newsroom import BURST_BYTES, BYTES_PER_SECOND, TELL_SECONDS
from perdure.wire import packet
from perdure.wire.streams import Emitted, LogText
from perdure.wire.work import Follow, FollowQueues
from tests.support.wait import wait_until
from tests.worker.listening import (
    HANDLERS,
    entries,
    progress,
    skipped,
    text,
    told_after_its_end,
    values,
    whole_log,
)
from tests.worker.rig import BOTH, Worker, job_row

#: For the fixtures `rig` and `worker`: handlers that tell, and logs that have room.
MODULES = (HANDLERS,)
WORKER = {"job_log_bytes": 1 << 20}


def cost(worker: Worker) -> int:
    """About what was told, in the bytes that the newsroom counts."""
    return sum(
        len(entry.text) if isinstance(entry, LogText) else len(entry.value) + 200
        for told in worker.told
        for entry in told.entries
        if isinstance(entry, LogText | Emitted)
    )


def resident_bytes(pid: int) -> int:
    """Memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def test_a_flood_is_a_trickle_of_messages_and_all_is_counted(worker: Worker) -> None:
    """The supervisor would do nothing but read what one job tells, and subscribers would not know what they miss."""
    seconds = 1.0
    worker.send(Follow([1]))
    worker.perform(job_row(1, "flood", {"seconds": seconds, "width": 1_000}))
    offered = worker.results[1]
    lines, emitted = skipped(worker, 1)
    assert text(worker, 1).count("\n") + lines == offered["lines"]
    assert len(values(worker, 1)) + emitted == offered["values"]
    assert progress(worker, 1)[-1].done == offered["lines"] - 1
    assert lines > 0
    assert lines >= emitted
    numbers = [one.number for one in values(worker, 1)]
    assert numbers == sorted(set(numbers))
    # One every 16 ms, and those at the end.
    assert len(worker.told) <= seconds / 0.016 + 2 * BURST_BYTES / 16_384 + 5
    assert cost(worker) <= seconds * 1.2 * BYTES_PER_SECOND + 2 * BURST_BYTES + ROOM
    assert max(len(packet.encode(told)) for told in worker.told) <= packet.INLINE_BYTES
    assert told_after_its_end(worker, 1) == []


@BOTH
def test_progress_alone_is_ten_messages_a_second(worker: Worker, lane: str) -> None:
    """A loop that reports each step would send a message for each."""
    worker.run(job_row(1, f"{lane}count", {"steps": 100_000 if not lane else 10_000}))
    worker.wait_for(1, timeout=30)
    seconds = sum(total_ns for _, total_ns in worker.timings.values()) / 1e9
    assert len(worker.told) <= seconds / TELL_SECONDS + 1
    steps = [one.done for one in progress(worker, 1)]
    assert steps == sorted(set(steps))


@BOTH
def test_a_supervisor_that_does_not_read_costs_no_memory_and_delays_no_job(worker: Worker, lane: str) -> None:
    """A busy supervisor would stop the handlers of all jobs that have something to say, or be buried afterwards."""
    worker.send(FollowQueues([], everything=True))
    worker.perform(job_row(1, "count", {"lines": 2_000, "values": 2_000}))
    before = resident_bytes(worker.pid)
    many = {"lines": 30_000, "values": 30_000} if not lane else {"lines": 10_000, "values": 10_000}
    worker.run(job_row(2, f"{lane}count", many))
    wait_until(lambda: worker.page.progress == 2, 30, "the end of the job, without anybody reading")
    assert resident_bytes(worker.pid) - before < 4 * ROOM
    told = len(worker.told)
    worker.wait_for(2)
    lines, emitted = skipped(worker, 2)
    assert text(worker, 2).count("\n") + lines == many["lines"]
    assert len(values(worker, 2)) + emitted == many["values"]
    assert lines > 0
    assert len(worker.told) - told < 60
    assert told_after_its_end(worker, 2) == []


def test_a_loud_job_does_not_silence_its_neighbours(worker: Worker) -> None:
    """Lines of quiet jobs would be dropped for the noise of one."""
    worker.send(FollowQueues([], everything=True))
    beside = job_row(2, "acount", {"lines": 20, "values": 20, "pause": 0.02})
    worker.run(job_row(1, "flood", {"seconds": 1.0, "width": 1_000}), beside)
    worker.wait_for(1, 2)
    assert skipped(worker, 1)[0] > 0, worker.results
    assert skipped(worker, 2) == (0, 0)
    assert text(worker, 2) == whole_log(worker, 2)
    assert len(values(worker, 2)) == 20


def test_a_time_limit_in_the_midst_of_telling_breaks_nothing(worker: Worker) -> None:
    """JobTimeout strikes anywhere: a lock would stay locked, or the room for news would shrink with each."""
    worker.send(FollowQueues([], everything=True))
    for job_id in range(1, 16):
        worker.perform(job_row(job_id, "flood", {"seconds": 30.0}, timeout_ms=40 + job_id))
        assert worker.failed[job_id].error.type == "JobTimeout"
        assert told_after_its_end(worker, job_id) == []
    # Time for new credit; what the floods have left behind in there is all that could be in the way then.
    worker.perform(job_row(99, "quiet", {"seconds": 0.3}))
    worker.perform(job_row(100, "count", {"lines": 1_000, "values": 1_000}))
    assert text(worker, 100) == whole_log(worker, 100)
    assert len(values(worker, 100)) == 1_000
    assert entries(worker, 100)
