"""What the dispatch core does with jobs whose dependency is away."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from perdure.daemon.doubts import DOUBTS
from perdure.daemon.isolation import SUSPECT_REASON, SUSPECTS
from perdure.wire.data import ErrorData
from perdure.wire.work import Done, Failed
from tests.daemon.world import World, spec


class Switches:
    """A gate that a test sets by hand: which dependencies are open, which are in trouble."""

    def __init__(self, *known: str) -> None:
        self.known = set(known)
        self.open: set[str] = set()
        self.trouble: set[str] = set()
        self.probe = 0
        self.seen_ended: list[int] = []

    def parks(self, needs: Sequence[str], job_id: int) -> str | None:
        for name in needs:
            if name not in self.known:
                return f"needs:{name}"
            if name in self.open and job_id != self.probe:
                return f"breaker:{name}"
        return None

    def knows(self, name: str) -> bool:
        return name in self.known

    def is_closed(self, name: str) -> bool:
        return name not in self.open

    def in_trouble(self, name: str) -> bool:
        return name in self.trouble

    def ended(self, ids: Iterable[int]) -> None:
        self.seen_ended.extend(ids)


def make(*, workers: int = 1) -> tuple[World, Switches]:
    gate = Switches("db")
    kinds = [spec(), spec("needy", "async", ["db"]), spec("lost", "async", ["nowhere"])]
    return World(kinds, workers, gate=gate), gate


def test_a_job_whose_breaker_is_open_is_parked_uncharged_and_others_flow() -> None:
    """It would hold a slot, fail, and use up its attempts; or its neighbours would wait behind it."""
    world, gate = make()
    gate.open.add("db")
    world.enqueue(3, kind="needy")
    world.enqueue(2)
    world.settle()
    rows = list(world.store.rows.values())
    assert [(row.state, row.attempt) for row in rows[:3]] == [("breaker:db", 0)] * 3
    assert [row.state for row in rows[3:]] == ["running"] * 2
    assert world.workers[1].lanes["async"] == []


def test_the_probe_is_let_through_while_the_rest_is_parked() -> None:
    """Without a probe nobody would learn that the dependency is back; with more, it would be flooded."""
    world, gate = make()
    gate.open.add("db")
    gate.probe = 2
    world.enqueue(3, kind="needy")
    world.settle()
    assert [row.state for row in world.store.rows.values()] == ["breaker:db", "running", "breaker:db"]


def test_a_need_that_the_configuration_lacks_parks_the_job() -> None:
    """It would fail until it is dead, though all that is missing is a section in perdure.toml."""
    world, _ = make()
    world.enqueue(kind="lost")
    world.settle()
    assert (world.store.rows[1].state, world.store.rows[1].attempt) == ("needs:nowhere", 0)


def test_a_probe_of_an_unknown_kind_gives_way() -> None:
    """Each parked job whose handler is gone would hold the half-open breaker until its time as the probe is over."""
    world, gate = make()
    world.enqueue(kind="gone")
    world.settle()
    assert world.store.rows[1].state == "kind:gone"
    assert gate.seen_ended == [1]


def test_a_refused_job_is_parked_uncharged() -> None:
    """A job that meets an open breaker in mid-run would pay for it with an attempt."""
    world, gate = make()
    world.enqueue(kind="needy")
    world.settle()
    world.begin(1)
    gate.open.add("db")
    world.finish(1, "refused", dependency="db")
    world.settle()
    assert (world.store.rows[1].state, world.store.rows[1].attempt) == ("breaker:db", 0)


def test_a_job_refused_by_a_breaker_that_has_closed_meanwhile_comes_back_by_itself() -> None:
    """It would be parked for a breaker that never closes again, because it is closed: for ever."""
    world, _ = make()
    world.enqueue(kind="needy")
    world.settle()
    world.begin(1)
    world.finish(1, "refused", dependency="db")
    world.settle()
    row = world.store.rows[1]
    assert (row.state, row.attempt) == ("retryable", 0)
    world.run_all()
    assert (row.state, row.finished) == ("completed", 1)


def test_a_wish_for_the_next_attempt_holds_while_a_dependency_is_in_trouble() -> None:
    """A handler that asks for an hour's pause would be run again after a second, and again."""
    world, gate = make()
    gate.trouble.add("db")
    world.enqueue(kind="needy")
    world.settle()
    failed = Failed(1, ErrorData("Retry", "later"), True, 3_600_000, "db")
    world.core.done(1, Done([], [], [failed], []), world.now)
    world.settle()
    assert (world.store.rows[1].attempt, world.store.rows[1].due) == (0, world.now + 3_600_000)


