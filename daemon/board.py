"""The breaker board: one state per dependency for the whole daemon.

Pure: what happened comes in as method calls with the time, and `take_changes()` gives what to save, log and tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from perdure.daemon.breaker import ERROR_CHARS, MS, Breaker
from perdure.errors import UnknownDependency
from perdure.store.models import SavedBreaker
from perdure.wire.data import BreakerEvent, BreakerInfo
from perdure.wire.dependencies import BreakerState, Policy
from perdure.wire.work import Observed

#: A tenth of the calls failing: then one more failure is not the fault of the job that met it.
TROUBLE_ONE_IN = 10


class Board:
    """All breakers. Times: `now_ms` since the epoch, `now_ns` of the monotonic clock."""

    def __init__(self, policies: Mapping[str, Policy], saved: Iterable[SavedBreaker], now_ms: int, now_ns: int) -> None:
        """`saved` is what a former run has left. What the configuration does not name any more counts as closed."""
        self.known = frozenset(policies)
        self._gone: list[SavedBreaker] = []
        self._changed: dict[str, None] = {}
        self._events: list[BreakerEvent] = []
        self._tell: dict[str, None] = {}
        former = {one.name: one for one in saved}
        self._breakers = {
            name: Breaker(name, policy, former.get(name), self._event) for name, policy in policies.items()
        }
        for name, one in former.items():
            if name in self._breakers:
                self._breakers[name].restore(one, now_ms, now_ns)
            elif one.state != "closed":
                self._forget(one, now_ms)
        #: Those that are not closed: nearly always none.
        self._shut = {name: breaker for name, breaker in self._breakers.items() if breaker.word != "closed"}

    # --- what happens

    def observed(self, message: Observed, now_ms: int, now_ns: int) -> None:
        """What calls came to. While a breaker is not closed only its probe counts."""
        breaker = self._breakers.get(message.name)
        if breaker is None:
            return
        if message.error:
            breaker.last_error = _one_line(message.error)
        if breaker.word == "closed":
            breaker.count(message.ok, message.failed, message.slow, now_ms, now_ns)
        elif message.probe_job and (message.ok or message.failed):
            breaker.verdict(message.probe_job, not message.failed, now_ms, now_ns)

    def tick(self, now_ms: int, now_ns: int) -> None:
        """Time has passed: breaks may be over, and probes too late."""
        for breaker in list(self._shut.values()):
            if breaker.tick(now_ms, now_ns):
                self._tell[breaker.name] = None

    def assign_probe(self, name: str, job_id: int, now_ns: int) -> bool:
        """Make a job the probe. False: none is wanted (any more), the job is an ordinary one."""
        breaker = self._shut.get(name)
        if breaker is None or not breaker.assign_probe(job_id, now_ns):
            return False
        self._tell[name] = None
        return True

    def probe_ended(self, job_id: int) -> None:
        """A job ended or was handed back: if it was a probe and has given no verdict, another job may be one."""
        for breaker in self._shut.values():
            if job_id and breaker.probe_ended(job_id):
                self._tell[breaker.name] = None

    def open(self, name: str, who: str, reason: str, for_ms: int | None, now_ms: int, now_ns: int) -> None:
        """Open by hand: for `for_ms`, or until somebody closes it. Raises UnknownDependency."""
        self._get(name).open_by_hand(who, reason, for_ms, now_ms, now_ns)

    def close(self, name: str, who: str, reason: str, now_ms: int, now_ns: int) -> None:
        """Close by hand; one that is closed stays as it is. Raises UnknownDependency."""
        self._get(name).close_by_hand(who, reason, now_ms, now_ns)

    def take_changes(self) -> tuple[list[SavedBreaker], list[BreakerEvent], list[BreakerState]]:
        """What to save, what to log, and what to tell the workers, since the last call."""
        if not self._tell and not self._events:
            return [], [], []
        saved = [*self._gone, *(self._breakers[name].saved for name in self._changed)]
        states = [self._breakers[name].state for name in self._tell]
        events = self._events
        self._gone, self._changed, self._events, self._tell = [], {}, [], {}
        return saved, events, states

    # --- what is asked

    def blocks(self, needs: Sequence[str], job_id: int) -> list[str]:
        """Those of these breakers that keep this job from running. A half-open one lets its probe run."""
        if not self._shut:
            return []
        return [name for name in needs if name in self._shut and not (job_id and self._shut[name].probe_job == job_id)]

    def wants_probe(self) -> list[str]:
        """Half-open breakers for which no job calls."""
        return [name for name, breaker in self._shut.items() if breaker.wants_probe]

    def is_closed(self, name: str) -> bool:
        """Whether calls are let through; a dependency that nobody knows has nothing that could be open."""
        return name not in self._shut

    def in_trouble(self, name: str, now_ns: int) -> bool:
        """Whether a failure is no job's fault: not closed, or in the window no call went well, or a tenth failed."""
        if name in self._shut:
            return True
        breaker = self._breakers.get(name)
        if breaker is None:
            return False
        tally = breaker.window.tally(now_ns)
        return not tally.ok or tally.failed * TROUBLE_ONE_IN >= tally.calls

    def state(self, name: str) -> BreakerState:
        """What workers must know of one."""
        breaker = self._breakers.get(name)
        return breaker.state if breaker is not None else BreakerState(name, "closed")

    def states(self) -> list[BreakerState]:
        """What a new worker must know: all that are not closed."""
        return [breaker.state for breaker in self._shut.values()]

    def infos(self, now_ms: int, now_ns: int) -> list[BreakerInfo]:
        """All of them as people see them, by name."""
        return [_info(self._breakers[name], now_ms, now_ns) for name in sorted(self._breakers)]

    def next_event_ns(self) -> int | None:
        """When `tick` has something to do; None: not before something else happens."""
        times = (breaker.next_event_ns for breaker in self._shut.values())
        return min((at for at in times if at is not None), default=None)

    # --- inside

    def _get(self, name: str) -> Breaker:
        breaker = self._breakers.get(name)
        if breaker is None:
            known = ", ".join(sorted(self.known)) or "none"
            raise UnknownDependency(
                f"the configuration has no dependency {name} (it has: {known}): declare it as [dependencies.{name}]"
            )
        return breaker

    def _event(self, event: BreakerEvent) -> None:
        """A breaker changes its state. It may have told so before it is in the new one, so it is not asked here."""
        if event.now == "closed":
            self._shut.pop(event.name, None)
        else:
            self._shut[event.name] = self._breakers[event.name]
        self._events.append(event)
        self._changed[event.name] = self._tell[event.name] = None

    def _forget(self, one: SavedBreaker, now_ms: int) -> None:
        """A breaker of a dependency that is gone: should it come back, it begins closed."""
        reason = "the configuration does not name it any more"
        self._events.append(BreakerEvent(one.name, now_ms, one.state, "closed", reason))
        self._gone.append(SavedBreaker(one.name, "closed", now_ms, "", reason, None, 0))


def _info(breaker: Breaker, now_ms: int, now_ns: int) -> BreakerInfo:
    tally = breaker.window.tally(now_ns)
    # From the monotonic clock, which rules: that of the wall may have been set since.
    until = None if breaker.until_ns is None else now_ms + (breaker.until_ns - now_ns) // MS
    return BreakerInfo(
        breaker.name,
        breaker.word,
        reason=breaker.reason,
        changed_at=breaker.changed_at,
        changed_by=breaker.changed_by,
        until=until,
        break_ms=breaker.break_ms,
        probe_job=max(0, breaker.probe_job),  # ANY_JOB is nobody in particular
        ok=tally.ok,
        failed=tally.failed,
        slow=tally.slow,
        last_error=breaker.last_error,
    )


def _one_line(error: str) -> str:
    """An error as it may stand in a sentence."""
    line = " ".join(error.split())
    return line if len(line) <= ERROR_CHARS else line[: ERROR_CHARS - 1] + "…"
