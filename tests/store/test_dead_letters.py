"""Conformance: dying, replay, discard, and the lists of the dead."""

from __future__ import annotations

import json

import pytest

from perdure.errors import InvalidArguments
from perdure.store.models import Buried
from perdure.wire.data import DeadFilter
from tests.store.conftest import OpenDesk
from tests.store.desk import error_json, new_job


async def test_a_dead_letter_keeps_the_whole_story(open_desk: OpenDesk) -> None:
    """What a person needs to decide would be gone, or the job would still be in the queue."""
    async with open_desk() as desk:
        job = await desk.running(args='{"x": 1}', unique_key="k", tags_json='["t"]', priority=3, timeout_ms=5)
        await desk.fail(job, wait_ms=0)
        await desk.turn(promote=True)
        (job,) = await desk.claim()
        await desk.bury(job)
        assert await desk.state(job.id) is None
        letter = await desk.store.get_dead(job.id)
        assert letter is not None
        assert (letter.args, letter.last_args, letter.attempt, letter.deaths) == ('{"x": 1}', '{"x": 1}', 2, 1)
        assert (letter.unique_key, letter.tags, letter.priority, letter.timeout_ms) == ("k", '["t"]', 3, 5)
        assert (letter.reason, letter.died_at, letter.resolution) == ("permanent", desk.now, None)
        assert [error["attempt"] for error in json.loads(letter.errors)] == [1, 2]


async def test_a_grave_is_dug_once(open_desk: OpenDesk) -> None:
    """A job named twice in a turn would count two deaths."""
    async with open_desk() as desk:
        job = await desk.running()
        grave = Buried(job.id, desk.lease, "attempts", error_json(1), "fp", False)
        done = await desk.turn(buried=[grave, grave._replace(reason="permanent")])
        assert done.stale == [(job.id, desk.lease)]
        letter = await desk.store.get_dead(job.id)
        assert letter is not None
        assert (letter.deaths, letter.reason) == (1, "attempts")


async def test_replay_edits_a_copy_of_the_arguments(open_desk: OpenDesk) -> None:
    """The original arguments would be overwritten, or what was not edited would change."""
    async with open_desk() as desk:
        first = '{"path": "/a", "big": 123456789012345678901234567890, "deep": {"a": 1, "b": 2}}'
        job_id = await desk.dead(args=first)
        await desk.store.replay([job_id], '{"deep": {"a": 3}, "lang": null}', "ann", desk.now)
        (job,) = await desk.claim()
        second = json.loads(first) | {"deep": {"a": 3}, "lang": None}
        assert (job.id, job.attempt, job.interruptions, json.loads(job.args)) == (job_id, 1, 0, second)
        await desk.bury(job)
        letter = await desk.store.get_dead(job_id)
        assert letter is not None
        assert (letter.args, json.loads(letter.last_args), letter.deaths) == (first, second, 2)
        assert letter.resolution is None
        (entry,) = json.loads(letter.history)
        assert entry == {
            "at": desk.now - 2,
            "who": "ann",
            "action": "replay",
            "set_args": {"deep": {"a": 3}, "lang": None},
        }
        assert len(json.loads(letter.errors)) == 2, "the errors of both lives"


@pytest.mark.parametrize("set_args", ["[1]", "{", '"x"', ""])
async def test_replay_takes_only_an_object(open_desk: OpenDesk, set_args: str) -> None:
    """A mistyped edit would replace all arguments, or end in an error about SQL."""
    async with open_desk() as desk:
        job_id = await desk.dead()
        with pytest.raises(InvalidArguments, match="JSON object"):
            await desk.store.replay([job_id], set_args, "ann", desk.now)
        letter = await desk.store.get_dead(job_id)
        assert letter is not None
        assert letter.resolution is None


async def test_the_cap_survives_replay(open_desk: OpenDesk) -> None:
    """T13: each replay of a job that kills its worker would kill a worker as often as the first life did."""
    async with open_desk() as desk:
        job = await desk.running(max_interruptions=2, max_attempts=3)
        await desk.interrupt(job)
        (job,) = await desk.claim()
        await desk.bury(job, "interruptions", interrupted=True)
        for _ in range(2):
            letter = await desk.store.get_dead(job.id)
            assert letter is not None
            assert letter.interruptions == 2
            await desk.store.replay([job.id], None, "ann", desk.now)
            (job,) = await desk.claim()
            assert (job.attempt, job.interruptions) == (2, 1)
            await desk.interrupt(job)
            assert await desk.claim() == []


