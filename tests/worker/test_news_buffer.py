"""What waits to be told: bounded, fair, in order, and everything that is left out is counted."""

from __future__ import annotations

from collections import Counter
from threading import Lock, Thread
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from perdure.daemon.worker.news_buffer import LINES_ROOM, MESSAGE, OWN_ROOM, ROOM, NewsBuffer
from perdure.wire.streams import Emitted, JobSkipped, LogText, Progress, WorkerEntry

LINE = b"x" * 51 + b"\n"


def drain(buffer: NewsBuffer) -> tuple[list[WorkerEntry], list[JobSkipped]]:
    """All that is in there."""
    entries: list[WorkerEntry] = []
    skipped: list[JobSkipped] = []
    while not buffer.empty:
        some, counted = buffer.take()
        entries += some
        skipped += counted
    return entries, skipped


def lines_of(entries: list[WorkerEntry], job_id: int) -> str:
    """The log text of one job."""
    return "".join(entry.text for entry in entries if isinstance(entry, LogText) and entry.id == job_id)


def test_only_the_newest_progress_is_told() -> None:
    """A loop that calls ctx.progress a million times would send a million messages."""
    buffer = NewsBuffer()
    for done in range(1_000):
        buffer.set_progress(Progress(1, done))
    assert buffer.take() == ([Progress(1, 999)], [])
    assert buffer.empty


def test_lines_that_follow_each_other_travel_together() -> None:
    """Each line would be a message to every subscriber."""
    buffer = NewsBuffer()
    for text in (b"one\n", b"two\n"):
        buffer.add_lines(1, text)
    buffer.add_value(Emitted(1, "7", 1))
    buffer.add_lines(1, b"three\n")
    expected = [LogText(1, "one\ntwo\n", 2), Emitted(1, "7", 1), LogText(1, "three\n", 1)]
    assert buffer.take() == (expected, [])


def test_lines_go_first_then_values_and_all_is_counted() -> None:
    """A flood would take all memory, or values would be lost for log lines, or nobody would know."""
    buffer = NewsBuffer()
    for number in range(20_000):
        buffer.add_lines(1, LINE)
        if number % 2:
            buffer.add_value(Emitted(1, "1", number))
    assert buffer.cost <= ROOM
    entries, skipped = drain(buffer)
    values = sum(isinstance(entry, Emitted) for entry in entries)
    lines = lines_of(entries, 1).count("\n")
    assert 0 < lines * 100 <= LINES_ROOM
    assert lines + sum(one.lines for one in skipped) == 20_000
    assert values + sum(one.values for one in skipped) == 10_000
    # Values were still taken when lines were not any more.
    last_line = max(index for index, entry in enumerate(entries) if isinstance(entry, LogText))
    assert sum(isinstance(entry, Emitted) for entry in entries[last_line:]) * 201 > (ROOM - LINES_ROOM) * 0.9
    assert (buffer.cost, buffer.story_cost) == (0, 0)


