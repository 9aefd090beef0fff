"""Conformance: the group commit."""

from __future__ import annotations

import json

from msgspec.structs import astuple, replace

from perdure.errors import Duplicate, Refused
from perdure.store.models import (
    Buried,
    Claim,
    Interrupted,
    NewBatch,
    Parked,
    Postponed,
    Released,
    Retried,
    Stopped,
)
from perdure.wire.data import Enqueued
from tests.store.conftest import OpenDesk
from tests.store.desk import error_json, new_job


async def test_jobs_are_claimed_by_priority_and_age(open_desk: OpenDesk) -> None:
    """An urgent job would wait behind others, or two jobs would change places."""
    async with open_desk() as desk:
        placed = await desk.enqueue(*(new_job(priority=priority) for priority in (5, 0, -5, 0, 5)))
        ids = [place.id for place in placed]
        assert ids == sorted(ids)
        claimed = await desk.claim(limit=4)
        assert [job.id for job in claimed] == [ids[2], ids[1], ids[3], ids[0]]
        assert [job.attempt for job in claimed] == [1, 1, 1, 1]


async def test_claims_stop_at_their_limits(open_desk: OpenDesk) -> None:
    """The supervisor would get more jobs than it has room for, or would think a queue empty that is not."""
    async with open_desk() as desk:
        await desk.enqueue(*[new_job(queue="a")] * 5, *[new_job(queue="b")] * 5)
        claims = [Claim("a", 3), Claim("empty", 2), Claim("b", 3)]
        done = await desk.turn(lease=1, claims=claims, claim_total=5)
        assert [job.queue for job in done.claimed] == ["a", "a", "a", "b", "b"]
        assert done.drained == ["empty"]
        done = await desk.turn(lease=2, claims=[Claim("a", 3), Claim("b", 3)], claim_total=9)
        assert (len(done.claimed), done.drained) == (5, ["a"])
        assert not (await desk.turn(lease=3, claims=[Claim("a", 3)])).drained, "no room is not an empty queue"


async def test_a_job_is_claimed_in_the_turn_that_enqueues_it(open_desk: OpenDesk) -> None:
    """An idle daemon would need two commits, and twice the time, to start a job."""
    async with open_desk() as desk:
        batch = NewBatch([new_job(args='{"x": 1}')], strict=False)
        done = await desk.turn(lease=1, batches=[batch], claims=[Claim("default", 1)], claim_total=1)
        assert done.placed == [[Enqueued(done.claimed[0].id, False)]]
        assert json.loads(done.claimed[0].args) == {"x": 1}


async def test_completed_jobs_keep_their_results(open_desk: OpenDesk) -> None:
    """What a handler returned would be lost, or a text that is no JSON would stop every other outcome."""
    async with open_desk() as desk:
        await desk.enqueue(*[new_job()] * 4)
        jobs = await desk.claim()
        ids = [job.id for job in jobs]
        results = [
            (ids[1], desk.lease, '{"rows": [1, 2]}'),
            (ids[2], desk.lease, "not json"),
            (ids[3], desk.lease, "null"),
        ]
        done = await desk.turn(completed={desk.lease: [ids[0]]}, results=results)
        assert not done.stale
        views = [await desk.store.get(job_id) for job_id in ids]
        assert all(view is not None and view.state == "completed" and view.finalized_at == desk.now for view in views)
        results_kept = [view.result for view in views if view]
        assert results_kept == [None, '{"rows": [1, 2]}', '"not json"', "null"]


async def test_outcomes_of_an_older_lease_are_refused(open_desk: OpenDesk) -> None:
    """T03: a worker that was given up would finish a job that another one has begun again."""
    async with open_desk() as desk:
        job = await desk.running()
        old = desk.lease
        await desk.release(job)
        (again,) = await desk.claim()
        assert (again.id, again.attempt) == (job.id, 1)
        late = error_json(1)
        done = await desk.turn(
            completed={old: [job.id]},
            results=[(job.id, old, "1")],
            retried=[Retried(job.id, old, desk.now, late)],
            interrupted=[Interrupted(job.id, old, late)],
            released=[Released(job.id, old)],
            parked=[Parked(job.id, old, "kind:x")],
            postponed=[Postponed(job.id, old, desk.now, late)],
            buried=[Buried(job.id, old, "permanent", late, "fp", False)],
            cancelled=[Released(job.id, old)],
            stopped=[Stopped(job.id, old, late)],
        )
        assert done.stale == [(job.id, old)] * 10
        view = await desk.store.get(job.id)
        assert view is not None
        assert (view.state, view.attempt, view.interruptions, view.errors) == ("running", 1, 0, None)
        assert await desk.store.get_dead(job.id) is None
        assert not (await desk.complete(again)).stale