async def test_replay_tells_why_not(open_desk: OpenDesk) -> None:
    """A replay of many would fail as a whole for one, or double a job whose key is taken."""
    async with open_desk() as desk:
        keyed, plain, gone = await desk.dead(unique_key="k"), await desk.dead(), await desk.dead()
        await desk.enqueue(new_job(unique_key="k", queue="elsewhere"))
        await desk.store.discard([gone], "ann", desk.now)
        verdicts, queues = await desk.store.replay([keyed, plain, gone, 999], None, "ann", desk.now)
        errors = [(one.id, one.error.type if one.error else None) for one in verdicts]
        assert errors == [(keyed, "Duplicate"), (plain, None), (gone, "WrongState"), (999, "NotFound")]
        assert queues == ["default"]
        letter = await desk.store.get_dead(keyed)
        assert letter is not None
        assert letter.resolution is None


async def test_discard_settles_a_letter_once(open_desk: OpenDesk) -> None:
    """A decision would be lost, or overwritten by a second one."""
    async with open_desk() as desk:
        job_id = await desk.dead()
        (first,) = await desk.store.discard([job_id], "ann", desk.now)
        (second, unknown) = await desk.store.discard([job_id, 999], "bob", desk.now + 1)
        assert first.error is None
        assert second.error is not None
        assert unknown.error is not None
        assert (second.error.type, unknown.error.type) == ("WrongState", "NotFound")
        letter = await desk.store.get_dead(job_id)
        assert letter is not None
        assert (letter.resolution, letter.resolved_at) == ("discarded", desk.now)
        assert [entry["who"] for entry in json.loads(letter.history)] == ["ann"]
        assert (await desk.store.count())["dead"] == 0


async def test_the_list_of_the_dead_is_paged(open_desk: OpenDesk) -> None:
    """A letter would be shown on two pages, or on none."""
    async with open_desk() as desk:
        await desk.enqueue(*(new_job(kind=f"k{number % 2}") for number in range(12)))
        jobs = await desk.claim()
        for group in (jobs[:7], jobs[7:]):
            graves = [Buried(job.id, desk.lease, "permanent", "{}", f"fp{job.id % 3}", False) for job in group]
            await desk.turn(buried=graves)
        ids = [job.id for job in jobs]
        await desk.store.discard(ids[:2], "ann", desk.now)
        shown: list[int] = []
        after = None
        while page := await desk.store.list_dead(DeadFilter(after=after, limit=4)):
            shown += (letter.id for letter in page)
            after = page[-1].id
        assert shown == ids[:1:-1]
        everything = await desk.store.list_dead(DeadFilter(include_resolved=True, limit=100))
        assert [letter.id for letter in everything] == ids[::-1]
        alike = await desk.store.list_dead(DeadFilter(fingerprint="fp1", limit=100))
        assert [letter.id for letter in alike] == [job_id for job_id in ids[:1:-1] if job_id % 3 == 1]
        kind = await desk.store.list_dead(DeadFilter(kind="k1", queue="default", limit=100))
        assert {letter.kind for letter in kind} == {"k1"}
        assert await desk.store.list_dead(DeadFilter(after=10**9)) == []


async def test_many_are_replayed_and_discarded_at_once(open_desk: OpenDesk) -> None:
    """T42: a bad deploy that killed thousands could not be undone in one go."""
    async with open_desk() as desk:
        number = 3_000
        await desk.enqueue(*[new_job()] * number)
        jobs = await desk.claim(limit=number)
        await desk.turn(buried=[Buried(job.id, desk.lease, "permanent", "{}", "fp", False) for job in jobs])
        ids = [job.id for job in jobs]
        verdicts, queues = await desk.store.replay(ids, '{"x": 1}', "ann", desk.now)
        assert [one.id for one in verdicts] == ids
        assert not any(one.error for one in verdicts)
        assert queues == ["default"]
        assert (await desk.store.count())["available"] == number
        assert not any(one.error for one in await desk.store.cancel(ids, desk.now))
        assert not any(one.error for one in (await desk.store.retry(ids, desk.now))[0])