def test_a_probe_that_finds_no_room_among_the_suspects_gives_way() -> None:
    """Parked for want of room, it would hold the half-open breaker until its time as the probe is over."""
    world, gate = make()
    world.fork_isolated = False
    world.enqueue(SUSPECTS + 1, kind="needy")
    world.turn_of_new_jobs()
    for row in world.store.rows.values():
        row.state, row.interruptions, row.attempt = "available", 2, 2
    world.core.queues.fill("default")
    world.settle()
    parked = [job_id for job_id, row in world.store.rows.items() if row.state == SUSPECT_REASON]
    assert gate.seen_ended == parked
    assert len(parked) == 1


def test_failures_of_a_dependency_that_is_away_or_in_trouble_cost_no_attempt() -> None:
    """A dead dependency would burn the budget of every job that meets it before its breaker opens."""
    world, gate = make()
    gate.trouble.add("db")
    world.enqueue(2, kind="needy")
    world.settle()
    world.begin(1)
    first = world.finish(1, "error", dependency="db")
    gate.open.add("db")
    second = world.finish(1, "error", dependency="db")
    world.settle()
    assert first is not None
    assert second is not None
    rows = world.store.rows
    assert (rows[first.id].state, rows[first.id].attempt) == ("retryable", 0)
    assert (rows[second.id].state, rows[second.id].attempt) == ("breaker:db", 0)


def test_failures_of_a_healthy_dependency_are_charged() -> None:
    """A job whose own query times out again and again would never reach the dead letters."""
    world, _ = make()
    world.enqueue(kind="needy")
    attempts = []
    for _ in range(3 + DOUBTS):
        world.now += 10_000
        world.settle()
        world.begin(1)
        world.finish(1, "error", dependency="db")
        world.settle()
        attempts.append(world.store.rows[1].attempt)
    # At first it is doubted whether the job is to blame; then each failure is charged.
    assert attempts == [*[0] * DOUBTS, 1, 2, 3]
    assert world.store.rows[1].state == "dead:attempts"


def test_a_worker_that_is_busy_is_no_jobs_fault() -> None:
    """Jobs would end in the dead letters because too many of them ran at once, on a server that is well."""
    world, _ = make()
    world.enqueue(kind="needy", max_attempts=1)
    for _ in range(4 * DOUBTS):
        world.now += 10_000_000
        world.settle()
        world.begin(1)
        world.finish(1, "busy", dependency="db")
        world.settle()
        assert (world.store.rows[1].state, world.store.rows[1].attempt) == ("retryable", 0)


def test_a_permanent_failure_stays_permanent() -> None:
    """The handler said that the job can never succeed; parking it would hide that."""
    world, gate = make()
    gate.trouble.add("db")
    world.enqueue(kind="needy")
    world.settle()
    world.begin(1)
    world.finish(1, "permanent", dependency="db")
    world.settle()
    assert world.store.rows[1].state == "dead:permanent"


def test_a_name_that_nobody_knows_does_not_excuse_a_job() -> None:
    """A handler that raises BreakerOpen for a name of its own would go round for ever."""
    world, _ = make()
    world.enqueue(max_attempts=1)
    world.settle()
    world.begin(1)
    world.finish(1, "refused", dependency="mine")
    world.settle()
    assert world.store.rows[1].state == "dead:attempts"


def test_what_was_sent_ahead_is_taken_back_when_its_breaker_opens() -> None:
    """It would begin, work in vain until its first call, and hold a slot meanwhile."""
    world, gate = make()
    world.learn("needy", 1_000)
    world.enqueue(6, kind="needy")
    world.enqueue(1)
    world.settle()
    world.begin(1)
    gate.open.add("db")
    world.core.breaker_opened("db")
    world.act()
    world.settle()
    states = [row.state for row in world.store.rows.values()]
    assert states.count("breaker:db") == 2
    assert states.count("running") == 5
    assert all(row.attempt == 0 for row in world.store.rows.values() if row.state == "breaker:db")


def test_the_end_of_a_job_is_told_however_it_ends() -> None:
    """A probe that ends without a verdict would keep its breaker half open for ever."""
    world, gate = make(workers=2)
    world.enqueue(4, kind="needy")
    world.settle()
    for number in (1, 2):
        world.begin(number)
    ended = {job.id for number in (1, 2) for job in [world.finish(number)] if job is not None}
    ended.update(job.id for job in world.workers[1].executing)
    world.die(1)
    assert ended <= set(gate.seen_ended)
    left = world.workers[2].executing[0].id
    failure = Failed(left, ErrorData("ValueError", "no"), True)
    world.core.done(2, Done([], [], [failure], []), world.now)
    assert left in gate.seen_ended
