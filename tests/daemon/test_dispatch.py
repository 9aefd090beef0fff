"""The dispatch core, driven without processes, files or clocks."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.daemon.isolation import SUSPECTS
from perdure.daemon.ledger import Death
from perdure.store.models import NewBatch, NewJob
from perdure.wire.data import ErrorData, Lane
from perdure.wire.work import Done, Failed
from tests.daemon.world import END, LIMITS, World, spec


def test_a_new_job_is_claimed_and_sent_in_the_turn_that_inserts_it() -> None:
    """Were the claim a turn later, every job would wait for a second fsync."""
    world = World([spec()], workers=1)
    world.enqueue()
    world.turn()
    assert [job.id for job in world.workers[1].lanes["sync"]] == [1]


def test_jobs_of_unknown_length_are_spread_over_workers() -> None:
    """Else one worker would hold everything while its neighbour idles."""
    world = World([spec()], workers=2)
    world.enqueue(4)
    world.settle()
    assert [len(worker.lanes["sync"]) for worker in world.workers.values()] == [2, 2]


def test_long_jobs_are_not_sent_ahead_and_stay_available() -> None:
    """A job that waits behind an hour's work must still be cancellable, and show as waiting."""
    world = World([spec()], workers=2)
    world.learn("job", 10e9)
    world.enqueue(50)
    world.settle()
    assert sum(row.state == "running" for row in world.store.rows.values()) == 2
    assert sum(row.state == "available" for row in world.store.rows.values()) == 48


def test_short_jobs_are_sent_ahead_up_to_the_limit() -> None:
    """Without prefetch a worker would wait for a round trip after every no-op."""
    world = World([spec()], workers=2)
    world.learn("job", 1_000)
    world.enqueue(1_000)
    world.settle()
    assert world.most_sent == 64


def test_async_jobs_flow_while_the_sync_lane_is_full() -> None:
    """One slow sync job must not hold back async jobs of another queue."""
    world = World([spec(), spec("io", "async")], workers=1)
    world.learn("job", 10e9)
    world.enqueue(20)
    world.enqueue(3, kind="io", queue="io")
    world.settle()
    assert len(world.workers[1].lanes["async"]) == 3


def test_what_waits_behind_a_long_job_goes_back() -> None:
    """Prefetch must be taken back when a job turns out to be long."""
    world = World([spec()], workers=1)
    world.enqueue(2)
    world.settle()
    world.begin(1)
    world.core.stuck_behind(1, "job", 5e9)
    world.act()
    world.settle()
    assert sorted(row.state for row in world.store.rows.values()) == ["available", "running"]
    assert {row.attempt for row in world.store.rows.values()} == {0, 1}


def test_unknown_kinds_are_parked_uncharged() -> None:
    """A job for handlers that are not deployed yet must neither fail nor use an attempt."""
    world = World([spec()], workers=1)
    world.enqueue(kind="later")
    world.settle()
    assert (world.store.rows[1].state, world.store.rows[1].attempt) == ("kind:later", 0)


def test_paused_queues_are_not_claimed_and_others_flow() -> None:
    """A pause that stops more, or less, than its queue."""
    world = World([spec()], workers=1)
    world.core.queues.pause("a")
    world.enqueue(queue="a")
    world.enqueue(queue="b")
    world.settle()
    assert [world.store.rows[i].state for i in (1, 2)] == ["available", "running"]
    world.core.queues.resume("a")
    world.settle()
    assert world.store.rows[1].state == "running"


def test_queues_share_when_one_is_full() -> None:
    """A queue with a million jobs must not starve the one beside it."""
    world = World([spec()], workers=1)
    world.learn("job", 5e6)
    world.enqueue(500, queue="big")
    world.settle()
    world.enqueue(5, queue="small")
    for _ in range(60):
        world.turn()
        world.begin(1)
        world.finish(1, took_ns=5_000_000)
    small = [row for row in world.store.rows.values() if row.job.queue == "small"]
    assert all(row.state == "completed" for row in small)


def test_a_failure_waits_and_then_runs_again_until_its_budget_is_used_up() -> None:
    """Retries that come too soon, too often, or never."""
    world = World([spec()], workers=1)
    world.enqueue(max_attempts=2)
    for _ in range(2):
        world.settle()
        world.begin(1)
        world.finish(1, "error")
        world.settle()
        world.now += 10_000
    world.settle()
    assert world.store.rows[1].state == "dead:attempts"
    assert world.store.rows[1].runs == 2


