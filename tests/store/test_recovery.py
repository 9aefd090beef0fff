"""Conformance: starts of the daemon, and what is put back after one that ended badly."""

from __future__ import annotations

import json

from perdure.store.models import Recovered, RunInfo
from tests.store.conftest import OpenDesk
from tests.store.desk import new_job


async def test_runs_tell_how_the_last_one_ended(open_desk: OpenDesk) -> None:
    """T07: a crash would be taken for a clean stop, or a new boot for the old one with its pids."""
    async with open_desk() as desk:
        first = await desk.store.begin_run(10, "boot-a", 1)
        assert first == RunInfo(first.id, True, False)
        await desk.store.end_run(first.id, 2)
    async with open_desk() as desk:
        second = await desk.store.begin_run(10, "boot-a", 3)
        assert second == RunInfo(second.id, True, True)
    async with open_desk() as desk:
        third = await desk.store.begin_run(10, "boot-b", 4)
        assert third == RunInfo(third.id, False, False)
        assert first.id < second.id < third.id


async def test_only_what_was_executing_is_charged(open_desk: OpenDesk) -> None:
    """A deploy that went wrong would charge jobs that had not begun, or let a poison pill go free."""
    async with open_desk() as desk:
        await desk.enqueue(*[new_job()] * 4, new_job(max_interruptions=1, args='{"poison": true}'))
        jobs = await desk.claim()
        ids = [job.id for job in jobs]
        executing = [(ids[0], 1), (ids[4], 1), (ids[1], 7), (999, 1)]
        assert await desk.store.recover(executing, desk.now) == Recovered(interrupted=1, released=3, buried=1)
        assert await desk.store.recover(executing, desk.now) == Recovered(0, 0, 0)
        again = await desk.claim()
        assert [(job.id, job.attempt, job.interruptions) for job in again] == [
            (ids[0], 2, 1),
            (ids[1], 1, 0),
            (ids[2], 1, 0),
            (ids[3], 1, 0),
        ]
        view = await desk.store.get(ids[0])
        assert view is not None
        assert view.errors is not None
        (error,) = json.loads(view.errors)
        assert (error["type"], error["attempt"], error["at"]) == ("JobInterrupted", 1, desk.now - 1)
        letter = await desk.store.get_dead(ids[4])
        assert letter is not None
        assert (letter.reason, letter.interruptions, letter.attempt) == ("interruptions", 1, 1)
        assert len(json.loads(letter.errors)) == 1


async def test_what_was_being_cancelled_is_cancelled(open_desk: OpenDesk) -> None:
    """A job that somebody has cancelled would run again because the daemon was killed meanwhile, or be charged."""
    async with open_desk() as desk:
        await desk.enqueue(*[new_job(max_interruptions=1)] * 3)
        ids = [job.id for job in await desk.claim()]
        executing, unwanted = [(ids[0], 1), (ids[1], 1)], [(ids[0], 1), (ids[2], 7)]
        assert await desk.store.recover(executing, desk.now, unwanted) == Recovered(0, 1, 1, 1)
        view = await desk.store.get(ids[0])
        assert view is not None
        assert (view.state, view.attempt, view.finalized_at) == ("cancelled", 1, desk.now)
        (error,) = json.loads(view.errors or "")
        assert (error["type"], error["attempt"]) == ("JobCancelled", 1)


async def test_all_are_charged_when_nothing_is_known(open_desk: OpenDesk) -> None:
    """After a power cut, a job that takes the machine down would do so for ever."""
    async with open_desk() as desk:
        await desk.enqueue(*[new_job(max_interruptions=2)] * 3)
        await desk.claim()
        assert await desk.store.recover(None, desk.now) == Recovered(3, 0, 0)
        await desk.claim()
        assert await desk.store.recover(None, desk.now) == Recovered(0, 0, 3)
        assert (await desk.store.count())["dead"] == 3


async def test_a_replayed_job_dies_again_in_recovery(open_desk: OpenDesk) -> None:
    """The second death would overwrite the first arguments, or fail and block every start."""
    async with open_desk() as desk:
        job_id = await desk.dead(args='{"v": 1}', max_interruptions=1)
        await desk.store.replay([job_id], '{"v": 2}', "ann", desk.now)
        await desk.claim()
        assert await desk.store.recover(None, desk.now) == Recovered(0, 0, 1)
        letter = await desk.store.get_dead(job_id)
        assert letter is not None
        assert (letter.deaths, letter.args, letter.last_args) == (2, '{"v": 1}', '{"v":2}')
        assert letter.resolution is None
