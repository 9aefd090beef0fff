"""One dependency's breaker: pybreaker's state machine, with a rolling window for what it counts.

Of pybreaker come the states and the transitions, and nothing else is able to make one. Its own counting is not used:
it counts failures in a row, and calls in this process. Its clock is not used either: it is that of the wall.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final

from pybreaker import (
    STATE_CLOSED,
    STATE_HALF_OPEN,
    STATE_OPEN,
    CircuitBreaker,
    CircuitBreakerListener,
    CircuitBreakerState,
    CircuitBreakerStorage,
)

from perdure.daemon.breaker_window import Tally, Window
from perdure.duration import format_duration
from perdure.store.models import SavedBreaker
from perdure.wire.data import BreakerEvent
from perdure.wire.dependencies import ANY_JOB, BreakerState, BreakerWord, Policy

_WORDS: Final[dict[str, BreakerWord]] = {
    STATE_CLOSED: "closed",
    STATE_OPEN: "open",
    STATE_HALF_OPEN: "half_open",
}
#: Most characters of an error that go into a reason.
ERROR_CHARS = 300
MS = 1_000_000

#: Takes every change of state.
Report = Callable[[BreakerEvent], None]


class Breaker:
    """The state of one dependency. Times: `*_ms` since the epoch, `*_ns` of the monotonic clock.

    While it is half open, `probe_job` is the one job that may call. When that has come to nothing by its deadline, the
    job may not begin a call any more; one that it has begun may last as long as calls may, and its verdict counts until
    then. Only after that another job may be the probe, so there are never two calls at once.
    """

    def __init__(self, name: str, policy: Policy, saved: SavedBreaker | None, report: Report) -> None:
        """A half-open breaker of a former run is open again, with its break over: its probe is gone."""
        self.name = name
        self.policy = policy
        self.window = Window(policy.window_ms)
        self.reason = saved.reason if saved else ""
        self.changed_at = saved.changed_at if saved else None
        self.changed_by = saved.changed_by if saved else ""
        self.until_ms: int | None = None
        self.until_ns: int | None = None
        #: How long the last break was meant to be; 0: none by the breaker itself, or long ago.
        self.break_ms = min(saved.break_ms, policy.break_cap_ms) if saved else 0
        self.last_error: str | None = None
        self.probe_job = 0
        #: The job that was the probe, and whose call may still be under way.
        self.late_job = 0
        self._deadline_ns = 0
        self._closed_ns = 0
        self._machine = CircuitBreaker(
            name=name,
            state_storage=_Storage(
                name, STATE_CLOSED if saved is None or saved.state == "closed" else STATE_OPEN, self
            ),
            listeners=[_Listener(self, report)],
        )

    # --- what it is

    @property
    def word(self) -> BreakerWord:
        """closed, open or half_open."""
        return _WORDS[self._machine.current_state]

    @property
    def state(self) -> BreakerState:
        """What workers must know."""
        until_ns = self.until_ns or 0
        return BreakerState(self.name, self.word, until_ns if self.word == "open" else 0, self.probe_job)

    @property
    def saved(self) -> SavedBreaker:
        """What outlasts a restart."""
        at = self.changed_at or 0
        return SavedBreaker(self.name, self.word, at, self.changed_by, self.reason, self.until_ms, self.break_ms)

    @property
    def wants_probe(self) -> bool:
        """Whether a job is wanted that calls."""
        return self.word == "half_open" and not self.probe_job and not self.late_job

    @property
    def next_event_ns(self) -> int | None:
        """When `tick` has something to do."""
        if self.word == "open":
            return self.until_ns
        return self._deadline_ns if self.probe_job or self.late_job else None

    # --- what happens to it

    def restore(self, saved: SavedBreaker, now_ms: int, now_ns: int) -> None:
        """Go on with what is left of a break. No clock that was set wrong makes it longer than it was meant to be."""
        self._closed_ns = now_ns
        if saved.state == "closed" or (saved.state == "open" and saved.until is None):
            return
        left_ms = 0
        if saved.state == "open" and saved.until is not None:
            whole_ms = saved.until - saved.changed_at
            whole_ms = whole_ms if saved.changed_by else min(whole_ms, self.policy.break_cap_ms)
            left_ms = max(0, min(saved.until - now_ms, whole_ms))
        self._set_until(left_ms, now_ms, now_ns)

    def count(self, ok: int, failed: int, slow: int, now_ms: int, now_ns: int) -> None:
        """Calls while it is closed. Too many bad ones open it."""
        tally = self.window.add(now_ns, ok, failed, slow)
        reason = self._why_open(tally)
        if reason is None:
            return
        if now_ns - self._closed_ns >= self.policy.window_ms * MS:
            self.break_ms = 0
        self._break(max(self.break_ms, self.policy.break_ms), reason, now_ms, now_ns)

    def verdict(self, job_id: int, ok: bool, now_ms: int, now_ns: int) -> None:
        """What the probe came to; of another job's there is nothing to learn."""
        if self.word != "half_open" or not job_id or job_id not in (self.probe_job, self.late_job):
            return
        if ok:
            self._close(f"{_probe(job_id)} ended well", "", now_ms, now_ns)
            self.window.add(now_ns, 1, 0, 0)
        else:
            break_ms = max(self.break_ms * 2, self.policy.break_ms)
            error = f": {self.last_error}" if self.last_error else ""
            self._break(break_ms, f"{_probe(job_id)} failed{error}", now_ms, now_ns)

    def open_by_hand(self, who: str, reason: str, for_ms: int | None, now_ms: int, now_ns: int) -> None:
        """Until somebody closes it, or for so long."""
        self.break_ms = 0
        self._open(for_ms, reason or "opened by hand", who, now_ms, now_ns)

    def close_by_hand(self, who: str, reason: str, now_ms: int, now_ns: int) -> None:
        """Whatever it was, it is closed; nothing happens when it is closed already."""
        if self.word != "closed":
            self._close(reason or "closed by hand", who, now_ms, now_ns)

    def tick(self, now_ms: int, now_ns: int) -> bool:
        """A break may be over, or a probe too late. Whether anything is to be told."""
        next_ns = self.next_event_ns
        if next_ns is None or now_ns < next_ns:
            return False
        if self.word == "open":
            self._note("its break is over: one job may try", "", now_ms)
            self.until_ms = self.until_ns = None
            self._machine.half_open()
        elif self.probe_job:
            self.probe_job, self.late_job = 0, self.probe_job
            self._deadline_ns = now_ns + self.policy.timeout_ms * MS
        else:
            self.late_job = 0
        return True

    def assign_probe(self, job_id: int, now_ns: int) -> bool:
        """This job may call, if one is wanted."""
        if not self.wants_probe:
            return False
        self.probe_job = job_id
        self._deadline_ns = now_ns + self.policy.probe_deadline_ms * MS
        return True

    def probe_ended(self, job_id: int) -> bool:
        """The job is over, and so is any call of it. Whether anything is to be told."""
        if job_id not in (self.probe_job, self.late_job):
            return False
        self._no_probe()
        return True

    # --- rules

    def _why_open(self, tally: Tally) -> str | None:
        policy, calls = self.policy, tally.calls
        if calls < policy.minimum_volume:
            return None
        within = f"in the last {format_duration(policy.window_ms)}"
        if tally.failed and tally.failed >= policy.failure_ratio * calls:
            last = f"; the last one: {self.last_error}" if self.last_error else ""
            return f"{tally.failed} of {calls} calls failed {within}{last}"
        if tally.slow and tally.slow >= policy.slow_ratio * calls:
            return f"{tally.slow} of {calls} calls took longer than {format_duration(policy.slow_after_ms)} {within}"
        return None

    def _break(self, break_ms: int, reason: str, now_ms: int, now_ns: int) -> None:
        self.break_ms = min(break_ms, self.policy.break_cap_ms)
        self._open(self.break_ms, reason, "", now_ms, now_ns)

    def _open(self, for_ms: int | None, reason: str, who: str, now_ms: int, now_ns: int) -> None:
        self._note(reason, who, now_ms)
        self._no_probe()
        self._set_until(for_ms, now_ms, now_ns)
        self._machine.open()

    def _close(self, reason: str, who: str, now_ms: int, now_ns: int) -> None:
        self._note(reason, who, now_ms)
        self._no_probe()
        self._set_until(None, now_ms, now_ns)
        self._closed_ns = now_ns
        self._machine.close()

    def _note(self, reason: str, who: str, now_ms: int) -> None:
        self.reason, self.changed_by, self.changed_at = reason, who, now_ms

    def _set_until(self, for_ms: int | None, now_ms: int, now_ns: int) -> None:
        self.until_ms = None if for_ms is None else now_ms + for_ms
        self.until_ns = None if for_ms is None else now_ns + for_ms * MS

    def _no_probe(self) -> None:
        self.probe_job = self.late_job = 0