async def test_a_stale_outcome_takes_no_neighbour_along(open_desk: OpenDesk) -> None:
    """One late worker would undo the outcomes, new jobs and claims of the same turn, or do them twice."""
    async with open_desk() as desk:
        await desk.enqueue(*[new_job()] * 4)
        jobs = await desk.claim(limit=3)
        ids = [job.id for job in jobs]
        await desk.turn(completed={desk.lease: ids[:1]})
        done = await desk.turn(
            lease=9,
            completed={desk.lease: [*ids[:2], ids[1], 999]},
            results=[(ids[2], desk.lease, "2"), (ids[2], desk.lease, "3"), (ids[2], 77, "4")],
            batches=[NewBatch([new_job()], False)],
            claims=[Claim("default", 9)],
            claim_total=9,
        )
        lease = desk.lease
        assert sorted(done.stale) == sorted(
            [(ids[0], lease), (ids[1], lease), (999, lease), (ids[2], lease), (ids[2], 77)]
        )
        assert await desk.states(ids) == ["completed"] * 3
        assert len(done.claimed) == 2
        assert await desk.store.count() | {"completed": 3, "running": 2} == await desk.store.count()


async def test_a_failed_job_waits_for_its_time(open_desk: OpenDesk) -> None:
    """A retry would come at once, or never, or without the errors before it."""
    async with open_desk() as desk:
        job = await desk.running()
        await desk.fail(job, wait_ms=5_000)
        due = desk.now + 5_000 - 1
        assert await desk.store.next_due() == due
        early = await desk.turn(promote=True)
        assert (early.filled, early.next_due) == ([], due)
        desk.now = due
        done = await desk.turn(promote=True)
        assert (done.filled, done.next_due) == (["default"], None)
        (again,) = await desk.claim()
        assert (again.attempt, again.interruptions) == (2, 0)
        await desk.fail(again)
        view = await desk.store.get(job.id)
        assert view is not None
        assert view.errors is not None
        assert [error["attempt"] for error in json.loads(view.errors)] == [1, 2]


async def test_a_postponed_job_is_charged_nothing(open_desk: OpenDesk) -> None:
    """A database that is down for a day would use up the attempts of every job, or fill their rows with errors."""
    async with open_desk() as desk:
        job = await desk.running(max_attempts=1)
        for round_ in range(25):
            done = await desk.postpone(job, wait_ms=5_000)
            assert not done.stale
            view = await desk.store.get(job.id)
            assert view is not None
            assert (view.state, view.attempt, view.interruptions) == ("retryable", 0, 0)
            assert (view.scheduled_at, await desk.store.next_due()) == (desk.now - 1 + 5_000,) * 2
            assert len(json.loads(view.errors or "[]")) == min(round_ + 1, 20)
            desk.now += 5_000
            done = await desk.turn(promote=True)
            assert (done.filled, done.next_due) == (["default"], None)
            (job,) = await desk.claim()
            assert (job.attempt, job.interruptions) == (1, 0)
        assert not (await desk.complete(job)).stale


async def test_scheduled_jobs_become_due_in_any_order(open_desk: OpenDesk) -> None:
    """T05: a job far ahead would hold up nearer ones, or run before its time."""
    async with open_desk() as desk:
        month = 30 * 24 * 3600 * 1000
        waits = (month, 1_000, 2_000)
        placed = await desk.enqueue(*(new_job(scheduled_at=desk.now + wait) for wait in waits))
        assert await desk.claim() == []
        desk.now += 1_500
        done = await desk.turn(promote=True)
        assert done.next_due is not None
        assert [job.id for job in await desk.claim()] == [placed[1].id]
        desk.now += month
        await desk.turn(promote=True)
        assert [job.id for job in await desk.claim()] == [placed[0].id, placed[2].id]


async def test_release_charges_nothing(open_desk: OpenDesk) -> None:
    """T12: twenty deploys would use up the attempts of a job that never began."""
    async with open_desk() as desk:
        job = await desk.running()
        for _ in range(20):
            done = await desk.release(job)
            assert done.filled == ["default"]
            (job,) = await desk.claim()
            assert (job.attempt, job.interruptions) == (1, 0)


