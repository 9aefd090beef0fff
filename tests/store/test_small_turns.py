"""A turn of a few jobs is carried out in a way of its own. It must do what the ways for many do."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.store import plain_turns, small_turns
from perdure.store.group_commit import commit_turn
from perdure.store.migrate import apply, load_migrations
from perdure.store.models import Claim, Committed, NewBatch, Turn
from perdure.store.new_jobs import NewJobs
from perdure.store.statements import SQL
from tests.store.desk import START_MS, new_job

QUEUES = ("a", "b")

Jobs = st.builds(
    new_job,
    queue=st.sampled_from(QUEUES),
    priority=st.integers(-20, 19),
    # The last one is refused by the table, as is max_attempts 0.
    args=st.sampled_from(['{"a": 1}', '{"a": "\\u0000ü"}', "{}", "no JSON"]),
    max_attempts=st.sampled_from([1, 3, 0]),
    timeout_ms=st.sampled_from([None, 5]),
    scheduled_at=st.sampled_from([None, START_MS - 1, START_MS + 1_000_000]),
    unique_key=st.sampled_from([None, None, "k", "l"]),
    tags_json=st.sampled_from([None, '["t"]']),
)
#: Which of the running jobs ended, with what; and whether under its own lease.
Ends = st.lists(
    st.tuples(st.integers(0, 9), st.sampled_from([None, '{"x": 1}', '"text"', "no JSON"]), st.booleans()), max_size=3
)
Turns = st.lists(
    st.tuples(Ends, st.lists(st.tuples(st.lists(Jobs, max_size=2), st.booleans()), max_size=2), st.integers(0, 3)),
    min_size=1,
    max_size=6,
)


class Way:
    """A queue whose turns are all carried out in one way."""

    def __init__(self, connection: sqlite3.Connection, most_steps: int) -> None:
        self.connection = connection
        self.most_steps = most_steps
        apply(connection, load_migrations(), ":memory:")
        plain_turns.prepare_plain_turns(connection)
        self.new_jobs = NewJobs(connection)

    def commit(self, turn: Turn) -> Committed:
        with patch.object(small_turns, "MOST_STEPS", self.most_steps):
            return commit_turn(self.connection, turn, self.new_jobs)

    def rows(self) -> list[tuple[object, ...]]:
        """All that the table says."""
        return self.connection.execute("SELECT * FROM jobs ORDER BY id").fetchall()


@contextmanager
def ways() -> Iterator[tuple[Way, Way, Way]]:
    with (
        closing(sqlite3.connect(":memory:", isolation_level=None)) as few,
        closing(sqlite3.connect(":memory:", isolation_level=None)) as many,
        closing(sqlite3.connect(":memory:", isolation_level=None)) as either,
    ):
        yield Way(few, 100), Way(many, -1), Way(either, 0)


def make_turn(number: int, running: list[tuple[int, int]], ends: list[tuple[int, str | None, bool]]) -> Turn:
    """A turn in which some of the running jobs end; a job may be named twice, which makes the second outcome void."""
    turn = Turn(now=START_MS + number, lease=number)
    for pick, result, own in ends:
        if running:
            job_id, lease = running[pick % len(running)]
            lease = lease if own else lease + 1_000
            if result is None:
                turn.completed.setdefault(lease, []).append(job_id)
            else:
                turn.results.append((job_id, lease, result))
    return turn


@settings(max_examples=150, deadline=None)
@given(Turns)
def test_a_few_jobs_and_many_are_treated_alike(plan: list[tuple[object, ...]]) -> None:
    """What a lonely job gets would differ from what it gets under load: an id, a state, a refusal, an empty queue."""
    with ways() as (few, many, either):
        running: list[tuple[int, int]] = []
        for number, (ends, batches, claim) in enumerate(plan, 1):
            turn = make_turn(number, running, ends)  # type: ignore[arg-type]
            turn.batches = [NewBatch(jobs, strict) for jobs, strict in batches]  # type: ignore[attr-defined]
            if claim:
                turn.claims = [Claim(queue, claim) for queue in QUEUES]  # type: ignore[arg-type]
                turn.claim_total = claim * len(QUEUES)  # type: ignore[operator]
            done, other = few.commit(turn), many.commit(turn)
            either.most_steps = 100 if number % 2 else -1
            assert repr(done) == repr(other) == repr(either.commit(turn))
            assert few.rows() == many.rows() == either.rows()
            assert few.new_jobs.last_id == many.new_jobs.last_id
            assert not few.connection.in_transaction
            ended = {job_id for ids in turn.completed.values() for job_id in ids} | {one[0] for one in turn.results}
            running = [one for one in running if one[0] not in ended] + [(job.id, number) for job in done.claimed]


@pytest.mark.parametrize("one", ["complete_one", "complete_one_with_result"])
def test_one_outcome_is_fenced_like_many(one: str) -> None:
    """The fence would hold for many jobs and not for a single one."""
    assert SQL[one].rstrip(" ;").endswith("WHERE id = :id AND +lease = :lease AND +state = 'running'")


@pytest.mark.parametrize(
    ("turn", "verbs"),
    [
        (Turn(1, batches=[NewBatch([new_job()], False)]), ["INSERT"]),
        (Turn(1, completed={1: [1]}), ["UPDATE"]),
        (Turn(1, lease=2, claims=[Claim("default", 9)], claim_total=9), ["UPDATE", "SELECT"]),
        (
            Turn(1, completed={1: [1]}, batches=[NewBatch([new_job()], False)]),
            ["BEGIN", "UPDATE", "INSERT", "COMMIT"],
        ),
    ],
    ids=["new", "ended", "claim", "two"],
)
def test_a_lonely_job_takes_as_few_statements_as_can_be(turn: Turn, verbs: list[str]) -> None:
    """It would wait for a view, triggers and JSON that are made for thousands: SQLite takes twice as long."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        way = Way(connection, small_turns.MOST_STEPS)
        way.commit(Turn(1, batches=[NewBatch([new_job()], False)]))
        way.commit(Turn(1, lease=1, claims=[Claim("default", 1)], claim_total=1))
        seen: list[str] = []
        connection.set_trace_callback(seen.append)
        assert not way.commit(turn).stale
        assert [statement.split()[0] for statement in seen] == verbs
