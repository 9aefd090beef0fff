"""The pure core of back-pressure: who goes in, who waits, who is refused, what is shed."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from perdure.config.queues import QueueLimits, QueueSettings
from perdure.daemon.pressure import Need, Pressure, show_limits, unique_keys
from perdure.errors import QueueFull
from perdure.store.models import (
    Claim,
    ClaimedJob,
    Committed,
    Depth,
    NewBatch,
    NewJob,
    Released,
    Retried,
    Turn,
)
from perdure.wire.data import Enqueued, QueueView

NOW = 1_000_000
BLOCKING: dict[str, dict[str, object]] = {
    "b": {"max_depth": 4, "when_full": "block"},
    "c": {"max_depth": 4, "when_full": "block"},
    "r": {"max_depth": 4},
    "s": {"max_depth": 4, "when_full": "shed"},
    "old": {"max_age_ms": 5_000},
}


def job(queue: str = "b", **fields: Any) -> NewJob:
    """A new job."""
    return replace(NewJob("k", queue, 0, "{}", 3, 2, None, None, None, None), **fields)


def batch(*jobs: NewJob) -> NewBatch:
    """The jobs of one request."""
    return NewBatch(list(jobs), False)


def made(**depths: int) -> Pressure:
    """A core whose queues have been counted."""
    core = Pressure(QueueLimits(QueueSettings(), BLOCKING))
    core.counted({name: Depth(depths.get(name, 0), None) for name in BLOCKING})
    return core


def offer(core: Pressure, *jobs: NewJob) -> dict[str, int] | None:
    """Ask for room."""
    one = batch(*jobs)
    return core.admit(one, core.needs(one, NOW), NOW)


def commit(core: Pressure, *batches: NewBatch, **fields: Any) -> None:
    """A turn with these batches is on disk."""
    placed: list[list[Enqueued] | Exception] = [[Enqueued(1, False) for _ in one.jobs] for one in batches]
    claimed = fields.pop("claimed", [])
    core.committed(Turn(NOW, batches=list(batches), **fields), Committed(placed=placed, claimed=claimed))


def claimed(job_id: int, queue: str = "b") -> ClaimedJob:
    """A row that a turn has claimed."""
    return ClaimedJob(job_id, "k", "{}", 1, queue, 3, None, 0, 2, 0)


def never(_: object) -> bool:
    """Nobody has gone."""
    return False


def test_queues_without_limits_need_nothing() -> None:
    """Every producer would pay for the limit of one queue."""
    core = made()
    assert core.needs(batch(job("free"), job("free")), NOW) == {}
    assert offer(core, job("free")) == {}
    assert "free" not in core.gauges


def test_a_queue_takes_as_many_as_its_limit_and_not_one_more() -> None:
    """A paused queue with max_depth = 4 would take five, or only three."""
    core = made(r=3)
    assert offer(core, job("r")) == {}
    with pytest.raises(QueueFull, match=r"queue r is full: 4 jobs wait in it, its limit is 4 \(max_depth\)\. Nothing"):
        offer(core, job("r"))


def test_a_batch_is_refused_whole() -> None:
    """Half a batch would be in, and the producer would send it again."""
    core = made(r=2)
    with pytest.raises(QueueFull, match=r"2 jobs wait in it, its limit is 4 \(max_depth\), and 3 came at once"):
        offer(core, job("r"), job("r"), job("r"))
    assert core.gauges["r"].coming == 0
    with pytest.raises(QueueFull):
        offer(core, job("b"), *[job("r")] * 3)
    assert core.gauges["b"].coming == 0, "nor does it take room elsewhere"


def test_what_comes_back_takes_room_again() -> None:
    """Jobs that were claimed and given back would leave a queue over its limit until the next count."""
    core = made(r=4)
    commit(core, claims=[Claim("r", 3)], claimed=[claimed(1, "r"), claimed(2, "r"), claimed(3, "r")])
    assert core.gauges["r"].waiting == 1
    commit(core, released=[Released(1, 7)], retried=[Retried(2, 7, NOW, "{}")], completed={7: [3]})
    assert core.gauges["r"].waiting == 3
    commit(core, released=[Released(1, 7)], completed={7: [9]})
    assert core.gauges["r"].waiting == 3, "only what was claimed can come back, and once"


def test_jobs_on_their_way_count() -> None:
    """Everybody who asks before the next commit would be let in."""
    core = made(r=2)
    first, second = batch(job("r")), batch(job("r"))
    for one in (first, second):
        assert core.admit(one, core.needs(one, NOW), NOW) == {}
    with pytest.raises(QueueFull):
        offer(core, job("r"))
    core.committed(Turn(NOW, batches=[first, second]), Committed(placed=[[Enqueued(1, False)], QueueFull("no")]))
    assert (core.gauges["r"].waiting, core.gauges["r"].coming) == (3, 0), "a refused one makes room"
    core.refused()
    assert offer(core, job("r")) == {}


def test_duplicates_need_no_room() -> None:
    """A full queue would refuse to say that the job is in it already."""
    core = made(r=4)
    one = batch(job("r", unique_key="a"), job("r", unique_key="a"))
    needs = core.needs(one, NOW)
    assert (needs, unique_keys(one, needs)) == ({"r": Need(2, 0)}, {("k", "a")})
    assert core.needs(one, NOW, {("k", "a")}) == {}
    assert core.needs(one, NOW, set()) == {"r": Need(1, 0)}, "the second one is a duplicate of the first"
    assert core.admit(one, {}, NOW) == {}
    core.committed(Turn(NOW, batches=[one]), Committed(placed=[[Enqueued(1, True), Enqueued(1, True)]]))
    assert (core.gauges["r"].waiting, core.gauges["r"].coming) == (4, 0)


def test_the_age_of_a_queue_is_looked_at_without_a_count() -> None:
    """A long queue with a limit of age would be counted every second, which holds up all commits."""
    core = Pressure(QueueLimits(QueueSettings(), {"o": {"max_age_ms": 5_000, "max_depth": 100_000}}))
    core.counted({"o": Depth(70_000, NOW)})
    assert core.to_count() == {"o": 0}
    core.aged({"o": Depth(0, NOW - 6_000), "gone": Depth(0, 1)})
    assert (core.gauges["o"].waiting, core.gauges["o"].too_old(NOW)) == (70_000, True)
    core.doubt()
    assert core.to_count() == core.to_count(all_of_them=True) == core.bounds(["o"])


def test_known_duplicates_take_nobodys_room() -> None:
    """Jobs would be shed for one that is in the queue already, or the queue end up over its limit."""
    core = made(s=3)
    one = batch(job("s", unique_key="k"))
    assert core.admit(one, core.needs(one, NOW, {("k", "k")}), NOW) == {}
    assert core.gauges["s"].coming == 0
    assert offer(core, job("s")) == {}, "the fourth"
    two = batch(job("s", unique_key="k"), job("s"))
    sheds = core.admit(two, core.needs(two, NOW, {("k", "k")}), NOW)
    assert sheds == {"s": 1}
    (shed,) = core.shed(sheds, NOW)
    assert (shed.surplus, shed.known) == (1, 2)
    assert core.shed(sheds, NOW)[0].known == 0, "in the turn after"
    core.committed(Turn(NOW, batches=[one]), Committed(placed=[[Enqueued(1, True)]]))
    assert (core.gauges["s"].waiting, core.gauges["s"].coming) == (3, 2)


def test_what_was_claimed_before_the_first_count_comes_back() -> None:
    """After a restart, jobs that fail would come back unseen, and the queue take more than it may."""
    core = Pressure(QueueLimits(QueueSettings(), BLOCKING))
    commit(core, claims=[Claim("r", 2)], claimed=[claimed(1, "r"), claimed(2, "r")])
    core.counted({"r": Depth(3, None)})
    commit(core, released=[Released(1, 7)], completed={7: [2]})
    assert core.gauges["r"].waiting == 4


def test_shedding_never_takes_more_than_comes() -> None:
    """A limit that was lowered would empty the queue at the next enqueue."""
    core = made(s=3)
    assert offer(core, job("s"), job("s"), job("s")) == {"s": 2}
    core = made(s=900)
    assert offer(core, job("s"), job("s")) == {"s": 2}


def test_jobs_for_later_shed_nobody() -> None:
    """A job for tomorrow would throw one of today away, and then wait."""
    core = made(s=4)
    with pytest.raises(QueueFull, match="Jobs for later shed no others"):
        offer(core, job("s", scheduled_at=NOW + 1))
    core = made(s=3)
    assert offer(core, job("s", scheduled_at=NOW + 1)) == {}


def test_an_old_queue_is_full() -> None:
    """Jobs would pile up behind one that waits for hours, as long as there are few."""
    core = made()
    core.counted({"old": Depth(1, NOW - 5_000)})
    assert offer(core, job("old")) == {}
    core.counted({"old": Depth(1, NOW - 5_001)})
    with pytest.raises(QueueFull, match=r"its oldest job has been ready for 5s, and its limit is 5s \(max_age\)"):
        offer(core, job("old"))
    commit(core, claims=[Claim("old", 9)], claimed=[claimed(1, "old")])
    core.refused()
    assert offer(core, job("old")) == {}, "nothing is left that could be old"


def test_a_queue_far_over_its_limit_is_not_counted_down() -> None:
    """A thousand were counted, a million wait: after a thousand claims the queue would look empty."""
    core = made()
    core.counted({"r": Depth(core.gauges["r"].bound, None)})
    commit(core, claims=[Claim("r", 2)], claimed=[claimed(1, "r"), claimed(2, "r")])
    assert core.gauges["r"].waiting == core.gauges["r"].bound
    with pytest.raises(QueueFull, match="1,004 or more jobs wait"):
        offer(core, job("r"))
    assert "r" in core.to_count()


def test_what_can_never_fit_does_not_wait() -> None:
    """A producer would wait its whole patience for a room that no queue of this limit can have."""
    with pytest.raises(QueueFull, match="5 jobs at once never fit into queue b, whose limit is 4"):
        offer(made(), *[job()] * 5)


def test_the_first_in_the_line_goes_first() -> None:
    """A small request would slip past a large one for ever."""
    core = made(b=4)
    large, small = batch(job(), job()), batch(job())
    entries = [core.join(one, core.needs(one, NOW), None) for one in (large, small)]
    assert core.advance(NOW, never) == []
    core.counted({"b": Depth(3, None)})
    assert core.advance(NOW, never) == [], "there is room for the second one only"
    assert offer(core, job()) is None, "and a third one stands behind both"
    assert core.leave(entries[0])
    assert [entry for entry, _ in core.advance(NOW, never)] == [entries[1]]
    assert not core.leave(entries[1])
    assert core.in_line == []


def test_one_that_waits_in_two_lines_is_first_in_both() -> None:
    """A batch for two queues would take room in one of them out of turn."""
    core = made(b=4, c=4)
    both, only = batch(job(), job("c")), batch(job("c"))
    first = core.join(both, core.needs(both, NOW), None)
    second = core.join(only, core.needs(only, NOW), None)
    core.counted({"c": Depth(0, None)})
    assert core.advance(NOW, never) == []
    core.counted({"b": Depth(0, None)})
    assert [entry for entry, _ in core.advance(NOW, never)] == [first, second]


def test_one_whose_other_queue_refuses_is_refused_at_its_turn() -> None:
    """It would wait for ever: the queue that refuses has no line."""
    core = made(b=4, r=4)
    one = batch(job(), job("r"))
    core.gauges["r"].waiting = 0
    entry = core.join(one, core.needs(one, NOW), None)
    core.counted({"b": Depth(0, None), "r": Depth(4, None)})
    ((told, outcome),) = core.advance(NOW, never)
    assert told is entry
    assert isinstance(outcome, QueueFull)
    assert core.in_line == []


def test_those_who_have_gone_hold_up_nobody() -> None:
    """The job of a producer that went away would be enqueued, or its place in the line be kept."""
    core = made(b=4)
    one, two = batch(job(), job()), batch(job())
    gone = core.join(one, core.needs(one, NOW), None)
    there = core.join(two, core.needs(two, NOW), None)
    core.counted({"b": Depth(3, None)})
    assert [entry for entry, _ in core.advance(NOW, lambda entry: entry is gone)] == [there]
    assert core.gauges["b"].coming == 1


def test_a_doubtful_queue_lets_nobody_in_before_it_is_counted() -> None:
    """After a retry of a hundred jobs a number from before would let a hundred more in."""
    core = made(b=4)
    one = batch(job())
    core.join(one, core.needs(one, NOW), None)
    core.counted({"b": Depth(0, None)})
    core.doubt()
    assert core.advance(NOW, never) == []
    assert core.doubtful(["b"]) == ["b"]
    core.counted({"b": Depth(3, None)})
    assert len(core.advance(NOW, never)) == 1


def test_empty_queues_are_forgotten() -> None:
    """A queue for each customer would stay in memory for ever, and be counted every second."""
    core = made(r=1)
    assert core.to_count() == {}
    assert list(core.gauges) == ["r"]
    waiting = batch(job(), job("s"))
    core.counted({"b": Depth(4, None), "s": Depth(0, None)})
    core.join(waiting, core.needs(waiting, NOW), None)
    assert core.to_count() == {}
    assert set(core.gauges) >= {"b", "s"}, "not while somebody waits who needs them"


def test_producers_are_told_the_pressure() -> None:
    """The first that a producer hears of a full queue would be that it is refused."""
    core = made(r=1)
    one = batch(job("r"), job("free"))
    core.admit(one, core.needs(one, NOW), NOW)
    places = [Enqueued(7, False), Enqueued(8, False)]
    core.committed(Turn(NOW, batches=[one]), Committed(placed=[places]))
    assert core.answers(one, places, NOW) == [Enqueued(7, pressure=0.5), Enqueued(8)]
    core.counted({"old": Depth(1, NOW - 2_500)})
    assert core.gauges["old"].pressure(NOW) == 0.5


def test_queue_list_shows_limits() -> None:
    """Nobody could see how near a queue is to its limit."""
    limits = QueueLimits(QueueSettings(), {"r": {"max_depth": 4}, "old": {"max_age_ms": 10}, "empty": {"max_depth": 1}})
    views = [
        QueueView("r", {"available": 1, "parked": 1, "retryable": 1, "scheduled": 1, "running": 9, "completed": 9}),
        QueueView("old", {"available": 1}),
        QueueView("free", {"available": 5}),
    ]
    shown = show_limits(views, limits, {"old": Depth(1, NOW - 5)}, NOW)
    assert [(view.name, view.max_depth, view.max_age_ms, view.when_full, view.pressure) for view in shown] == [
        ("empty", 1, 0, "reject", 0.0),
        ("free", 0, 0, "", 0.0),
        ("old", 0, 10, "reject", 0.5),
        ("r", 4, 0, "reject", 1.0),
    ]
