"""Conformance: how full queues are counted, and what goes when they shed."""

from __future__ import annotations

import asyncio
import json

from perdure.store.models import Claim, Depth, NewBatch, Retried, Shed
from perdure.wire.data import DeadFilter, DeadView, Enqueued
from tests.store.conftest import OpenDesk
from tests.store.desk import Desk, error_json, new_job


def shed(surplus: int, queue: str = "default") -> list[Shed]:
    """What a turn is told."""
    return [Shed(queue, surplus, error_json(0, "its queue was full"))]


async def letters(desk: Desk) -> dict[int, DeadView]:
    """All dead letters by id."""
    return {letter.id: letter for letter in await desk.store.list_dead(DeadFilter(include_resolved=True, limit=100))}


# --- depth


async def test_depth_counts_what_waits_and_nothing_else(open_desk: OpenDesk) -> None:
    """A queue would be full of jobs that run or have ended, or have room although a thousand are parked in it."""
    async with open_desk() as desk:
        await desk.park("kind:x", new_job(), new_job())
        await desk.park("breaker:pg", new_job())
        failed = await desk.running()
        await desk.turn(retried=[Retried(failed.id, desk.lease, desk.now + 99, error_json(1))])
        await desk.running()
        await desk.dead()
        (done,) = await desk.enqueue(new_job())
        await desk.store.cancel([done.id], desk.now)
        await desk.enqueue(new_job(scheduled_at=desk.now + 9_999), new_job(), new_job(queue="other"))
        oldest = desk.now
        assert await desk.store.depths({"default": 100, "other": 100, "none": 100}) == {
            "default": Depth(6, oldest),
            "other": Depth(1, oldest),
            "none": Depth(0, None),
        }
        assert (await desk.store.depths({"default": 4}))["default"].waiting == 4, "no further than asked for"


async def test_the_oldest_is_found_whatever_its_priority(open_desk: OpenDesk) -> None:
    """The least urgent jobs would wait for days, and the queue's age would be that of the newest urgent one."""
    async with open_desk() as desk:
        await desk.enqueue(new_job(priority=5))
        oldest = desk.now
        await desk.enqueue(*[new_job(priority=-5)] * 40, new_job())
        assert (await desk.store.depths({"default": 9}))["default"].oldest_at == oldest
        due = desk.now + 50
        await desk.enqueue(new_job(queue="later", scheduled_at=due))
        assert (await desk.store.depths({"later": 9}))["later"] == Depth(1, None)
        desk.now += 500
        await desk.turn(promote=True)
        assert (await desk.store.depths({"later": 9}))["later"] == Depth(1, due), "it could have run since then"


async def test_depth_stands_between_two_turns(open_desk: OpenDesk) -> None:
    """The daemon could not tell whether a count has the jobs of the turn beside it, and would count them twice."""
    async with open_desk() as desk:
        turn = desk.turn(batches=[NewBatch([new_job()] * 3, False)])
        before = asyncio.ensure_future(turn)
        await asyncio.sleep(0)
        between = asyncio.ensure_future(desk.store.depths({"default": 99}))
        await asyncio.sleep(0)
        after = asyncio.ensure_future(desk.enqueue(new_job()))
        done: list[str] = []
        before.add_done_callback(lambda _: done.append("before"))
        between.add_done_callback(lambda _: done.append("between"))
        after.add_done_callback(lambda _: done.append("after"))
        await asyncio.gather(before, between, after)
        assert between.result()["default"].waiting == 3
        assert done == ["before", "between", "after"]


async def test_which_unique_keys_are_held(open_desk: OpenDesk) -> None:
    """A duplicate would be refused by a full queue in which it needs no room."""
    async with open_desk() as desk:
        (held, ended) = await desk.enqueue(new_job(unique_key="a"), new_job(unique_key="b"))
        await desk.store.cancel([ended.id], desk.now)
        keys = [("noop", "a"), ("noop", "b"), ("other", "a"), ("noop", "c")]
        assert await desk.store.keys_held(keys) == {("noop", "a")}
        assert await desk.store.keys_held([]) == set()
        assert held.id


# --- shedding


async def test_the_least_urgent_go_and_of_these_the_newest(open_desk: OpenDesk) -> None:
    """An urgent job would be thrown away for one that can wait."""
    async with open_desk() as desk:
        old = await desk.enqueue(new_job(priority=0), new_job(priority=9), new_job(priority=9), new_job(priority=-9))
        batches = [NewBatch([new_job(priority=-1), new_job(priority=4)], False)]
        done = await desk.turn(batches=batches, shed=shed(3))
        (places,) = done.placed
        assert isinstance(places, list)
        assert done.shed == [(old[2].id, "default"), (old[1].id, "default"), (places[1].id, "default")]
        assert [place.shed for place in places] == [False, True]
        assert [job.id for job in await desk.claim()] == [old[3].id, places[0].id, old[0].id]


