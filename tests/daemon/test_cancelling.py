"""What the dispatch core does with claimed jobs that are cancelled, executing or not."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.daemon.ledger import Death
from perdure.daemon.wishes import Wish
from perdure.wire.data import ErrorData
from perdure.wire.work import Done, Failed
from tests.daemon.world import END, World, spec


def executing_world(count: int = 1, lane: Any = "async", **fields: int | None) -> World:
    """A world whose first worker executes jobs 1 to `count`."""
    world = World([spec("job", lane)], workers=1)
    world.enqueue(count, **fields)
    world.settle()
    world.begin(1)
    return world


def entry(world: World, job_id: int) -> dict[str, Any]:
    """What the record says about how a cancelled job ended."""
    (error_json,) = world.store.rows[job_id].history
    decoded: dict[str, Any] = msgspec.json.decode(error_json)
    return decoded


def state(world: World, job_id: int) -> tuple[str, int, int]:
    """State, attempts, and how often it was ended."""
    row = world.store.rows[job_id]
    return row.state, row.attempt, row.finished


def test_an_executing_job_that_is_cancelled_and_fails_has_no_next_attempt() -> None:
    """A cancelled job would come back as a retry, or lie in the dead letters."""
    world = executing_world()
    taken, wishes = world.cancel(1)
    assert (taken, world.workers[1].told, wishes[1].outcome) == (set(), [1], None)
    world.now += 3_200
    world.finish(1, "error")
    world.settle()
    assert state(world, 1) == ("cancelled", 1, 1)
    assert wishes[1].outcome == "cancelled"
    assert entry(world, 1)["type"] == "JobCancelled"
    assert entry(world, 1)["message"] == "cancelled by ann, ended after 3.2 s; it ended with ValueError: no"


def test_the_record_keeps_the_handlers_own_traceback() -> None:
    """Nobody would know what the job was doing."""
    world = executing_world()
    world.cancel(1, who="")
    cause = ErrorData("KeyError", "before")
    error = ErrorData("CancelledError", "", traceback="Traceback: in user code", cause=cause)
    world.core.done(1, Done([], [], [Failed(1, error, True, stopped=True)], []), world.now)
    world.settle()
    said = entry(world, 1)
    assert (said["message"], said["traceback"]) == (
        "cancelled by someone, ended after 0.0 s",
        "Traceback: in user code",
    )
    assert said["cause"]["type"] == "KeyError"


@pytest.mark.parametrize("how", ["ok", "value"])
def test_a_job_that_completes_all_the_same_is_completed(how: str) -> None:
    """Work that was done would be recorded as not done; and who cancelled would not learn that it was."""
    world = executing_world()
    _, wishes = world.cancel(1)
    world.finish(1, how)
    world.settle()
    assert state(world, 1) == ("completed", 1, 1)
    assert wishes[1].outcome == "completed"
    assert not world.core.wishes


def test_what_was_sent_ahead_is_taken_back_uncharged() -> None:
    """A job that never began would show an attempt, or run."""
    world = executing_world(2, lane="sync")
    _, wishes = world.cancel(2)
    world.settle()
    assert state(world, 2) == ("cancelled", 0, 1)
    assert wishes[2].outcome == "cancelled"
    assert state(world, 1)[0] == "running"


def test_what_no_worker_has_is_taken_at_once() -> None:
    """Who cancels would wait for a worker that has nothing to do with it."""
    world = World([spec()], workers=0)
    world.core.worker_started(1)
    world.core.worker_ready(1)
    world.enqueue(1)
    world.turn()
    world.core.worker_died(1, Death("", {}), world.now)
    assert world.cancel(1)[0] == {1}
    world.settle()
    assert state(world, 1) == ("cancelled", 0, 1)


def test_cancelling_twice_tells_the_worker_once() -> None:
    """The second exception would hit the handler while it cleans up after the first."""
    world = executing_world()
    _, first = world.cancel(1, who="ann")
    _, second = world.cancel(1, who="bob")
    assert world.workers[1].told == [1]
    assert second[1] is first[1]
    world.finish(1, "error")
    world.settle()
    assert "by ann" in entry(world, 1)["message"]
    assert world.cancel(1) == (set(), {})


def test_a_worker_that_dies_meanwhile_takes_its_cancelled_job_along() -> None:
    """It would run again although nobody wants it, or be charged an interruption."""
    world = executing_world(2)
    world.cancel(1)
    assert world.die(1) == [2]
    world.settle()
    assert state(world, 1) == ("cancelled", 1, 1)
    assert entry(world, 1)["message"].endswith("; it was killed")
    assert world.store.rows[2].interruptions == 1


def test_a_job_that_will_not_end_takes_its_worker_along_and_no_neighbour() -> None:
    """The neighbours of a stubborn job would be charged for it; and where it hung would be lost."""
    world = executing_world(3)
    _, wishes = world.cancel(2)
    assert world.die(1, killed_for=[2]) == []
    world.settle()
    assert state(world, 2) == ("cancelled", 1, 1)
    assert wishes[2].outcome == "cancelled"
    said = entry(world, 2)
    assert said["message"].endswith("it did not end, so its worker was killed")
    assert (said["stacks"], said["exit"]) == ("its stacks", {"signal": "SIGKILL"})
    assert [world.store.rows[i].interruptions for i in (1, 3)] == [0, 0]
    assert [state(world, i)[0] for i in (1, 3)] == ["running", "running"]


def test_a_cancelled_job_over_its_time_limit_is_cancelled() -> None:
    """The hard limit of the job would make a retry of it."""
    world = executing_world(1, timeout_ms=1_000)
    world.cancel(1)
    world.die(1, killed_for=[1])
    world.settle()
    assert state(world, 1) == ("cancelled", 1, 1)


def test_what_the_dead_worker_had_not_begun_is_cancelled_uncharged() -> None:
    """A worker whose loop hangs cannot give back what waits behind it."""
    world = executing_world(2, lane="sync")
    world.core.cancel({2}, Wish("ann", world.now, 0))  # and the worker never hears of it
    world.die(1)
    world.settle()
    assert state(world, 2) == ("cancelled", 0, 1)


def test_what_it_had_finished_in_silence_is_completed() -> None:
    """The flight recorder knows better than the wish."""
    world = executing_world(1)
    _, wishes = world.cancel(1)
    world.workers.pop(1)
    world.core.worker_died(1, Death("killed", {}), world.now, executing=[1], finished=[1])
    world.settle()
    assert state(world, 1) == ("completed", 1, 1)
    assert wishes[1].outcome == "completed"


def test_a_stop_that_cuts_a_cancelled_job_short_cancels_it() -> None:
    """It would run again after the restart although somebody was told that it would not."""
    world = executing_world(2)
    world.cancel(1)
    world.core.stop()
    world.act()
    assert world.die(1, charge=False) == []
    world.settle()
    assert state(world, 1) == ("cancelled", 1, 1)
    assert state(world, 2) == ("available", 0, 0)
    assert world.core.idle


def test_a_draining_worker_gives_back_and_stops_as_any_other() -> None:
    """A reload, or the start of a stop, would make a cancelled job run once more."""
    world = executing_world(2, lane="sync")
    world.core.cancel({1, 2}, Wish("ann", world.now, 0))
    world.core.drain_worker(1)
    world.act()
    world.finish(1, "error")
    world.start_worker()
    world.settle()
    assert [state(world, i)[:2] for i in (1, 2)] == [("cancelled", 1), ("cancelled", 0)]


def test_a_job_on_its_last_life_is_cancelled_like_any_other() -> None:
    """The worker that runs alone would never be free again."""
    world = executing_world(1, max_interruptions=2)
    world.die(1)
    world.settle()
    (isolated,) = (number for number, one in world.core.workers.items() if one.isolated)
    world.begin(isolated)
    world.cancel(1)
    assert world.workers[isolated].told == [1]
    world.finish(isolated, "error")
    world.settle()
    world.end_drained()
    assert state(world, 1)[0] == "cancelled"
    assert isolated not in world.workers


class Gate:
    """A breaker that lets one job through as its probe."""

    def __init__(self) -> None:
        self.probe = 0
        self.given_up: list[int] = []

    def parks(self, needs: Sequence[str], job_id: int) -> str | None:
        self.probe = self.probe or job_id
        return None if self.probe == job_id else "breaker:db"

    def knows(self, name: str) -> bool:
        return name == "db"

    def is_closed(self, name: str) -> bool:
        return False

    def in_trouble(self, name: str) -> bool:
        return True

    def ended(self, ids: Iterable[int]) -> None:
        self.given_up += [job_id for job_id in ids if job_id == self.probe]


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("died", [True, False])
def test_a_cancelled_probe_gives_way_to_another(begun: bool, died: bool) -> None:
    """A half-open breaker would wait for ever for a job that is gone, or the job be parked for it."""
    gate = Gate()
    world = World([spec("job", needs=["db"])], workers=1, gate=gate)
    world.enqueue()
    world.settle()
    if begun:
        world.begin(1)
    world.core.cancel({1}, Wish("ann", world.now, 0))
    if died:
        world.core.take_actions()
        world.die(1)
    else:
        world.act()
        world.finish(1, "refused", dependency="db")
    world.settle()
    assert state(world, 1)[0] == "cancelled"
    assert gate.given_up == [1]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), workers=st.integers(1, 4), rounds=st.integers(20, 200))
def test_no_seed_of_cancellations_leaks_a_slot_or_ends_a_job_twice(seed: int, workers: int, rounds: int) -> None:
    """Cancellations at any moment, of what waits, was sent ahead, executes, ends, or is taken along by a death.

    Every wish is decided, and as it was decided so it stands in the store.
    """
    rng = random.Random(seed)
    world = World([spec(), spec("io", "async")], workers=workers, seed=seed)
    made: dict[int, Wish] = {}
    for _ in range(rounds):
        number = rng.choice(list(world.workers))
        match rng.randrange(10):
            case 0 | 1:
                world.enqueue(rng.randrange(1, 20), kind=rng.choice(["job", "io"]), queue=rng.choice(["a", "b"]))
            case 2 | 3 | 4:
                chosen = [rng.randrange(1, world.store.next_id + 1) for _ in range(rng.randrange(1, 4))]
                made |= world.cancel(*chosen)[1]
            case 5:
                told = [job.id for job in world.workers[number].executing if job.id in world.core.wishes]
                world.die(number, charge=rng.random() < 0.7, killed_for=told[:1] if rng.random() < 0.5 else ())
            case 6 if rng.random() < 0.2:
                world.core.drain_worker(number)
                world.start_worker()
            case _:
                world.begin(number)
                world.finish(number, rng.choice(["ok", "value", "error", "permanent", "error"]))
        if rng.random() < 0.7:
            world.turn()
            world.end_drained()
    world.run_all()
    assert not world.core.wishes
    for job_id, wish in made.items():
        assert wish.outcome == world.store.rows[job_id].state
    for row in world.store.rows.values():
        assert row.finished == 1
        assert row.state in END or row.state.startswith("dead")
        assert not (row.runs == 0 and row.attempt)
    for one in world.core.workers.values():
        assert not one.held
        assert all(load.count == 0 and load.backlog_ns == 0 for load in one.lanes.values())
