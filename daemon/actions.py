"""What the dispatch core wants done with workers."""

from __future__ import annotations

from typing import NamedTuple

from perdure.store.models import ClaimedJob


class Send(NamedTuple):
    """Send these jobs to a worker."""

    worker: int
    jobs: list[ClaimedJob]


class TakeBack(NamedTuple):
    """Ask a worker for up to `most` jobs that it has not begun, or for those of `ids`."""

    worker: int
    most: int
    ids: list[int]


class StopJobs(NamedTuple):
    """Tell a worker to end these jobs, which it may be executing, and to give back those that it has not begun."""

    worker: int
    ids: list[int]


class DrainWorker(NamedTuple):
    """Tell a worker to finish what runs, give back the rest, and exit."""

    worker: int


class ForkIsolated(NamedTuple):
    """Fork one worker more, for jobs that must run alone."""


Action = Send | TakeBack | StopJobs | DrainWorker | ForkIsolated