async def test_what_was_shed_is_a_dead_letter_with_its_reason(open_desk: OpenDesk) -> None:
    """A job would vanish in silence; or it could not be given another life, or would lose its first arguments."""
    async with open_desk() as desk:
        (place,) = await desk.enqueue(new_job(args='{"n": 1}', unique_key="k", tags_json='["t"]'))
        await desk.turn(shed=shed(1))
        letter = (await letters(desk))[place.id]
        assert (letter.reason, letter.attempt, letter.deaths, letter.args) == ("shed", 0, 1, '{"n": 1}')
        assert (letter.unique_key, letter.tags, letter.died_at) == ("k", '["t"]', desk.now)
        assert [entry["message"] for entry in json.loads(letter.errors)] == ["its queue was full"]
        assert await desk.state(place.id) is None
        assert (await desk.enqueue(new_job(unique_key="k")))[0].duplicate is False, "its key is free"
        await desk.turn(shed=shed(9))
        verdicts, _ = await desk.store.replay([place.id], '{"n": 2}', "ann", desk.now)
        assert verdicts[0].error is None
        await desk.turn(shed=shed(1))
        again = (await letters(desk))[place.id]
        assert (again.deaths, again.args, json.loads(again.last_args)) == (2, '{"n": 1}', {"n": 2})
        assert (again.resolution, len(json.loads(again.errors)), len(json.loads(again.history))) == (None, 2, 1)


async def test_letters_of_one_queue_are_alike(open_desk: OpenDesk) -> None:
    """A thousand shed jobs would be a thousand different failures in `perdure dead list`."""
    async with open_desk() as desk:
        await desk.enqueue(*[new_job()] * 3, new_job(queue="other"))
        await desk.turn(shed=[Shed("default", 1, error_json(0, "one")), *shed(1, "other")])
        await desk.turn(shed=[Shed("default", 1, error_json(0, "two"))])
        found = [(letter.queue, letter.fingerprint) for letter in (await letters(desk)).values()]
        assert len(found) == 3
        assert len(set(found)) == 2


async def test_only_available_jobs_of_that_queue_are_shed(open_desk: OpenDesk) -> None:
    """A running job would lose its row under its worker; a job that is to run tomorrow would go for one of today."""
    async with open_desk() as desk:
        running = await desk.running(priority=19)
        await desk.park("kind:x", new_job(priority=19))
        await desk.enqueue(new_job(priority=19, scheduled_at=desk.now + 999), new_job(queue="other", priority=19))
        (mine,) = await desk.enqueue(new_job())
        done = await desk.turn(shed=shed(10))
        assert done.shed == [(mine.id, "default")]
        assert await desk.state(running.id) == "running"


async def test_nothing_is_shed_for_jobs_that_do_not_go_in(open_desk: OpenDesk) -> None:
    """A batch that is refused would still throw the jobs of others away."""
    async with open_desk() as desk:
        old = await desk.enqueue(new_job(priority=9), new_job(priority=9))
        bad = NewBatch([new_job(), new_job(priority=50)], False)
        done = await desk.turn(batches=[bad, NewBatch([new_job()], False)], shed=shed(3))
        assert isinstance(done.placed[0], Exception)
        assert done.shed == [(old[1].id, "default")], "one for the one that went in"


async def test_nothing_is_shed_for_duplicates(open_desk: OpenDesk) -> None:
    """Ten producers that enqueue one unique job at once would throw ten others away for it."""
    async with open_desk() as desk:
        old = await desk.enqueue(*[new_job(priority=9)] * 4, new_job(unique_key="there"))
        batches = [NewBatch([new_job(unique_key="k")], False) for _ in range(3)]
        done = await desk.turn(batches=batches, shed=shed(3))
        assert done.shed == [(old[3].id, "default")]
        # Of the two that are known to be duplicates, one has become none by now.
        batches = [NewBatch([new_job(unique_key=key) for key in ("there", "gone", "new")], False)]
        done = await desk.turn(batches=batches, shed=[shed(1)[0]._replace(known=2)])
        assert done.shed == [(old[2].id, "default"), (old[1].id, "default")]


async def test_what_is_shed_is_not_claimed_in_the_same_turn(open_desk: OpenDesk) -> None:
    """A worker would run a job that is in the dead letters."""
    async with open_desk() as desk:
        turn = {"lease": 7, "claims": [Claim("default", 9)], "claim_total": 9}
        done = await desk.turn(batches=[NewBatch([new_job(), new_job()], False)], shed=shed(1), **turn)
        assert done.placed == [[Enqueued(1, False), Enqueued(2, False, True)]]
        assert [job.id for job in done.claimed] == [1]


async def test_a_turn_that_fails_sheds_nothing(open_desk: OpenDesk) -> None:
    """On a full disk the jobs would be gone and the new ones not in."""
    async with open_desk() as desk:
        (place,) = await desk.enqueue(new_job())
        done = await desk.turn(completed={99: [place.id]}, shed=shed(1))
        assert done.stale == [(place.id, 99)]
        assert done.shed == [(place.id, "default")], "once, although the turn was carried out twice"
        assert len(await letters(desk)) == 1
