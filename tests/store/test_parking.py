"""Conformance: parked jobs, one by one and by the thousand."""

from __future__ import annotations

from perdure.store.models import Parked, ParkedJob
from tests.store.conftest import OpenDesk
from tests.store.desk import Desk, new_job

REASON = "breaker:pg"


async def line(desk: Desk, count: int, after: ParkedJob | None = None) -> list[int]:
    """The ids of the next `count` probes; each is parked again, so that the line stays as it is."""
    ids = []
    for _ in range(count):
        found = await desk.store.unpark_next(REASON, after)
        assert found is not None
        ids.append(found.id)
        (job,) = [job for job in await desk.claim(found.queue) if job.id == found.id]
        await desk.turn(parked=[Parked(job.id, desk.lease, REASON)])
        after = found
    return ids


async def test_probes_go_round_the_line(open_desk: OpenDesk) -> None:
    """One job that can never succeed would be the only probe for ever, and the breaker would stay open."""
    async with open_desk() as desk:
        jobs = [new_job(queue=queue, priority=priority) for priority in (3, -3) for queue in ("b", "a")]
        ids = await desk.park(REASON, *jobs, new_job(queue="b", priority=-3))
        expected = [ids[2], ids[3], ids[4], ids[0], ids[1]]
        assert await line(desk, 7) == expected + expected[:2]
        await desk.park("breaker:other", new_job(priority=-20))
        last = ParkedJob(ids[1], 3, "a")
        assert await line(desk, 1, after=last) == expected[:1], "round again"
        gone = ParkedJob(ids[3], -3, "a")
        await desk.store.cancel([gone.id], desk.now)
        assert await line(desk, 1, after=gone) == [ids[4]], "its place is known though it has gone"


async def test_a_probe_is_looked_for_past_paused_queues(open_desk: OpenDesk) -> None:
    """A job of a paused queue would be chosen and never run; a thousand of them would hide all others."""
    async with open_desk() as desk:
        await desk.park(REASON, *[new_job(queue="still", priority=-5)] * 1_500)
        assert await desk.store.unpark_next("breaker:none", None) is None
        await desk.store.pause("still", "ann", desk.now)
        assert await desk.store.unpark_next(REASON, None) is None
        (other,) = await desk.park(REASON, new_job(queue="moving"))
        found = await desk.store.unpark_next(REASON, None)
        assert found == ParkedJob(other, 0, "moving")
        assert await desk.state(other) == "available"
        assert await desk.store.parked_counts("breaker:") == {REASON: 1_500}


async def test_queues_share_what_is_released(open_desk: OpenDesk) -> None:
    """The backlog of one queue would keep that of another waiting until its end."""
    async with open_desk() as desk:
        await desk.park(REASON, *[new_job(queue="long", priority=-9)] * 30, *[new_job(queue="short")] * 3)
        assert await desk.store.unpark([REASON], 4, desk.now) == (4, ["long", "short"])
        assert len(await desk.claim("short")) == 2
        assert await desk.store.unpark([REASON], 11, desk.now) == (11, ["long", "short"])
        assert [len(await desk.claim("short")), len(await desk.claim("long"))] == [1, 12]
        assert await desk.store.unpark([REASON], 100, desk.now) == (18, ["long"])
        assert await desk.store.unpark([REASON], 100, desk.now) == (0, [])


async def test_urgent_jobs_are_released_first(open_desk: OpenDesk) -> None:
    """During a ramp, which can take minutes, urgent jobs would wait behind others."""
    async with open_desk() as desk:
        ids = await desk.park(REASON, *(new_job(priority=priority) for priority in (5, 0, -5, 0)))
        await desk.store.unpark([REASON], 2, desk.now)
        assert [job.id for job in await desk.claim()] == [ids[2], ids[1]]


async def test_reasons_are_known_and_counted(open_desk: OpenDesk) -> None:
    """Jobs that wait for a breaker which has closed, or a name that is gone, would be forgotten."""
    async with open_desk() as desk:
        assert await desk.store.parked_reasons("breaker:") == []
        for reason, count in (("breaker:a", 2), ("breaker:é", 1), ("breakes", 1), ("kind:b", 1), ("breaker:", 1)):
            await desk.park(reason, *[new_job(queue=reason)] * count)
        assert await desk.store.parked_reasons("breaker:") == ["breaker:", "breaker:a", "breaker:é"]
        assert await desk.store.parked_counts("breaker:") == {"breaker:": 1, "breaker:a": 2, "breaker:é": 1}
        assert await desk.store.parked_reasons("breaker:b") == []
        assert await desk.store.parked_reasons("") == ["breaker:", "breaker:a", "breaker:é", "breakes", "kind:b"]
        await desk.store.unpark(["breaker:a"], 2, desk.now)
        assert await desk.store.parked_reasons("breaker:a") == []


async def test_jobs_ahead_are_counted_up_to_a_limit(open_desk: OpenDesk) -> None:
    """`perdure explain` would say "behind 3" of a job that is next, or count a million."""
    async with open_desk() as desk:
        placed = await desk.enqueue(*(new_job(priority=priority) for priority in (0, 0, -5, 5, 0)), new_job(queue="b"))
        ahead = [await desk.store.ahead(place.id, 100) for place in placed]
        assert ahead == [1, 2, 0, 4, 3, 0]
        assert await desk.store.ahead(placed[3].id, 2) == 2
        await desk.claim(limit=1)
        assert [await desk.store.ahead(place.id, 100) for place in placed[:3]] == [0, 1, 0]
        assert await desk.store.ahead(999, 100) == 0