def test_a_quiet_job_is_heard_beside_a_loud_one() -> None:
    """One job in a loop would silence all others of its worker."""
    buffer = NewsBuffer()
    for _ in range(20_000):
        buffer.add_lines(1, LINE)
    for _ in range(OWN_ROOM // 100):
        buffer.add_lines(2, LINE)
    for number in range(OWN_ROOM // 201):
        buffer.add_value(Emitted(3, "1", number))
    assert buffer.cost <= ROOM + 2 * OWN_ROOM
    entries, skipped = drain(buffer)
    assert lines_of(entries, 2).count("\n") == OWN_ROOM // 100
    assert sum(isinstance(entry, Emitted) for entry in entries) == OWN_ROOM // 201
    assert [one.id for one in skipped] == [1]


def test_jobs_take_turns() -> None:
    """What others have to say would wait until a loud job has said everything."""
    buffer = NewsBuffer()
    for _ in range(1_500):
        buffer.add_lines(1, LINE)
    buffer.add_lines(2, b"late\n")
    buffer.take()
    entries, _ = buffer.take()
    assert isinstance(entries[0], LogText)
    assert entries[0].text == "late\n"


def test_a_message_is_bounded() -> None:
    """A message above the packet's size would cost a file, and the supervisor's loop too much at once."""
    buffer = NewsBuffer()
    for number in range(3_000):
        buffer.add_lines(number % 3, LINE)
        buffer.add_value(Emitted(number % 3, "[1,2,3]", number))
    while not buffer.empty:
        before = buffer.cost
        buffer.take()
        assert before - buffer.cost <= MESSAGE
    buffer.add_value(Emitted(1, "1", 1))
    buffer.add_value(Emitted(1, "x" * MESSAGE, 2))
    assert [len(buffer.take()[0]), len(buffer.take()[0]), buffer.empty] == [1, 1, True]


def test_what_ended_jobs_have_told_leaves_first() -> None:
    """The outcome of a job would overtake its last lines, and its subscribers would not hear them."""
    buffer = NewsBuffer()
    for job_id in (1, 2):
        buffer.add_lines(job_id, b"line\n")
        buffer.set_progress(Progress(job_id, 1.0))
    assert not buffer.urgent
    buffer.end(2)
    buffer.end(3)
    assert buffer.urgent
    assert buffer.take(ended=True) == ([LogText(2, "line\n", 1), Progress(2, 1.0)], [])
    assert not buffer.urgent
    assert buffer.take()[0] == [LogText(1, "line\n", 1), Progress(1, 1.0)]


def test_what_cannot_leave_in_time_is_counted() -> None:
    """Lines would be missing in silence, or come after the outcome."""
    buffer = NewsBuffer()
    buffer.add_story(2, [LogText(2, "old\n", 1, True), Emitted(2, "0", 1, True)])
    buffer.add_lines(2, b"a\nb\n")
    buffer.add_value(Emitted(2, "1", 1))
    buffer.add_lines(1, b"other\n")
    buffer.set_progress(Progress(2, 5.0))
    buffer.end(2)
    buffer.leave_out_ended()
    assert buffer.take(ended=True) == ([Progress(2, 5.0)], [JobSkipped(2, 3, 2)])
    assert drain(buffer) == ([LogText(1, "other\n", 1)], [])
    assert (buffer.cost, buffer.story_cost) == (0, 0)


def test_a_message_that_could_not_be_sent_is_counted_but_a_story_comes_again() -> None:
    """A subscriber would wait for the end of a story for ever."""
    buffer = NewsBuffer()
    story: list[LogText | Emitted] = [LogText(1, "old\n", 1, True), LogText(1, "", 0, True)]
    buffer.add_lines(1, b"before\n")
    buffer.add_story(1, story)
    buffer.add_lines(1, b"after\n")
    buffer.set_progress(Progress(1, 1.0))
    entries, skipped = buffer.take()
    buffer.set_progress(Progress(1, 2.0))
    buffer.lost(entries, skipped)
    assert drain(buffer) == ([*story, Progress(1, 2.0)], [JobSkipped(1, 2, 0)])


def test_what_is_refused_while_another_thread_sends_is_counted() -> None:
    """Refusing takes no lock, for speed: a count that is read meanwhile would be lost, or told twice."""
    buffer, rounds, lock = NewsBuffer(), 20_000, Lock()

    def flood() -> None:
        for number in range(rounds):
            if not buffer.refuse_lines(1, LINE):
                with lock:
                    buffer.add_lines(1, LINE)
            if not buffer.refuse_value(1, 1):
                with lock:
                    buffer.add_value(Emitted(1, "1", number))
        with lock:
            buffer.end(1)

    flooding = Thread(target=flood)
    flooding.start()
    told: list[tuple[list[WorkerEntry], list[JobSkipped]]] = []
    while flooding.is_alive():
        with lock:
            told.append(buffer.take())
        flooding.join(0.001)
    told.append(drain(buffer))
    entries, skipped = [one for some, _ in told for one in some], [one for _, some in told for one in some]
    assert sum(one.lines for one in skipped) > 0
    assert lines_of(entries, 1).count("\n") + sum(one.lines for one in skipped) == rounds
    assert sum(isinstance(one, Emitted) for one in entries) + sum(one.values for one in skipped) == rounds
    assert (buffer.cost, buffer.urgent, buffer.empty) == (0, False, True)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["lines", "lines asked", "value", "value asked", "story", "take", "end", "take ended", "leave out", "lost"]
        ),
        st.integers(1, 3),
        st.integers(1, 40_000),
    ),
    max_size=60,
)


@given(STEPS)
def test_nothing_is_lost_uncounted_or_out_of_order(steps: list[tuple[str, int, int]]) -> None:
    """Counts that subscribers are shown would be wrong, or the room would shrink with time."""
    buffer = NewsBuffer()
    offered: Counter[tuple[int, str]] = Counter()
    came: Counter[tuple[int, str]] = Counter()
    last: dict[int, int] = {}

    def note(taken: tuple[list[Any], list[JobSkipped]]) -> None:
        for entry in taken[0]:
            if isinstance(entry, LogText):
                came[entry.id, "lines"] += entry.lines
            else:
                assert entry.number > last.get(entry.id, 0)
                last[entry.id] = entry.number
                came[entry.id, "values"] += 1
        for one in taken[1]:
            came[one.id, "lines"] += one.lines
            came[one.id, "values"] += one.values

    for number, (what, job_id, size) in enumerate(steps, 1):
        match what:
            case "lines":
                buffer.add_lines(job_id, b"y" * size + b"\n")
                offered[job_id, "lines"] += 1
            case "value":
                buffer.add_value(Emitted(job_id, "v" * size, number))
                offered[job_id, "values"] += 1
            case "lines asked":
                if not buffer.refuse_lines(job_id, b"y" * size + b"\n"):
                    buffer.add_lines(job_id, b"y" * size + b"\n")
                offered[job_id, "lines"] += 1
            case "value asked":
                if not buffer.refuse_value(job_id, size):
                    buffer.add_value(Emitted(job_id, "v" * size, number))
                offered[job_id, "values"] += 1
            case "story":
                buffer.add_story(job_id, [LogText(job_id, "z" * size, 1, True)])
                offered[job_id, "lines"] += 1
            case "end":
                buffer.end(job_id)
            case "leave out":
                buffer.leave_out_ended()
            case "lost":
                buffer.lost(*buffer.take())
            case _:
                note(buffer.take(ended=what == "take ended"))
        assert buffer.cost <= ROOM + 3 * OWN_ROOM
    while not buffer.empty:
        note(buffer.take())
    assert came == offered
    assert (buffer.cost, buffer.story_cost, buffer.urgent) == (0, 0, False)
