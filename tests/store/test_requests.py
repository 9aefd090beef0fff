"""Conformance: cancel, retry, lists, counts, retention, and what the daemon leaves on record."""

from __future__ import annotations

from perdure.store.contract import Store
from perdure.store.models import Parked
from perdure.wire.data import JobFilter, KindSpec, Param, QueueView, Verdict
from tests.store.conftest import OpenDesk
from tests.store.desk import Desk, new_job


def error_types(verdicts: list[Verdict]) -> list[str | None]:
    """What became of each."""
    return [verdict.error.type if verdict.error else None for verdict in verdicts]


async def one_in_each_state(desk: Desk) -> dict[str, int]:
    """State -> the id of a job in it, and 'dead'."""
    ids: dict[str, int] = {}
    for state in ("completed", "cancelled", "retryable", "parked", "running", "dead"):
        job = await desk.running(kind=state, queue=state)
        ids[state] = job.id
        if state == "completed":
            await desk.complete(job)
        elif state == "cancelled":
            await desk.release(job)
            await desk.store.cancel([job.id], desk.now)
        elif state == "retryable":
            await desk.fail(job, wait_ms=10_000)
        elif state == "parked":
            await desk.turn(parked=[Parked(job.id, desk.lease, "kind:x")])
        elif state == "dead":
            await desk.bury(job)
    later = new_job(kind="scheduled", queue="scheduled", scheduled_at=desk.now + 20_000, tags_json='["red", "big"]')
    (scheduled, available) = await desk.enqueue(later, new_job(kind="available", queue="available"))
    return ids | {"scheduled": scheduled.id, "available": available.id}


async def test_cancel_takes_what_does_not_run(open_desk: OpenDesk) -> None:
    """A job would run after its cancel was confirmed, or a finished one would change."""
    async with open_desk() as desk:
        ids = await one_in_each_state(desk)
        order = ["scheduled", "available", "retryable", "parked", "running", "completed", "cancelled", "dead"]
        verdicts = await desk.store.cancel([*(ids[state] for state in order), 999], desk.now)
        assert error_types(verdicts) == [None] * 4 + ["WrongState"] * 4 + ["NotFound"]
        assert await desk.states([ids[state] for state in order[:5]]) == ["cancelled"] * 4 + ["running"]
        assert await desk.claim("available") == []


async def test_cancel_takes_what_a_killed_daemon_has_left_running(open_desk: OpenDesk) -> None:
    """A job that must not run again could not be cancelled before the daemon is started, and runs it."""
    async with open_desk() as desk:
        ids = await one_in_each_state(desk)
        verdicts = await desk.store.cancel([ids["running"], ids["completed"]], desk.now, abandoned=True)
        assert error_types(verdicts) == [None, "WrongState"]
        assert await desk.states([ids["running"]]) == ["cancelled"]
        await desk.store.recover(None, desk.now)
        assert await desk.states([ids["running"]]) == ["cancelled"]


async def test_retry_gives_a_fresh_budget(open_desk: OpenDesk) -> None:
    """A retry by hand would end at once for want of attempts, or take a job out of a running worker."""
    async with open_desk() as desk:
        ids = await one_in_each_state(desk)
        order = ["scheduled", "retryable", "completed", "cancelled", "available", "parked", "running", "dead"]
        verdicts, queues = await desk.store.retry([*(ids[state] for state in order), 999], desk.now)
        assert error_types(verdicts) == [None] * 4 + ["WrongState"] * 4 + ["NotFound"]
        assert queues == sorted(order[:4])
        for state in order[:4]:
            (job,) = await desk.claim(state)
            assert (job.id, job.attempt) == (ids[state], 1)


async def test_jobs_are_listed_newest_first(open_desk: OpenDesk) -> None:
    """A filter would leave out what fits it, or a page would repeat a job."""
    async with open_desk() as desk:
        ids = await one_in_each_state(desk)
        del ids["dead"]
        assert await listed(desk.store) == sorted(ids.values(), reverse=True)
        for state, job_id in ids.items():
            assert await listed(desk.store, states=[state]) == [job_id]
            assert await listed(desk.store, queue=state) == [job_id]
            assert await listed(desk.store, kind=state, states=[state, "parked"]) == [job_id]
        pair = sorted((ids["scheduled"], ids["running"]), reverse=True)
        assert await listed(desk.store, states=["scheduled", "running"]) == pair
        assert await listed(desk.store, states=["scheduled", "running"], limit=1) == pair[:1]
        assert await listed(desk.store, states=["scheduled", "running"], before=pair[0]) == pair[1:]
        assert await listed(desk.store, states=["running", "completed"], before=ids["running"]) == [ids["completed"]]
        assert await listed(desk.store, tag="red") == [ids["scheduled"]]
        assert await listed(desk.store, tag="re") == []


