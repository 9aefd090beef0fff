"""Full queues without a daemon: a command on the file keeps the same limits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.config.settings import load_settings
from perdure.daemon.local import LocalQueue, open_local
from perdure.errors import InvalidOption, QueueFull
from perdure.wire.control import Enqueue, EnqueueAlike, GetDead, GetJob, ListQueues
from perdure.wire.data import Blob, DeadView, Enqueued, JobSpec

LIMITS = """
[queues.r]
max_depth = 3
[queues.b]
max_depth = 3
when_full = "block"
[queues.s]
max_depth = 3
when_full = "shed"
"""


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[LocalQueue]:
    """An empty queue with one of each policy."""
    file = tmp_path / "perdure.toml"
    file.write_text(LIMITS)
    opened = open_local(load_settings(file, {}, cwd=tmp_path))
    yield opened
    opened.close()


def put(queue: LocalQueue, name: str, count: int = 1, **fields: object) -> list[Enqueued]:
    """Enqueue so many like jobs."""
    placed: list[Enqueued] = queue.request(Enqueue([JobSpec("k", queue=name, **fields) for _ in range(count)]))  # type: ignore[arg-type]  # fields of a JobSpec
    return placed


def test_a_full_queue_refuses(queue: LocalQueue) -> None:
    """Whoever stops the daemon could fill a queue without an end."""
    assert [one.pressure for one in put(queue, "r", 2)] == [0.667, 0.667]
    with pytest.raises(QueueFull, match=r"2 jobs wait in it, its limit is 3 .*, and 2 came at once"):
        put(queue, "r", 2)
    assert put(queue, "r", unique="u")[0].pressure == 1.0
    assert put(queue, "r", unique="u")[0].duplicate
    with pytest.raises(QueueFull):
        put(queue, "r", unique="other")


def test_nobody_waits_where_nobody_makes_room(queue: LocalQueue) -> None:
    """A command would hang for its whole patience, with the lock in its hands."""
    put(queue, "b", 3)
    with pytest.raises(QueueFull, match="or start the daemon with `perdure run`"):
        put(queue, "b")


def test_the_least_urgent_is_shed(queue: LocalQueue) -> None:
    """The job would be refused, or another one vanish."""
    (low,) = put(queue, "s", priority=3)
    put(queue, "s", 2)
    (placed,) = put(queue, "s")
    assert (placed.shed, placed.pressure) == (False, 1.0)
    letter = queue.request(GetDead(low.id))
    assert isinstance(letter, DeadView)
    assert letter.reason == "shed"
    assert put(queue, "s", priority=9)[0].shed


def test_jobs_that_are_alike_are_said_once(queue: LocalQueue) -> None:
    """Thousands of them, more than are checked at a time, would be lost, or would get each other's arguments."""
    texts = [f'{{"n":{number}}}' for number in range(5_000)]
    placed = queue.request(EnqueueAlike(JobSpec("k", '{"n":"of none"}', queue="q", priority=3, tags=["t"]), texts))
    assert [one.id for one in placed] == list(range(placed[0].id, placed[0].id + 5_000))
    for number in (0, 1_999, 2_000, 4_999):
        view = queue.request(GetJob(placed[number].id))
        assert (view.args, view.queue, view.priority, view.tags) == (texts[number], "q", 3, '["t"]')
    assert queue.request(EnqueueAlike(JobSpec("k"), [])) == []
    with pytest.raises(InvalidOption, match="payloads"):
        queue.request(EnqueueAlike(JobSpec("k", blob=Blob(1, "00", path="/a")), ["{}", "{}"]))
    with pytest.raises(InvalidOption, match="10001 jobs in one request"):
        queue.request(EnqueueAlike(JobSpec("k"), ["{}"] * 10_001))


def test_limits_are_listed_with_and_without_jobs(queue: LocalQueue) -> None:
    """`perdure queue list` would not show a limit before it is reached."""
    put(queue, "r", 3)
    put(queue, "free")
    shown = [(view.name, view.max_depth, view.when_full, view.pressure) for view in queue.request(ListQueues())]
    assert shown == [("b", 3, "block", 0.0), ("free", 0, "", 0.0), ("r", 3, "reject", 1.0), ("s", 3, "shed", 0.0)]