async def test_interruptions_are_charged_apart(open_desk: OpenDesk) -> None:
    """A crash would cost an attempt, or a job that kills its worker would run for ever."""
    async with open_desk() as desk:
        job = await desk.running(max_interruptions=3)
        assert (await desk.interrupt(job)).filled == ["default"]
        (job,) = await desk.claim()
        assert (job.attempt, job.interruptions) == (2, 1)
        await desk.fail(job, wait_ms=0)
        await desk.turn(promote=True)
        (job,) = await desk.claim()
        assert (job.attempt, job.interruptions) == (3, 1)


async def test_the_store_holds_the_budgets_too(open_desk: OpenDesk) -> None:
    """A job without budget would go back to its queue, and break every claim of it from then on."""
    async with open_desk() as desk:
        failing = await desk.running(max_attempts=1)
        assert not (await desk.fail(failing)).stale
        crashing = await desk.running(max_interruptions=1)
        assert not (await desk.interrupt(crashing)).stale
        letters = [await desk.store.get_dead(job.id) for job in (failing, crashing)]
        found = [(one.reason, one.attempt, one.interruptions) for one in letters if one]
        assert found == [("attempts", 1, 0), ("interruptions", 1, 1)]
        assert await desk.claim() == []


async def test_parked_jobs_come_back_by_reason(open_desk: OpenDesk) -> None:
    """A dead dependency would use up attempts, or a closed breaker would free the jobs of another."""
    async with open_desk() as desk:
        await desk.enqueue(*[new_job()] * 3, new_job(queue="other"))
        jobs = await desk.claim()
        reasons = ["breaker:pg", "breaker:pg", "kind:gone"]
        await desk.turn(parked=[Parked(job.id, desk.lease, why) for job, why in zip(jobs, reasons, strict=True)])
        assert await desk.claim() == []
        assert await desk.store.unpark(["breaker:neo4j"], 10, desk.now) == (0, [])
        assert await desk.store.unpark(["breaker:pg", "kind:gone"], 1, desk.now) == (1, ["default"])
        assert [job.id for job in await desk.claim()] == [jobs[0].id]
        assert await desk.store.unpark(["kind:gone", "breaker:pg"], 10, desk.now) == (2, ["default"])
        again = await desk.claim()
        assert [(job.id, job.attempt) for job in again] == [(jobs[1].id, 1), (jobs[2].id, 1)]


async def test_a_claimed_job_can_be_taken_back(open_desk: OpenDesk) -> None:
    """A cancel would be refused although the job has not begun, or would be counted as an attempt."""
    async with open_desk() as desk:
        job = await desk.running()
        await desk.turn(cancelled=[Released(job.id, desk.lease)])
        view = await desk.store.get(job.id)
        assert view is not None
        assert (view.state, view.attempt) == ("cancelled", 0)


async def test_a_stopped_job_keeps_its_attempt_and_what_became_of_it(open_desk: OpenDesk) -> None:
    """What a cancelled job had done would be lost; a text that is no JSON, or a stale one, would hurt neighbours."""
    async with open_desk() as desk:
        await desk.enqueue(*[new_job(unique_key=key) for key in ("a", "b", None)])
        jobs = await desk.claim()
        ids, lease = [job.id for job in jobs], desk.lease
        stopped = [Stopped(ids[0], lease, error_json(1)), Stopped(ids[1], lease, "no json"), Stopped(999, lease, "{}")]
        done = await desk.turn(stopped=stopped, completed={lease: [ids[2]]})
        assert done.stale == [(999, lease)]
        views = [await desk.store.get(job_id) for job_id in ids]
        told = [(view.state, view.attempt, view.finalized_at) for view in views if view]
        assert told == [("cancelled", 1, desk.now)] * 2 + [("completed", 1, desk.now)]
        errors = [json.loads(view.errors) for view in views if view and view.errors]
        assert (errors[0][0]["type"], errors[1]) == ("ValueError", ["no json"])
        again = await desk.enqueue(new_job(unique_key="a"))
        assert not again[0].duplicate, "it is over, so its key is free"
        assert [verdict.error for verdict in (await desk.store.retry([ids[1]], desk.now))[0]] == [None]


async def test_unique_keys_hold_until_the_job_is_finished(open_desk: OpenDesk) -> None:
    """Two unfinished jobs would have one key, or a finished one would keep its key for ever."""
    async with open_desk() as desk:
        unique = new_job(unique_key="a.md")
        placed = await desk.enqueue(unique, new_job(), unique, replace(unique, kind="other"))
        first = placed[0].id
        assert [place.duplicate for place in placed] == [False, False, True, False]
        assert placed[2].id == first
        assert await desk.enqueue(unique) == [Enqueued(first, True)]
        (job, *_) = await desk.claim()
        assert await desk.enqueue(unique) == [Enqueued(first, True)]
        done = await desk.turn(completed={desk.lease: [job.id]}, batches=[NewBatch([unique], True)])
        (places,) = done.placed
        assert isinstance(places, list)
        assert not places[0].duplicate
        assert places[0].id != first


