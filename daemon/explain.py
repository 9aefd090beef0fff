"""Why a job is where it is, in words: from its row and from what the engine knows. Pure: it is told everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from perdure.duration import format_duration
from perdure.store.states import AVAILABLE, CANCELLED, COMPLETED, FINAL, PARKED, RETRYABLE, RUNNING, SCHEDULED
from perdure.wire.data import BreakerInfo, DeadView, Explanation, JobView

#: Jobs before this one are counted up to here: more are "too many to count".
MOST_AHEAD: Final = 10_000
#: Most jobs that are named as those which hold the places.
MOST_HOLDERS: Final = 8

_NO_DAEMON: Final = "No daemon is running: start it with `perdure run`."


class Holder(NamedTuple):
    """A job that has one of the places that another waits for."""

    id: int
    kind: str


class Place(NamedTuple):
    """Where a claimed job is. `worker` 0: with the supervisor, not yet with a worker.

    `executing_since` (epoch milliseconds) None: it has not begun. `alone`: it waits for, or is with, the worker that
    runs jobs on their last life alone. `cancelled_by`: somebody has, and it has `grace_ms` left to end.
    """

    worker: int = 0
    pid: int = 0
    executing_since: int | None = None
    alone: bool = False
    cancelled_by: str | None = None
    grace_ms: float = 0.0


class Facts(NamedTuple):
    """What the engine knows about one job at this moment.

    `place` None: it is not claimed. `kind_known`: a handler for it is loaded (by the last daemon, when none runs).
    `needs`: what its kind declares. `breakers` by name: those that the configuration knows. `workers`: how many can be
    given such a job; `lane_full`: none of them has room for it now, and `holders` are what they execute instead. For a
    job that is with a worker already, `holders` are what that worker executes before it.
    """

    daemon: bool
    stopping: bool = False
    place: Place | None = None
    kind_known: bool = True
    needs: Sequence[str] = ()
    breakers: Mapping[str, BreakerInfo] = {}
    workers: int = 0
    lane_full: bool = False
    holders: Sequence[Holder] = ()


def explain_dead(letter: DeadView, now: int) -> Explanation:
    """A dead letter."""
    reason = {
        "permanent": "it failed with an error that cannot pass",
        "attempts": f"it failed {_times(letter.max_attempts)}, as often as it may",
        "interruptions": f"its worker died {_times(letter.interruptions)} while it ran",
        "shed": f"its queue, {letter.queue}, was full, and no available job there was less urgent",
    }.get(letter.reason, letter.reason)
    text = f"It is a dead letter since {_span(now - letter.died_at)}: {reason}."
    if letter.resolution:
        text += f" It was {letter.resolution}; nothing more happens to it."
    else:
        text += f" See `perdure dead show {letter.id}`; `perdure dead replay {letter.id}` gives it another life."
    return Explanation(letter.id, "dead", "dead", text)


def explain_job(job: JobView, facts: Facts, *, ahead: int, paused: bool, now: int) -> Explanation:
    """A job that is not dead. `ahead`: available jobs of its queue that come before it, if it is available itself."""
    found = _Story(job, facts, ahead, paused, now).tell()
    if not facts.daemon and job.state not in FINAL and _NO_DAEMON not in found.text:
        found.text += f" {_NO_DAEMON}"
    return found


class _Story:
    """One job, and one method for each state that it can be in."""

    def __init__(self, job: JobView, facts: Facts, ahead: int, paused: bool, now: int) -> None:
        self.job = job
        self.facts = facts
        self.ahead = ahead
        self.paused = paused
        self.now = now

    def tell(self) -> Explanation:
        """The explanation."""
        job = self.job
        if job.state in FINAL:
            return self._ended()
        if job.state == PARKED:
            return self._parked(job.park_reason or "")
        if job.state in (SCHEDULED, RETRYABLE):
            return self._later()
        if job.state == RUNNING:
            return self._running()
        assert job.state == AVAILABLE, job.state
        return self._available()

    def _is(self, because: str, text: str, *, name: str = "", seconds_left: float | None = None) -> Explanation:
        return Explanation(self.job.id, self.job.state, because, text, name=name, seconds_left=seconds_left)

    # --- ended

    def _ended(self) -> Explanation:
        when = "" if self.job.finalized_at is None else f" {_span(self.now - self.job.finalized_at)} ago"
        what, how = ("It completed" if self.job.state == COMPLETED else "It was taken back"), ""
        if self.job.state == CANCELLED and self.job.attempt and (how := _last_error(self.job)):
            what = "It was stopped"
        return self._is(self.job.state, f"{what}{when}{how}. `perdure retry {self.job.id}` runs it again.")

    # --- waits for its time

    def _later(self) -> Explanation:
        job, left = self.job, max(0.0, (self.job.scheduled_at - self.now) / 1000)
        when = f"in {_span(left * 1000)}" if left else "now: it is due, and becomes available at any moment"
        if job.state == SCHEDULED:
            found = self._is("scheduled", f"It is to run {when}.", seconds_left=left)
        else:
            tried = f"attempt {job.attempt - job.interruptions} of {job.max_attempts}"
            text = f"Its last attempt failed ({tried}{_last_error(job)}); the next one comes {when}."
            found = self._is("retry", text, seconds_left=left)
        found.text += f" `perdure retry {job.id}` runs it at once.{self._obstacles()}"
        return found

    def _obstacles(self) -> str:
        """What will be in its way when its time has come."""
        texts = [f"Its queue, {self.job.queue}, is paused."] if self.paused else []
        if not self.facts.kind_known:
            texts.append(f"No handler named {self.job.kind} is loaded.")
        texts += [f"It needs {name}, which the configuration does not know." for name in self._unknown_needs()]
        texts += [f"It needs {info.name}, whose breaker is {_state(info)}." for info in self._closed_doors()]
        return "".join(f" {text}" for text in texts)

    def _closed_doors(self) -> list[BreakerInfo]:
        """The breakers that it needs and that are not closed."""
        infos = (self.facts.breakers.get(name) for name in self.facts.needs)
        return [info for info in infos if info is not None and info.state != "closed"]

    def _unknown_needs(self) -> list[str]:
        return [name for name in self.facts.needs if name not in self.facts.breakers]

    # --- parked

    def _parked(self, reason: str) -> Explanation:
        what, _, name = reason.partition(":")
        match what:
            case "kind":
                return self._parked_for_kind(name)
            case "needs":
                return self._parked_for_needs(name)
            case "breaker":
                return self._parked_for_breaker(name)
            case "alone":
                text = (
                    "Its worker has died under it so often that one more time would be its last: it waits for the "
                    "worker that runs such jobs alone, one after the other."
                )
                return self._is("alone", text)
        return self._is(what or "parked", f"It waits for {reason or 'something that nobody wrote down'}.", name=name)

    def _parked_for_kind(self, name: str) -> Explanation:
        if self.facts.kind_known:
            text = f"It waited for a handler named {name}, which is loaded now: it is about to be released."
        else:
            text = (
                f"No handler named {name} is loaded. It runs when one is: see daemon.handlers, `perdure kinds`, and "
                "`perdure reload`."
            )
        return self._is("kind", text, name=name)

    def _parked_for_needs(self, name: str) -> Explanation:
        if name in self.facts.breakers:
            text = f"It needs {name}, which is configured by now: it is about to be released."
        else:
            text = (
                f"It needs {name}, which the daemon's configuration does not know. Configure [{name}] if it is one of "
                f"postgres, neo4j and qdrant, else declare [dependencies.{name}], and start the daemon anew."
            )
        return self._is("needs", text, name=name)

    def _parked_for_breaker(self, name: str) -> Explanation:
        info = self.facts.breakers.get(name)
        if info is None:
            text = f"It waits for {name}, which the configuration does not know any more."
            return self._is("breaker", text, name=name)
        if info.state == "half_open":
            return self._probe(info)
        if info.state == "closed":
            pace = f", {info.ramp:.0f} jobs a second at the moment" if info.ramp else ""
            others = f" {info.parked:,} jobs wait for it." if info.parked else ""
            text = f"{name} is back, and the jobs that waited for it are being released{pace}.{others}"
            if not self.facts.daemon:
                text = f"The breaker of {name} is closed; the next daemon releases the jobs that wait for it."
            return self._is("breaker", text + self._paused_too(), name=name)
        left = None if info.until is None else max(0.0, (info.until - self.now) / 1000)
        why = f": {info.reason}" if info.reason else ""
        error = (
            f" The last error was {info.last_error}." if info.last_error and info.last_error not in info.reason else ""
        )
        if left is None:
            then = f"until somebody closes it: `perdure breaker close {name}`"
        else:
            then = f"for {_span(left * 1000)} more, then one job tries it"
        text = f"It needs {name}, whose breaker is open{why}. It stays open {then}.{error} Waiting costs no attempt."
        text += self._paused_too()
        return self._is("breaker", text, name=name, seconds_left=left)

    def _paused_too(self) -> str:
        return f" Its queue, {self.job.queue}, is paused, too." if self.paused else ""

    def _probe(self, info: BreakerInfo) -> Explanation:
        text = f"It needs {info.name}, whose break is over: "
        if info.probe_job == self.job.id:
            text += "this is the job that tries whether it is back."
        elif info.probe_job:
            text += f"job {info.probe_job} tries whether it is back, and the others follow when it is."
        else:
            text += "one job is about to try whether it is back."
        return self._is("probe", text, name=info.name)

    # --- claimed

    def _running(self) -> Explanation:
        job, place = self.job, self.facts.place
        if not self.facts.daemon:
            text = f"The daemon that ran it is gone. {_NO_DAEMON} The next one gives it back to its queue first."
            return self._is("no-daemon", text)
        if place is None:
            return self._is("running", "It has just ended, or just begun: its outcome is on its way to the disk.")
        if place.executing_since is None:
            return self._claimed(place)
        elapsed = max(0, self.now - place.executing_since)
        left = None if not job.timeout_ms else max(0.0, (job.timeout_ms - elapsed) / 1000)
        limit = "" if left is None else f" Its time limit ends it in {_span(left * 1000)}."
        alone = ", alone, because it is on its last life" if place.alone else ""
        text = f"Worker {place.worker} (pid {place.pid}) has been executing it for {_span(elapsed)}{alone}."
        if place.cancelled_by is None:
            return self._is("running", f"{text}{limit}", seconds_left=left)
        grace, who = max(0.0, place.grace_ms), place.cancelled_by or "someone"
        text += f" It was cancelled by {who}; if it does not end in {_span(grace)}, its worker is killed."
        return self._is("running", text, seconds_left=grace / 1000)

    def _claimed(self, place: Place) -> Explanation:
        if place.alone:
            text = "Its worker has died under it before: it is next for the worker that runs such jobs alone."
            return self._is("alone", text)
        if place.worker:
            behind = f", behind {_jobs(self.facts.holders)}" if self.facts.holders else ""
            text = f"It was sent ahead to worker {place.worker} (pid {place.pid}) and has not begun{behind}."
            return self._held("claimed", text)
        if self.facts.lane_full:
            return self._held("lane-full", f"It is claimed and goes to the next worker that has room. {self._places()}")
        return self._is("claimed", "It is claimed, and about to be sent to a worker.")

    # --- available

    def _available(self) -> Explanation:
        found = self._wait()
        found.ahead = self.ahead
        return found

    def _wait(self) -> Explanation:
        job = self.job
        line = self._line()
        if not self.facts.daemon:
            return self._is("no-daemon", f"{_NO_DAEMON} It is ready to run.{line}{self._paused_too()}")
        if self.facts.stopping:
            return self._is("stopping", f"The daemon is stopping and begins nothing more; the next one goes on.{line}")
        if self.paused:
            text = f"Its queue, {job.queue}, is paused; `perdure queue resume {job.queue}` lets it go on.{line}"
            return self._is("paused", text, name=job.queue)
        if not self.facts.kind_known:
            text = f"No handler named {job.kind} is loaded; when its turn comes it is parked until one is.{line}"
            return self._is("kind", text, name=job.kind)
        for name in self._unknown_needs():
            text = f"It needs {name}, which the configuration does not know; when its turn comes it is parked.{line}"
            return self._is("needs", text, name=name)
        for info in self._closed_doors():
            text = f"It needs {info.name}, whose breaker is {_state(info)}; when its turn comes it is parked.{line}"
            return self._is("breaker", text, name=info.name)
        if self.ahead:
            full = f" {self._places()}" if self.facts.lane_full else ""
            return self._held("behind", f"{line.strip()}{full}", name=job.queue)
        if self.facts.lane_full:
            return self._held("lane-full", f"It is the next one of its queue. {self._places()}")
        return self._is("next", "It is the next one of its queue, and about to be claimed.")

    def _line(self) -> str:
        if not self.ahead:
            return ""
        count = f"{self.ahead:,}" if self.ahead < MOST_AHEAD else f"{MOST_AHEAD:,} or more"
        jobs, come = ("job", "comes") if self.ahead == 1 else ("jobs", "come")
        return f" {count} {jobs} of its queue ({self.job.queue}) {come} before it."

    def _places(self) -> str:
        if not self.facts.workers:
            return "No worker is ready at the moment."
        if not self.facts.holders:
            return "All places for jobs like it are taken."
        return f"All places for jobs like it are taken, by {_jobs(self.facts.holders)}."

    def _held(self, because: str, text: str, *, name: str = "") -> Explanation:
        found = self._is(because, text, name=name)
        found.holders = [holder.id for holder in self.facts.holders]
        return found


def _state(info: BreakerInfo) -> str:
    return "half open" if info.state == "half_open" else info.state


def _jobs(holders: Sequence[Holder]) -> str:
    """ "job 3 (mail.send) and job 4 (mail.send)"."""
    named = [f"job {holder.id} ({holder.kind})" for holder in holders[:MOST_HOLDERS]]
    if len(holders) > MOST_HOLDERS:
        named.append(f"{len(holders) - MOST_HOLDERS} more")
    return " and ".join([", ".join(named[:-1]), named[-1]]) if len(named) > 1 else named[0]


def _last_error(job: JobView) -> str:
    errors = msgspec.json.decode(job.errors) if job.errors else []
    if not errors:
        return ""
    message = str(errors[-1].get("message") or "")
    return f", {errors[-1].get('type')}" + (f": {message[:200]}" if message else "")


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count) or f"{count} times"


def _span(milliseconds: float) -> str:
    """A length of time for people."""
    left = max(0, int(milliseconds))
    if left >= 10_000:
        left -= left % 1_000
    return format_duration(left, approx=True)
