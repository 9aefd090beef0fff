"""What this worker knows of the breakers, and what it tells about its own calls.

The supervisor keeps the board. A worker sees its broadcasts, asks nobody before a call, and reports what calls came
to: good ones gathered, failures and probes at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Literal

from perdure.clock import Clock
from perdure.errors import BreakerOpen
from perdure.redact import scrub
from perdure.wire.dependencies import ANY_JOB, BreakerState
from perdure.wire.work import Observed

#: Characters of an error's message that are told.
_MESSAGE_CHARS: Final = 500


class _Gathered:
    """Good calls of one dependency that have not been told."""

    __slots__ = ("ok", "slow")

    def __init__(self) -> None:
        self.ok = 0
        self.slow = 0


class BreakerView:
    """Answers "may this job call?" and gathers what calls came to. Used in the loop's thread only.

    `report` sends a message to the supervisor. It must not raise. `on_pending` is called when `flush` has something to
    send for the first time since the last one.
    """

    def __init__(
        self, report: Callable[[Observed], None], clock: Clock, on_pending: Callable[[], object] | None = None
    ) -> None:
        self._report = report
        self._on_pending = on_pending
        self._clock = clock
        #: All that are not closed.
        self._barred: dict[str, BreakerState] = {}
        #: How far the probe of a half-open one is; nothing: it has not been made.
        self._probes: dict[str, Literal["in flight", "passed", "failed"]] = {}
        #: Probes in flight whose time is over: which job's. Until another one is picked their verdict still counts.
        self._late: dict[str, int] = {}
        self._gathered: dict[str, _Gathered] = {}
        #: Half-open ones without a probe for which the supervisor was told that somebody here would call.
        self._asked: set[str] = set()
        #: Whether there is something for `flush` to send.
        self.pending = False

    # --- from the supervisor

    def update(self, states: Iterable[BreakerState]) -> None:
        """Take over a broadcast. Breakers that it does not name stay as they were."""
        for state in states:
            before = self.state(state.name)
            if (state.state, state.probe_job) != (before.state, before.probe_job):
                is_in_flight = self._probes.pop(state.name, None) == "in flight"
                self._late.pop(state.name, None)
                if is_in_flight and state.state == "half_open" and not state.probe_job:
                    self._late[state.name] = before.probe_job
            self._asked.discard(state.name)
            if state.state == "closed":
                self._barred.pop(state.name, None)
            else:
                self._barred[state.name] = state

    def state(self, name: str) -> BreakerState:
        """What is known of this breaker. One of which nothing was said is closed."""
        return self._barred.get(name) or BreakerState(name, "closed")

    # --- around a call

    def admit(self, name: str, job_id: int) -> bool:
        """Whether this call is the probe. Raises BreakerOpen if it must not be made.

        A probe has to be followed by `record` or `abandon`.
        """
        state = self._barred.get(name)
        return state is not None and self._admit_barred(state, job_id)

    def _admit_barred(self, state: BreakerState, job_id: int) -> bool:
        name = state.name
        if state.state == "open":
            raise BreakerOpen(name=name, seconds_left=self._seconds_left(state))
        if not job_id or state.probe_job not in (job_id, ANY_JOB):  # a call without a job could not be told as a probe
            if not state.probe_job and name not in self._asked:
                self._asked.add(name)
                self._report(Observed(name))
            raise BreakerOpen(f"{name}: no call was made, another job is probing whether it is back", name=name)
        match self._probes.get(name):
            case None:
                self._probes[name] = "in flight"
                return True
            case "passed":
                return False
            case "in flight":
                raise BreakerOpen(f"{name}: no call was made, this job's first call is the probe", name=name)
            case "failed":
                raise BreakerOpen(f"{name}: no call was made, the probe has failed", name=name)

    def record(
        self, name: str, ok: bool, *, slow: bool = False, probe_job: int = 0, error: BaseException | None = None
    ) -> None:
        """Count the outcome of a call. `probe_job`: it was the probe of that job. `error`: why it failed."""
        if ok and not probe_job:
            self.count_good(name, slow)
            return
        if self._is_current(name, probe_job):
            self._probes[name] = "passed" if ok else "failed"
            probe_job = self._barred[name].probe_job
        elif probe_job:
            probe_job = self._take_late(name, probe_job)  # 0: another job probes now, this is a call like any other
        gathered = self._gathered.pop(name, None) or _Gathered()
        text = None if error is None else describe(error)
        self._report(Observed(name, gathered.ok + ok, int(not ok), gathered.slow + slow, probe_job, text))

    def count_good(self, name: str, slow: bool) -> None:
        """A call that is no probe has ended well, as most do."""
        gathered = self._gathered.get(name)
        if gathered is None:
            gathered = self._gathered[name] = _Gathered()
        gathered.ok += 1
        gathered.slow += slow
        if not self.pending:
            self.pending = True
            if self._on_pending is not None:
                self._on_pending()

    def abandon(self, name: str, job_id: int) -> None:
        """A probe ended without a verdict, by a cancellation: the job's next call is the probe."""
        if self._is_current(name, job_id):
            del self._probes[name]
        else:
            self._take_late(name, job_id)

    def flush(self) -> None:
        """Tell what was gathered. Called every 100 ms or so while `pending`."""
        gathered, self._gathered = self._gathered, {}
        self.pending = False
        for name, counts in gathered.items():
            self._report(Observed(name, counts.ok, 0, counts.slow))

    def _is_current(self, name: str, probe_job: int) -> bool:
        state = self._barred.get(name)
        return (
            bool(probe_job)
            and state is not None
            and state.probe_job in (probe_job, ANY_JOB)
            and self._probes.get(name) == "in flight"
        )

    def _take_late(self, name: str, job_id: int) -> int:
        """Whose probe this call was when its time was over: the job, or ANY_JOB; 0: it counts as none."""
        return self._late.pop(name) if self._late.get(name) in (job_id, ANY_JOB) else 0

    def _seconds_left(self, state: BreakerState) -> float | None:
        if not state.until_ns:
            return None
        return max(0, state.until_ns - self._clock.monotonic_ns()) / 1e9


def describe(error: BaseException) -> str:
    """ "Type: message" of an error, without passwords, not too long. Never raises."""
    try:
        message = scrub(str(error))
    except Exception:
        message = "its message cannot be shown"
    if len(message) > _MESSAGE_CHARS:
        message = f"{message[:_MESSAGE_CHARS]}…"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
