"""T01 and T02: whatever is killed, whenever, no job is lost and each is recorded as finished exactly once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.crash.campaign import Campaign, Result


def judge(result: Result, jobs: int) -> None:
    """The promises, one after the other."""
    assert result.orphans == []
    assert result.integrity == "ok"
    assert len(result.acknowledged) == jobs
    lost = [job_id for job_id in result.acknowledged.values() if job_id not in result.finals]
    assert lost == [], "acknowledged jobs that never finished"
    twice = {job_id: count for job_id, count in result.finals.items() if count != 1}
    assert twice == {}, "jobs recorded as finished more than once"
    assert set(result.states) == {"completed"}


def test_short_campaign(tmp_path: Path) -> None:
    """SIGKILL of workers and of the supervisor at random instants loses or doubles a job, or leaves an orphan."""
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")
    result = Campaign(tmp_path, jobs=1_000, worker_kills=40, supervisor_kills=5, seed=seed).run()
    judge(result, 1_000)


@pytest.mark.crash_long
@pytest.mark.limit(3_000)
def test_long_campaign(tmp_path: Path) -> None:
    """1,000 kills of workers and 200 of the supervisor over 20,000 jobs: the figures of docs/reliability.md."""
    seed = int(os.environ.get("CRASH_SEED", "1"))
    result = Campaign(tmp_path, jobs=20_000, worker_kills=1_000, supervisor_kills=200, seed=seed).run()
    judge(result, 20_000)
    print(
        f"\nseed {seed}: {result.worker_kills} worker kills, {result.supervisor_kills} supervisor kills, "
        f"{len(result.acknowledged):,} jobs acknowledged in {result.seconds:.0f} s, lost 0, recorded twice 0, "
        f"{result.interrupted_attempts:,} attempts charged as interrupted, "
        f"{result.unacknowledged_requests} requests without an answer, integrity_check {result.integrity}, orphans 0"
    )
