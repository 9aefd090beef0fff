"""On whose behalf a call to a dependency is made."""

from __future__ import annotations

from typing import Final, NamedTuple


class JobCall(NamedTuple):
    """A job's id, and its deadline in seconds of time.monotonic(); None: it has none."""

    id: int = 0
    deadline: float | None = None


#: A call outside of any job. It never is a probe.
NO_JOB: Final = JobCall()