def test_a_permanent_error_dies_at_once() -> None:
    """Retrying what can never succeed wastes the queue."""
    world = World([spec()], workers=1)
    world.enqueue()
    world.settle()
    world.begin(1)
    world.finish(1, "permanent")
    world.settle()
    assert world.store.rows[1].state == "dead:permanent"


def test_a_dead_worker_charges_only_what_it_was_executing() -> None:
    """Jobs that had merely been sent ahead are innocent."""
    world = World([spec()], workers=1)
    world.enqueue(2)
    world.settle()
    world.begin(1)
    assert world.die(1) == [1]
    world.settle()
    assert (world.store.rows[1].interruptions, world.store.rows[2].interruptions) == (1, 0)
    assert world.store.rows[2].attempt == 1


def test_a_poison_pill_is_quarantined_and_its_neighbours_complete() -> None:
    """A job that kills its worker must neither loop for ever nor take the jobs beside it to the dead letters."""
    world = World([spec("poison", "async"), spec("good", "async")], workers=1)
    world.enqueue(1, kind="poison")
    world.enqueue(3, kind="good")
    for _ in range(200):
        world.settle()
        for number in list(world.workers):
            world.begin(number)
            if any(job.kind == "poison" for job in world.workers[number].executing):
                world.die(number)
            else:
                while world.finish(number):
                    pass
    rows = list(world.store.rows.values())
    assert rows[0].state == "dead:interruptions"
    assert [row.state for row in rows[1:]] == ["completed"] * 3


def test_a_job_on_its_last_life_runs_alone() -> None:
    """Beside others it could take them along, or be blamed for them."""
    world = World([spec("job", "async")], workers=1)
    world.enqueue(1, max_interruptions=2)
    world.settle()
    world.begin(1)
    world.die(1)
    world.enqueue(5)
    world.settle()
    (isolated,) = (number for number, state in world.core.workers.items() if state.isolated)
    assert [job.id for job in world.workers[isolated].lanes["async"]] == [1]
    assert 1 not in [job.id for job in world.workers[2].lanes["async"]]
    world.begin(isolated)
    world.finish(isolated)
    world.settle()
    world.end_drained()
    assert isolated not in world.workers


def test_a_replay_of_many_suspects_neither_fills_memory_nor_stops_the_others() -> None:
    """Ten thousand quarantined jobs replayed at once would all be claimed, and a power cut would bury them all."""
    world = World([spec()], workers=1)
    world.enqueue(200, queue="replayed")
    world.turn_of_new_jobs()
    for row in world.store.rows.values():
        row.state, row.interruptions, row.attempt = "available", 2, 2
    world.core.queues.fill("replayed")
    world.core.enqueue(NewBatch([NewJob("job", "other", 0, "{}", 3, 3, None, None, None, None)] * 5, False))
    world.settle()
    assert len(world.core.isolation.suspects) <= SUSPECTS
    assert any(row.state == "running" for row in world.store.rows.values() if row.job.queue == "other")
    world.run_all()


def test_a_delayed_job_that_is_due_at_its_commit_runs() -> None:
    """A delay of a millisecond: the store writes the job as available, and nobody would look."""
    world = World([spec()], workers=1)
    world.enqueue(scheduled_at=world.now + 1)
    world.now += 2
    world.settle()
    assert world.store.rows[1].state == "running"


def test_a_reload_that_changes_a_kind_strands_nothing() -> None:
    """What waits here for a lane or a kind that is gone must be sorted anew."""
    world = World([spec(), spec("gone")], workers=1)
    world.learn("job", 10e9)
    world.enqueue(5)
    world.enqueue(1, kind="gone")
    world.settle()
    world.core.kinds_loaded([spec("job", "async")])
    world.core.queues.fill("default")
    world.workers[1].lanes["async"] += world.workers[1].lanes["sync"]
    world.workers[1].lanes["sync"].clear()
    world.run_all()
    states = [row.state for row in world.store.rows.values()]
    assert states == ["completed"] * 5 + ["kind:gone"]


