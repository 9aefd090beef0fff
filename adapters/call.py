"""On whose behalf a call to a dependency is made, and how much time it has."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

from perdure.errors import CallTooLong, Unavailable


class JobCall(NamedTuple):
    """A job's id, its deadline in seconds of time.monotonic() (None: it has none), and when it was enqueued.

    `created_at` (epoch milliseconds) tells it from a job of the same id: a queue that was restored from a backup gives
    the ids since then once more.
    """

    id: int = 0
    deadline: float | None = None
    created_at: int = 0


#: A call outside of any job. It never is a probe.
NO_JOB: Final = JobCall()

#: Of the time that is left for a call, how much may pass until there is a connection. It fails before the call does
#: then, and can say what was wrong. What begins after that share of a call has too little time to tell anything.
CONNECTING_SHARE: Final = 0.8
#: Never less than this, seconds.
_LEAST_SECONDS: Final = 0.01


class CallTime:
    """The time of the call that is being made, from its guard to its adapter.

    `started_ns`, `ends_ns` (CLOCK_MONOTONIC). `is_full`: it is at least what the policy gives a call; else the job's
    deadline or the caller gave it less. `waited_ns`: what the adapter has spent waiting for others of this worker,
    which hold all of its connections; it adds to that itself. `is_cut`: its task was cancelled because it was over.
    """

    __slots__ = ("_cancelling", "_task", "ends_ns", "is_cut", "is_full", "started_ns", "waited_ns")

    def __init__(self, started_ns: int, most_ns: int, is_full: bool, task: asyncio.Task[Any]) -> None:
        self.started_ns = started_ns
        self.ends_ns = started_ns + most_ns
        self.is_full = is_full
        self.waited_ns = 0
        self.is_cut = False
        self._task = task
        self._cancelling = task.cancelling()

    def given_ns(self, now_ns: int) -> int:
        """How long the dependency has had until now."""
        return now_ns - self.started_ns - self.waited_ns

    def cut(self) -> bool:
        """It is over: cancel the task that makes the call."""
        if not self.is_cut:
            self.is_cut = True
            self._task.cancel()
        return True

    def release(self) -> None:
        """The call has ended: if it was cut, that cancellation is over."""
        if self.is_cut:
            self._task.uncancel()

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody else has cancelled the task since the call began. After `release`."""
        return self._task.cancelling() > self._cancelling


#: Set while a guard awaits a call.
call_time: ContextVar[CallTime | None] = ContextVar("call_time", default=None)


class Patience(NamedTuple):
    """How long to wait for a connection, seconds. `is_short`: less than the setting says, by the call's own end.

    `is_hurried`: and that end is not what the dependency may be measured by.
    """

    seconds: float
    is_short: bool = False
    is_hurried: bool = False

    def blame(self, error: Unavailable) -> Exception:
        """What to raise when that time is over: `error`, or if it was too short to blame anybody, CallTooLong."""
        return CallTooLong(str(error)) if self.is_hurried else error


def patience(most_seconds: float, now_ns: int) -> Patience:
    """At most so many seconds, and at most CONNECTING_SHARE of what is left for the call that is being made."""
    time = call_time.get()
    if time is None:
        return Patience(most_seconds)
    share = max(_LEAST_SECONDS, CONNECTING_SHARE * (time.ends_ns - now_ns) / 1e9)
    return Patience(most_seconds) if most_seconds <= share else Patience(share, True, not time.is_full)