async def listed(store: Store, **fields: object) -> list[int]:
    """The ids of a page."""
    return [job.id for job in await store.list(JobFilter(**fields))]  # type: ignore[arg-type]  # the tests' own words


async def test_counts_agree_with_the_jobs(open_desk: OpenDesk) -> None:
    """`perdure status` would tell a story of its own."""
    async with open_desk() as desk:
        ids = await one_in_each_state(desk)
        assert await desk.store.count() == dict.fromkeys(ids, 1)
        await desk.store.pause("empty", "ann", desk.now)
        views = {view.name: view for view in await desk.store.queues()}
        expected = {state: QueueView(state, {state: 1}) for state in ids if state != "dead"}
        assert views == expected | {"empty": QueueView("empty", {}, desk.now, "ann")}


async def test_queues_with_work_are_known(open_desk: OpenDesk) -> None:
    """After a start, a queue would be left waiting until something new comes into it."""
    async with open_desk() as desk:
        assert await desk.store.available_queues() == []
        await desk.enqueue(*(new_job(queue=f"q{number % 4}") for number in range(20)))
        await desk.claim("q2")
        assert await desk.store.available_queues() == ["q0", "q1", "q3"]


async def test_pauses_are_kept(open_desk: OpenDesk) -> None:
    """A restart would run a queue that somebody has stopped; a second pause would hide who was first."""
    async with open_desk() as desk:
        await desk.store.pause("a", "ann", desk.now)
        await desk.store.pause("b", "ann", desk.now)
        await desk.store.pause("a", "bob", desk.now + 5)
        await desk.store.resume("b")
    async with open_desk() as desk:
        assert await desk.store.paused_queues() == ["a"]
        (view,) = await desk.store.queues()
        assert (view.paused_at, view.paused_by) == (desk.now, "ann")


async def test_kinds_are_replaced(open_desk: OpenDesk) -> None:
    """Arguments would be checked against a handler that is gone."""
    async with open_desk() as desk:
        old = KindSpec("old", "sync", [Param("x", "int", True)])
        new = KindSpec("new", "async", [], accepts_extra=True, needs=["pg"], timeout_ms=5, doc='say "é"')
        await desk.store.save_kinds([old], desk.now)
        assert await desk.store.kinds() == [old]
        await desk.store.save_kinds([new, old], desk.now)
        assert await desk.store.kinds() == [new, old]
        await desk.store.save_kinds([], desk.now)
        assert await desk.store.kinds() == []


async def test_prune_takes_the_oldest_in_small_batches(open_desk: OpenDesk) -> None:
    """The file would grow for ever, or a job would go that is still needed."""
    async with open_desk() as desk:
        await desk.enqueue(*[new_job()] * 10)
        jobs = await desk.claim()
        for job in jobs[:8]:
            await desk.complete(job)
        ids = [job.id for job in jobs]
        hour = 3_600_000
        assert await desk.store.prune(desk.now, hour, 100, 50) == ([], [])
        assert sorted((await desk.store.prune(desk.now, hour, 6, 50)).ids) == ids[:2]
        assert sorted((await desk.store.prune(desk.now, hour, 2, 3)).ids) == ids[2:5]
        assert sorted((await desk.store.prune(desk.now + 2 * hour, hour, 100, 2)).ids) == ids[5:7]
        assert (await desk.store.prune(desk.now + 2 * hour, hour, 100, 2)).ids == ids[7:8]
        assert await desk.states(ids[8:]) == ["running"] * 2


async def test_prune_keeps_letters_that_are_still_needed(open_desk: OpenDesk) -> None:
    """An undecided letter would vanish, or the first arguments of a job that lives again."""
    async with open_desk() as desk:
        undecided, discarded = await desk.dead(), await desk.dead()
        replayed = await desk.dead(queue="q", args='{"v": 1}')
        await desk.store.discard([discarded], "ann", desk.now)
        await desk.store.replay([replayed], '{"v": 2}', "ann", desk.now)
        far = desk.now + 10**9
        assert await desk.store.prune(far, 1000, 100, 10) == ([discarded], [])
        (job,) = await desk.claim("q")
        await desk.bury(job)
        letter = await desk.store.get_dead(replayed)
        assert letter is not None
        assert (letter.args, letter.deaths) == ('{"v": 1}', 2)
        assert await desk.store.get_dead(undecided) is not None