@pytest.mark.parametrize("stuck", [False, True])
def test_what_finds_no_worker_is_not_claimed_again_and_again(stuck: bool) -> None:
    """A slow kind behind a fast one, or a worker that is stuck: endless claims and releases would burn the disk."""
    world = World([spec(), spec("slow")], workers=2)
    world.learn("slow", 15_000_000)
    world.learn("job", 1_000)
    world.enqueue(3_000, kind="slow")
    turns = 0
    if stuck:
        world.turn()
        world.begin(1)
        world.core.stuck_behind(1, "slow", 5e9)
    while world.turn():
        turns += 1
        assert turns < 20


def test_a_worker_killed_for_one_job_charges_no_other() -> None:
    """The neighbours of a job that overran its limit would otherwise be quarantined in time."""
    world = World([spec("io", "async")], workers=1)
    world.enqueue(3, kind="io", timeout_ms=1_000)
    world.settle()
    world.begin(1)
    world.workers.pop(1)
    world.core.worker_died(1, Death("killed", {}), world.now, executing=[1, 2, 3], timed_out=[2])
    world.start_worker()
    world.settle()
    rows = world.store.rows
    assert [rows[i].interruptions for i in (1, 2, 3)] == [0, 0, 0]
    assert [rows[i].state for i in (1, 2, 3)] == ["running", "retryable", "running"]


def test_late_outcomes_of_a_job_taken_away_are_refused() -> None:
    """Or a job would be finished twice in the record."""
    world = World([spec()], workers=1)
    world.enqueue()
    world.settle()
    world.begin(1)
    world.finish(1)
    assert world.core.done(1, Done([1], [], [], []), world.now) == [1]


def test_stopping_claims_nothing_and_releases_what_has_not_begun() -> None:
    """A deploy must not burn attempts, nor start new work."""
    world = World([spec()], workers=1)
    world.enqueue(3)
    world.settle()
    world.begin(1)
    world.core.stop()
    world.enqueue(1)
    world.settle()
    states = [row.state for row in world.store.rows.values()]
    assert states == ["running", "available", "available", "available"]
    assert [row.attempt for row in world.store.rows.values()] == [1, 0, 0, 0]
    world.finish(1)
    world.core.worker_died(1, Death("", {}), world.now)
    world.settle()
    assert world.core.idle


def test_twenty_deploys_burn_no_attempt() -> None:
    """T12: each deploy gives the running job back when the drain limit is over."""
    world = World([spec()], workers=1)
    world.enqueue()
    for _ in range(20):
        world.settle()
        (number,) = world.workers
        world.begin(number)
        world.core.stopping = True
        world.die(number, charge=False)
        world.core.stopping = False
        world.settle()
        world.start_worker()
        world.core.queues.fill("default")
    world.settle()
    assert (world.store.rows[1].attempt, world.store.rows[1].interruptions) == (1, 0)


@pytest.mark.parametrize("workers", [1, 3])
def test_mixed_lanes_in_one_queue_all_complete(workers: int) -> None:
    """A queue blocked on one lane must be unblocked again."""
    world = World([spec(), spec("io", "async")], workers=workers)
    world.learn("job", 1e9)
    for _ in range(40):
        world.enqueue(2)
        world.enqueue(3, kind="io")
    world.run_all()
    assert {row.state for row in world.store.rows.values()} == {"completed"}


def test_what_is_sent_ahead_to_the_async_lane_counts_by_its_share_of_the_slots() -> None:
    """Jobs that run side by side each take as long as all of them: next to nothing would be sent ahead."""
    world = World([spec("io", "async")], workers=1)
    world.learn("io", LIMITS.prefetch_ns / 4)
    world.enqueue(LIMITS.prefetch_jobs, "io")
    world.turn()
    assert len(world.workers[1].lanes["async"]) == 4 * LIMITS.async_slots


