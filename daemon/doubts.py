"""The benefit of the doubt: a dependency that fails among many calls that end well may have just gone away."""

from __future__ import annotations

#: How often a job that met a dependency's failure is tried again for nothing while the dependency seems well. With the
#: usual backoff the last of these tries comes after half a minute, when an outage shows in the figures; a job whose own
#: query is at fault has so many tries more than its budget.
DOUBTS = 5
#: The same while a tenth of its calls fail, or none went well. Not without end: where nothing else calls it, one job's
#: own query that never ends in time is all there is. With the usual backoff these are hours. Also when it is the
#: worker's own pool that was used up.
TROUBLES = 50
#: For how many jobs that is remembered; the oldest entry makes way.
DOUBTED_JOBS = 10_000


class Doubts:
    """Counts how often each job was given it. In memory: a job that outlives the daemon begins anew."""

    def __init__(self) -> None:
        self._given: dict[int, int] = {}

    def give(self, job_id: int, most: int = DOUBTS) -> int:
        """Once more. Which time this is, from 1; 0: it has been given `most` times already."""
        times = self._given.pop(job_id, 0)
        self._given[job_id] = times + (times < most)
        if len(self._given) > DOUBTED_JOBS:
            del self._given[next(iter(self._given))]
        return times + 1 if times < most else 0