def _probe(job_id: int) -> str:
    """Who probed, for a sentence."""
    return "the probe" if job_id == ANY_JOB else f"the probe, job {job_id},"


class _Listener(CircuitBreakerListener):
    """Hears of every transition that pybreaker makes."""

    def __init__(self, breaker: Breaker, report: Report) -> None:
        self._breaker = breaker
        self._report = report

    def state_change(
        self, cb: CircuitBreaker, old_state: CircuitBreakerState | None, new_state: CircuitBreakerState
    ) -> None:
        """Report it with the reason that was noted before it was made."""
        breaker = self._breaker
        was = _WORDS[old_state.name] if old_state is not None else "closed"
        at = breaker.changed_at or 0
        self._report(BreakerEvent(breaker.name, at, was, _WORDS[new_state.name], breaker.reason, breaker.changed_by))


class _Storage(CircuitBreakerStorage):
    """Holds the state; what pybreaker counts is in the window."""

    def __init__(self, name: str, state: str, breaker: Breaker) -> None:
        super().__init__(name)
        self._state = state
        self._breaker = breaker

    @property
    def state(self) -> str:
        """In pybreaker's words."""
        return self._state

    @state.setter
    def state(self, state: str) -> None:
        self._state = state

    def reset_counter(self) -> None:
        """It closes: what was before the break says nothing about now."""
        self._breaker.window.clear()

    @property
    def counter(self) -> int:
        """Failures are counted in the window."""
        return 0

    @property
    def success_counter(self) -> int:
        """One success of the probe is enough."""
        return 0

    @property
    def opened_at(self) -> datetime | None:
        """Breaks are measured on the monotonic clock, not from here."""
        return None

    @opened_at.setter
    def opened_at(self, when: datetime) -> None:
        pass