@pytest.mark.parametrize(("lane", "most"), [("sync", LIMITS.prefetch_jobs), ("async", LIMITS.async_slots)])
def test_a_new_kind_is_thought_to_be_as_short_as_the_others(lane: Lane, most: int) -> None:
    """With a thousand kinds each would be sent two at a time, and workers would wait for each of these."""
    world = World([spec("known", lane), spec("new", lane)], workers=1)
    world.learn("known", 1_000)
    world.enqueue(LIMITS.prefetch_jobs, "new")
    world.turn()
    assert len(world.workers[1].lanes[lane]) == most


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), workers=st.integers(1, 4), rounds=st.integers(10, 150))
def test_no_seed_of_faults_loses_doubles_or_strands_a_job(seed: int, workers: int, rounds: int) -> None:
    """Any interleaving of enqueues, ends, deaths, recalls, pauses and reloads: each job ends, and is ended once."""
    rng = random.Random(seed)
    world = World([spec(), spec("io", "async"), spec("slow")], workers=workers, seed=seed)
    for _ in range(rounds):
        number = rng.choice(list(world.workers))
        match rng.randrange(10):
            case 0 | 1:
                kind, queue = rng.choice(["job", "io", "slow", "unknown"]), rng.choice(["a", "b", "c"])
                world.enqueue(rng.randrange(1, 30), kind=kind, queue=queue, priority=rng.randrange(-3, 3))
            case 2:
                world.enqueue(1, scheduled_at=world.now + rng.randrange(5_000))
            case 3:
                world.die(number)
            case 4:
                kind, elapsed_ns = rng.choice(["job", "slow"]), rng.choice([1e3, 1e9])
                # The daemon says so only of a sync job that executes; its end is what opens the lane again.
                if any(world.core.kinds[job.kind].lane == "sync" for job in world.workers[number].executing):
                    world.core.stuck_behind(number, kind, elapsed_ns)
                world.act()
            case 5:
                name = rng.choice(["a", "b", "c"])
                rng.choice([world.core.queues.pause, world.core.queues.resume])(name)
            case 6:
                world.cancel(rng.randrange(1, world.store.next_id + 1))
            case _:
                world.begin(number)
                took = rng.choice([1_000, 1_000_000, 2_000_000_000])
                world.finish(number, rng.choice(["ok", "ok", "value", "error", "permanent"]), took)
        world.now += rng.randrange(100)
        if rng.random() < 0.7:
            world.turn()
    for name in ("a", "b", "c"):
        world.core.queues.resume(name)
    world.run_all()
    for row in world.store.rows.values():
        assert row.state in END or row.state.startswith("dead") or row.state == "kind:unknown"
        assert row.finished == (0 if row.state.startswith("kind") else 1)
    assert not world.core.wishes
    for state in world.core.workers.values():
        assert not state.held
        assert all(load.count == 0 and load.backlog_ns == 0 for load in state.lanes.values())


def test_a_failed_fork_of_the_isolated_worker_is_asked_for_once_more_and_not_twice() -> None:
    """Each failure would double the number of forks asked for."""
    world = World([spec()], workers=1)
    world.enqueue(1, max_interruptions=2)
    world.settle()
    world.begin(1)
    world.die(1)
    world.fork_isolated = False
    for _ in range(5):
        world.settle()
        world.core.isolation_failed()
    assert world.isolated_asked == 5
    world.fork_isolated = True
    world.settle()
    world.settle()
    assert sum(state.isolated for state in world.core.workers.values()) == 1
    world.run_all()


def test_a_kind_that_a_worker_does_not_know_parks_uncharged() -> None:
    """A worker of another generation of handlers must not use up the job's attempts."""
    world = World([spec()], workers=1)
    world.enqueue(max_attempts=1)
    world.settle()
    failure = Failed(1, ErrorData("UnknownKind", "no such kind here"), True)
    world.core.done(1, Done([], [], [failure], []), world.now)
    world.workers[1].lanes["sync"].clear()
    world.settle()
    assert (world.store.rows[1].state, world.store.rows[1].attempt) == ("kind:job", 0)
    assert world.core.judge.kinds_parked == {"job"}


def test_an_urgent_job_of_the_other_lane_is_not_hidden_by_a_full_one() -> None:
    """A queue whose head waits for the sync lane must still give an async job that is more urgent."""
    world = World([spec(), spec("io", "async")], workers=1)
    world.learn("job", 10e9)
    world.enqueue(10)
    world.settle()
    world.enqueue(1, kind="io", priority=-20)
    world.settle()
    assert [job.kind for job in world.workers[1].lanes["async"]] == ["io"]