async def test_a_unique_key_met_during_a_retry_keeps_the_row(open_desk: OpenDesk) -> None:
    """T09: a job that waits for its retry would be orphaned by a new one with the same key."""
    async with open_desk() as desk:
        job = await desk.running(unique_key="k")
        await desk.fail(job, wait_ms=0)
        assert await desk.enqueue(new_job(unique_key="k")) == [Enqueued(job.id, True)]
        await desk.turn(promote=True)
        (again,) = await desk.claim()
        assert again.id == job.id
        await desk.complete(again)
        (newer,) = await desk.enqueue(new_job(unique_key="k"))
        (verdict,), queues = await desk.store.retry([job.id], desk.now)
        assert verdict.error is not None
        assert (verdict.error.type, queues) == ("Duplicate", [])
        assert await desk.states([job.id, newer.id]) == ["completed", "available"]


async def test_a_bad_batch_is_refused_alone(open_desk: OpenDesk) -> None:
    """T10: one bad row would strand its neighbours, or half of its own batch would go in."""
    async with open_desk() as desk:
        (held,) = await desk.enqueue(new_job(unique_key="k"))
        bad_check = [new_job(), new_job(priority=99)]
        bad_text = [new_job(args='{"x": "\ud800"}')]
        bad_number = [new_job(timeout_ms=2**70)]
        strict = [new_job(), new_job(unique_key="k")]
        good = [new_job(kind="good"), new_job(kind="good")]
        lists = [good, bad_check, strict, bad_text, good, bad_number, [new_job(args="no json")], good]
        done = await desk.turn(batches=[NewBatch(jobs, True) for jobs in lists])
        errors = [type(places) if isinstance(places, Exception) else None for places in done.placed]
        assert errors == [None, Refused, Duplicate, Refused, None, Refused, Refused, None]
        assert f"job {held.id} " in str(done.placed[2])
        good_ids = [place.id for places in done.placed if isinstance(places, list) for place in places]
        assert len(set(good_ids)) == 6
        claimed = {job.id: job.kind for job in await desk.claim()}
        assert claimed == dict.fromkeys(good_ids, "good") | {held.id: "noop"}


async def test_a_big_mixed_batch_keeps_its_order_and_values(open_desk: OpenDesk) -> None:
    """Jobs of many shapes go in by another statement; it would mix up their columns or their order."""
    async with open_desk() as desk:
        jobs = [
            new_job(
                kind=f"k{number % 7}",
                queue=f"q{number % 3}",
                priority=number % 5 - 2,
                args=f'{{"n": {number}, "s": "\\u0000é\\"\\\\"}}',
                max_attempts=number % 4 + 1,
                max_interruptions=number % 2 + 1,
                timeout_ms=number * 1000 or None,
                scheduled_at=desk.now + 10_000 + number if number % 6 == 0 else None,
                unique_key=f"u{number}" if number % 10 == 0 else None,
                tags_json='["a", "b"]' if number % 2 else None,
            )
            for number in range(60)
        ]
        placed = await desk.enqueue(*jobs)
        for place, job in zip(placed, jobs, strict=True):
            view = await desk.store.get(place.id)
            assert view is not None
            kept = (view.kind, view.queue, view.priority, view.args, view.max_attempts, view.max_interruptions)
            assert kept == astuple(job)[:6]
            assert (view.timeout_ms, view.unique_key, view.tags) == (job.timeout_ms, job.unique_key, job.tags_json)
            assert view.state == ("scheduled" if job.scheduled_at else "available")
            assert view.scheduled_at == (job.scheduled_at or desk.now)
        assert [place.id for place in placed] == sorted(place.id for place in placed)


async def test_ids_are_never_used_twice(open_desk: OpenDesk) -> None:
    """The log, the dead letter or the waiting client of an old job would be those of a new one."""
    async with open_desk() as desk:
        job = await desk.running()
        await desk.complete(job)
        assert await desk.store.prune(desk.now + 10, 0, 0, 100) == ([job.id], [])
    async with open_desk() as desk:
        (place,) = await desk.enqueue(new_job())
        assert place.id > job.id


async def test_an_empty_turn_is_no_harm(open_desk: OpenDesk) -> None:
    """The loop would trip over a turn that has nothing in it."""
    async with open_desk() as desk:
        done = await desk.turn(batches=[NewBatch([], True)], completed={3: []})
        assert (done.placed, done.stale) == ([[]], [])
