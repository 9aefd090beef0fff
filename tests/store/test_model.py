"""The store against a model of it: random verbs in random order, and every job is where it should be after each."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from perdure.store import small_turns
from perdure.store.models import Buried, Interrupted, NewBatch, Parked, Postponed, Released, Retried, Shed, Stopped
from perdure.store.sqlite import SqliteStore, open_sqlite
from perdure.wire.data import DeadFilter, Enqueued, JobFilter, JobView
from tests.store.desk import Desk, error_json, new_job

LIVE = ("scheduled", "available", "running", "retryable", "parked")
Fates = st.sampled_from(
    ["complete", "result", "retry", "interrupt", "release", "park", "postpone", "bury", "crash", "cancel", "stop"]
)
Picks = st.lists(st.integers(0, 30), max_size=6)


@dataclass
class Model:
    """What is known of one job."""

    state: str
    key: str | None
    max_attempts: int
    max_interruptions: int
    due: int = 0
    attempt: int = 0
    interruptions: int = 0
    errors: int = 0
    deaths: int = 0
    lease: int = 0

    def die(self) -> None:
        self.state, self.deaths, self.errors = "dead", self.deaths + 1, self.errors + 1

    def revive(self) -> None:
        self.state = "available"
        self.interruptions = self.attempt = min(self.interruptions, self.max_interruptions - 1)


class StoreMachine(RuleBasedStateMachine):
    """Verbs with good and bad targets; the model says what becomes of them."""

    most_steps = small_turns.MOST_STEPS

    def __init__(self) -> None:
        super().__init__()
        self.small_turns = patch.object(small_turns, "MOST_STEPS", self.most_steps)
        self.small_turns.start()
        self.folder = Path(tempfile.mkdtemp())
        self.runner = asyncio.Runner()
        self.jobs: dict[int, Model] = {}
        self.desk = Desk(self.open())

    def open(self) -> SqliteStore:
        return self.runner.run(open_sqlite(self.folder / "queue.db", durability="normal"))

    def teardown(self) -> None:
        self.small_turns.stop()
        self.runner.run(self.desk.store.close())
        self.runner.close()
        shutil.rmtree(self.folder)

    def pick(self, picks: list[int]) -> list[int]:
        """Different jobs of any state; and one that is not there, now and then."""
        ids = [*self.jobs, 10**6]
        return list(dict.fromkeys(ids[pick % len(ids)] for pick in picks))

    def holder(self, key: str | None) -> int | None:
        """The unfinished job that has a key."""
        found = (job_id for job_id, job in self.jobs.items() if key and job.key == key and job.state in LIVE)
        return next(found, None)

    @rule(
        keys=st.lists(st.sampled_from([None, None, "a", "b"]), min_size=1, max_size=5),
        strict=st.booleans(),
        budgets=st.tuples(st.integers(1, 3), st.integers(1, 3)),
        delay=st.sampled_from([None, -5, 50, 500]),
        bad=st.sampled_from([False, False, False, True]),
    )
    def enqueue(
        self, keys: list[str | None], strict: bool, budgets: tuple[int, int], delay: int | None, bad: bool
    ) -> None:
        at = None if delay is None else self.desk.now + 1 + delay
        jobs = [
            new_job(unique_key=key, max_attempts=budgets[0], max_interruptions=budgets[1], scheduled_at=at)
            for key in keys
        ]
        batches = [NewBatch([*jobs, new_job(priority=50)] if bad else jobs, strict), NewBatch([new_job()], strict)]
        first, second = self.runner.run(self.desk.turn(batches=batches)).placed
        before = dict(self.jobs)
        refused = bad
        places = [None] * len(jobs) if isinstance(first, Exception) else first
        for job, place in zip(jobs, places, strict=True):
            holder = self.holder(job.unique_key)
            refused = refused or (strict and holder is not None)
            if place is not None and holder is None:
                assert not place.duplicate
                state = "scheduled" if delay and delay > 0 else "available"
                self.jobs[place.id] = Model(state, job.unique_key, *budgets, due=at or 0)
            elif place is not None:
                assert place == Enqueued(holder, True)
            elif holder is None and job.unique_key:
                self.jobs[-len(self.jobs) - 1] = Model("available", job.unique_key, 1, 1)
        if refused:
            self.jobs = before
        assert isinstance(first, Exception) == refused
        assert isinstance(second, list)
        self.jobs[second[0].id] = Model("available", None, 3, 2)

    @rule(surplus=st.integers(1, 4), with_new=st.booleans())
    def shed(self, surplus: int, with_new: bool) -> None:
        batches = [NewBatch([new_job()], False)] if with_new else []
        done = self.runner.run(self.desk.turn(batches=batches, shed=[Shed("default", surplus, error_json(0))]))
        for places in done.placed:
            assert isinstance(places, list)
            assert places[0].shed, "the newest one goes first"
            self.jobs[places[0].id] = Model("available", None, 3, 2)
        available = sorted((job_id for job_id, job in self.jobs.items() if job.state == "available"), reverse=True)
        assert done.shed == [(job_id, "default") for job_id in available[:surplus]]
        for job_id in available[:surplus]:
            self.jobs[job_id].die()

    @rule(limit=st.integers(1, 6))
    def claim(self, limit: int) -> None:
        claimed = self.runner.run(self.desk.claim(limit=limit))
        expected = [job_id for job_id in sorted(self.jobs) if self.jobs[job_id].state == "available"][:limit]
        assert [job.id for job in claimed] == expected
        for job in claimed:
            model = self.jobs[job.id]
            model.state, model.lease, model.attempt = "running", self.desk.lease, model.attempt + 1
            assert (job.attempt, job.interruptions) == (model.attempt, model.interruptions)

    @rule(picks=Picks, fate=Fates)
    def end(self, picks: list[int], fate: str) -> None:
        ids = self.pick(picks)
        pairs = [(job_id, self.jobs[job_id].lease if job_id in self.jobs else 1) for job_id in ids]
        now, error = self.desk.now + 1, error_json(1)
        fields: dict[str, object] = {
            "complete": {"completed": {lease: [one for one, held in pairs if held == lease] for _, lease in pairs}},
            "result": {"results": [(*pair, "7") for pair in pairs]},
            "retry": {"retried": [Retried(*pair, now + 30, error) for pair in pairs]},
            "interrupt": {"interrupted": [Interrupted(*pair, error) for pair in pairs]},
            "release": {"released": [Released(*pair) for pair in pairs]},
            "park": {"parked": [Parked(*pair, "kind:x") for pair in pairs]},
            "postpone": {"postponed": [Postponed(*pair, now + 30, error) for pair in pairs]},
            "bury": {"buried": [Buried(*pair, "permanent", error, "fp", False) for pair in pairs]},
            "crash": {"buried": [Buried(*pair, "interruptions", error, "fp", True) for pair in pairs]},
            "cancel": {"cancelled": [Released(*pair) for pair in pairs]},
            "stop": {"stopped": [Stopped(*pair, error) for pair in pairs]},
        }[fate]  # type: ignore[assignment]  # the fields of a turn
        done = self.runner.run(self.desk.turn(**fields))
        running = [job_id for job_id in ids if job_id in self.jobs and self.jobs[job_id].state == "running"]
        assert sorted(done.stale) == sorted(pair for pair in pairs if pair[0] not in running)
        for job_id in running:
            self.settle(self.jobs[job_id], fate, now)

    def settle(self, job: Model, fate: str, now: int) -> None:
        """What an outcome makes of a job that runs."""
        if fate in ("complete", "result"):
            job.state = "completed"
        elif fate == "retry" and job.attempt - job.interruptions < job.max_attempts:
            job.state, job.due, job.errors = "retryable", now + 30, job.errors + 1
        elif fate == "interrupt" and job.interruptions + 1 < job.max_interruptions:
            job.state, job.interruptions, job.errors = "available", job.interruptions + 1, job.errors + 1
        elif fate == "postpone":
            job.state, job.due, job.attempt, job.errors = "retryable", now + 30, job.attempt - 1, job.errors + 1
        elif fate == "stop":
            job.state, job.errors = "cancelled", job.errors + 1
        elif fate in ("release", "park", "cancel"):
            job.attempt -= 1
            job.state = {"release": "available", "park": "parked", "cancel": "cancelled"}[fate]
        else:
            job.interruptions += fate in ("interrupt", "crash")
            job.die()

    @rule(wait=st.sampled_from([0, 40, 600]))
    def promote(self, wait: int) -> None:
        self.desk.now += wait
        done = self.runner.run(self.desk.turn(promote=True))
        waiting = [job for job in self.jobs.values() if job.state in ("scheduled", "retryable")]
        for job in waiting:
            if job.due <= self.desk.now:
                job.state = "available"
        assert done.next_due == min((job.due for job in waiting if job.due > self.desk.now), default=None)

    @rule()
    def unpark(self) -> None:
        self.runner.run(self.desk.store.unpark(["kind:x"], 100, self.desk.now))
        for job in self.jobs.values():
            job.state = "available" if job.state == "parked" else job.state

    @rule(picks=Picks, abandoned=st.booleans())
    def cancel(self, picks: list[int], abandoned: bool) -> None:
        ids = self.pick(picks)
        verdicts = self.runner.run(self.desk.store.cancel(ids, self.desk.now, abandoned=abandoned))
        for job_id, verdict in zip(ids, verdicts, strict=True):
            job = self.jobs.get(job_id)
            fits = job is not None and job.state in LIVE and (abandoned or job.state != "running")
            assert fits == (verdict.error is None)
            if job is not None and fits:
                job.state = "cancelled"

    @rule(picks=Picks)
    def retry(self, picks: list[int]) -> None:
        ids = sorted(self.pick(picks))
        verdicts, _ = self.runner.run(self.desk.store.retry(ids, self.desk.now))
        for job_id, verdict in zip(ids, verdicts, strict=True):
            job = self.jobs.get(job_id)
            fits = job is not None and job.state in ("scheduled", "retryable", "completed", "cancelled")
            fits = fits and job is not None and self.holder(job.key) in (None, job_id)
            assert fits == (verdict.error is None)
            if job is not None and fits:
                job.revive()

    @rule(picks=Picks, edit=st.booleans())
    def replay(self, picks: list[int], edit: bool) -> None:
        ids = self.pick(picks)
        set_args = '{"x": 1}' if edit else None
        verdicts, _ = self.runner.run(self.desk.store.replay(ids, set_args, "ann", self.desk.now))
        for job_id, verdict in zip(ids, verdicts, strict=True):
            job = self.jobs.get(job_id)
            fits = job is not None and job.state == "dead" and self.holder(job.key) is None
            assert fits == (verdict.error is None)
            if job is not None and fits:
                job.revive()

    @rule(picks=Picks)
    def discard(self, picks: list[int]) -> None:
        ids = self.pick(picks)
        verdicts = self.runner.run(self.desk.store.discard(ids, "ann", self.desk.now))
        for job_id, verdict in zip(ids, verdicts, strict=True):
            fits = job_id in self.jobs and self.jobs[job_id].state == "dead"
            assert fits == (verdict.error is None)
            if fits:
                self.jobs[job_id].state = "discarded"

    @precondition(lambda self: self.jobs)
    @rule(picks=Picks, known=st.booleans())
    def restart(self, picks: list[int], known: bool) -> None:
        self.runner.run(self.desk.store.close())
        self.desk.store = self.open()
        executing = {job_id: self.jobs[job_id].attempt for job_id in self.pick(picks) if job_id in self.jobs}
        self.runner.run(self.desk.store.recover(list(executing.items()) if known else None, self.desk.now))
        for job_id, job in self.jobs.items():
            if job.state == "running":
                self.settle(job, "interrupt" if not known or job_id in executing else "release", self.desk.now)

    @invariant()
    def every_job_is_where_it_should_be(self) -> None:
        views = {job.id: job for job in self.runner.run(self.desk.store.list(JobFilter(limit=10_000)))}
        which = DeadFilter(include_resolved=True, limit=10_000)
        letters = {letter.id: letter for letter in self.runner.run(self.desk.store.list_dead(which))}
        for job_id, job in self.jobs.items():
            if job.state in ("dead", "discarded"):
                letter = letters[job_id]
                assert letter.resolution == (None if job.state == "dead" else "discarded")
                assert (letter.deaths, letter.attempt, letter.interruptions) == (
                    job.deaths,
                    job.attempt,
                    job.interruptions,
                )
                assert len(json.loads(letter.errors)) == job.errors
                assert job_id not in views
            else:
                check_live(views.pop(job_id), job)
                assert (job_id in letters) == (job.deaths > 0)
        assert not views
        counts = self.runner.run(self.desk.store.count())
        states = [job.state for job in self.jobs.values()]
        waiting = sum(states.count(state) for state in LIVE if state != "running")
        assert self.runner.run(self.desk.store.depths({"default": 10_000}))["default"].waiting == waiting
        assert counts == {state: states.count(state) for state in counts}


def check_live(view: JobView, job: Model) -> None:
    """A row and its model say the same."""
    assert (view.state, view.attempt, view.interruptions) == (job.state, job.attempt, job.interruptions)
    assert len(json.loads(view.errors or "[]")) == job.errors


class LargeTurns(StoreMachine):
    """The same with all turns carried out like those of many jobs."""

    most_steps = -1


class TestStore(StoreMachine.TestCase):  # type: ignore[misc, valid-type]  # made by hypothesis
    """A verb would lose a job, charge it wrongly, or break a CHECK, after a history that nobody has thought of."""

    settings = settings(
        max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )


class TestStoreOfLargeTurns(LargeTurns.TestCase):  # type: ignore[misc, valid-type]  # made by hypothesis
    """The same, in a daemon that is never without work."""

    settings = TestStore.settings
