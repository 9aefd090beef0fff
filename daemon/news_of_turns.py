"""What a committed turn means for its jobs: the states that they are in now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple, Protocol

import msgspec

from perdure.store.models import ClaimedJob, Committed, NewBatch, Turn
from perdure.store.states import (
    AVAILABLE,
    CANCELLED,
    COMPLETED,
    DEAD,
    FINAL,
    PARKED,
    RETRYABLE,
    RUNNING,
    SCHEDULED,
)
from perdure.wire.data import Enqueued
from perdure.wire.streams import StateChange

#: States in which a job ends.
ENDS = FINAL | {DEAD}
#: A result goes along if its text is no longer than this; longer ones can be fetched.
RESULT_CHARS = 4_096
#: So much of an error's text goes along.
ERROR_CHARS = 1_024


class Facts(NamedTuple):
    """What the news of a claimed job say besides its state."""

    kind: str
    queue: str
    attempt: int


#: What the store has claimed says the same.
Known = Facts | ClaimedJob
#: None: one that nobody listens to, or that was refused.
_Changes = Iterator[StateChange | None]


class _Wrong(msgspec.Struct):
    type: str = ""
    message: str = ""


class _Outcome(Protocol):
    @property
    def id(self) -> int: ...

    @property
    def lease(self) -> int: ...


_decode_wrong = msgspec.json.Decoder(_Wrong).decode
_decode_all_wrong = msgspec.json.Decoder(list[_Wrong]).decode


class Listened(Protocol):
    """Whose news anybody wants: see daemon/roll.py."""

    def facts(self, job_id: int) -> Known | None:
        """What is known of a job that was claimed until now; None if nobody listens to it."""
        ...

    def wants_new(self, queue: str) -> bool:
        """Whether anybody listens to jobs that are new in this queue."""
        ...


class TurnNews:
    """Reads one turn that is on disk. Only what somebody listens to costs something."""

    def __init__(self, turn: Turn, result: Committed, listened: Listened) -> None:
        self._turn = turn
        self._result = result
        self._listened = listened
        self._stale = frozenset(result.stale)

    def changes(self) -> Iterator[StateChange]:
        """The new states, in the order in which they came about. Read no faster than they are asked for."""
        turn, result = self._turn, self._result
        batches = zip(turn.batches, result.placed, strict=False)
        placed = [(batch, places) for batch, places in batches if not isinstance(places, Exception)]
        return filter(
            None,
            chain(
                self._successes(),
                self._failures(),
                self._given_back(turn.released, AVAILABLE),
                self._given_back(turn.parked, PARKED),
                self._given_back(turn.cancelled, CANCELLED),
                chain.from_iterable(self._placed(*one) for one in placed),
                self._shed(),
                self._claimed(),
            ),
        )

    def _successes(self) -> _Changes:
        turn, stale, facts, now = self._turn, self._stale, self._listened.facts, self._turn.now
        for lease, ids in turn.completed.items():
            # Thousands in a turn: `_change` in short.
            for job_id in ids:
                known = facts(job_id)
                if known is not None and not (stale and (job_id, lease) in stale):
                    yield StateChange(job_id, COMPLETED, now, known.kind, known.queue, known.attempt)
        for job_id, lease, text in turn.results:
            yield self._change(job_id, lease, COMPLETED, result=small(text))
        for job_id, lease, _ in turn.spooled:
            yield self._change(job_id, lease, COMPLETED)

    def _failures(self) -> _Changes:
        turn = self._turn
        for retried in turn.retried:
            yield self._change(retried.id, retried.lease, RETRYABLE, retried.error_json)
        for postponed in turn.postponed:
            yield self._change(postponed.id, postponed.lease, RETRYABLE, postponed.error_json, used=False)
        for interrupted in turn.interrupted:
            yield self._change(interrupted.id, interrupted.lease, AVAILABLE, interrupted.error_json)
        for buried in turn.buried:
            yield self._change(buried.id, buried.lease, DEAD, buried.error_json)
        for stopped in turn.stopped:
            yield self._change(stopped.id, stopped.lease, CANCELLED, stopped.error_json)

    def _given_back(self, outcomes: Sequence[_Outcome], state: str) -> _Changes:
        for outcome in outcomes:
            yield self._change(outcome.id, outcome.lease, state, used=False)

    def _change(
        self,
        job_id: int,
        lease: int,
        state: str,
        error_json: str | None = None,
        *,
        result: str | None = None,
        used: bool = True,
    ) -> StateChange | None:
        """The outcome of an attempt, if somebody listens and it was not refused. `used`: the attempt is charged."""
        known = self._listened.facts(job_id)
        if known is None or (self._stale and (job_id, lease) in self._stale):
            return None
        attempt = known.attempt if used else max(0, known.attempt - 1)
        error = None if error_json is None else wrong(error_json)
        return StateChange(job_id, state, self._turn.now, known.kind, known.queue, attempt, error, result)

    def _placed(self, batch: NewBatch, places: Sequence[Enqueued]) -> _Changes:
        now, wants_new = self._turn.now, self._listened.wants_new
        for job, place in zip(batch.jobs, places, strict=False):
            if not place.duplicate and wants_new(job.queue):
                later = job.scheduled_at is not None and job.scheduled_at > now
                yield StateChange(place.id, SCHEDULED if later else AVAILABLE, now, job.kind, job.queue)

    def _shed(self) -> _Changes:
        turn, listened = self._turn, self._listened
        if self._result.shed:
            why = {shed.queue: wrong(shed.error_json) for shed in turn.shed}
            for job_id, queue in self._result.shed:
                if listened.wants_new(queue) or listened.facts(job_id) is not None:
                    yield StateChange(job_id, DEAD, turn.now, queue=queue, error=why.get(queue))

    def _claimed(self) -> _Changes:
        now, wants_new, facts = self._turn.now, self._listened.wants_new, self._listened.facts
        for row in self._result.claimed:
            if wants_new(row.queue) or facts(row.id) is not None:
                yield StateChange(row.id, RUNNING, now, row.kind, row.queue, row.attempt)


def ended_ids(turn: Turn) -> Iterator[int]:
    """The jobs whose attempts ended in this turn, one way or another."""
    for ids in turn.completed.values():
        yield from ids
    for job_id, *_ in (*turn.results, *turn.spooled):
        yield job_id
    outcomes: tuple[Sequence[_Outcome], ...] = (
        turn.retried,
        turn.postponed,
        turn.interrupted,
        turn.released,
        turn.parked,
        turn.buried,
        turn.cancelled,
        turn.stopped,
    )
    for some in outcomes:
        for outcome in some:
            yield outcome.id


def small(result_json: str | None) -> str | None:
    """A result that may go along."""
    return result_json if result_json is not None and len(result_json) <= RESULT_CHARS else None


def wrong(error_json: str) -> str:
    """ "Type: message" of one entry of a job's errors."""
    try:
        found = _decode_wrong(error_json)
    except msgspec.MsgspecError:
        return error_json[:ERROR_CHARS]
    return _words(found)


def last_wrong(errors_json: str | None) -> str | None:
    """ "Type: message" of the last of a job's errors, if there are any."""
    found = _decode_all_wrong(errors_json) if errors_json else []
    return _words(found[-1]) if found else None


def _words(found: _Wrong) -> str:
    text = f"{found.type}: {found.message}" if found.message else found.type
    return text if len(text) <= ERROR_CHARS else f"{text[: ERROR_CHARS - 1]}…"
