"""What waits for one subscriber: bounded, counted, in order, and the last word about each job arrives."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.daemon.subscriber import INTERVAL_SECONDS, MESSAGE_BYTES, Bounds, Buffer, entry_bytes
from perdure.wire.streams import Emitted, Entry, LogText, Progress, Skipped, StateChange

IDS = st.integers(1, 4)
TEXTS = st.sampled_from(["", "ä" * 10, "x" * 100, "y" * 900])
ENTRIES = st.one_of(
    st.builds(LogText, IDS, TEXTS, st.integers(1, 9)),
    st.builds(Emitted, IDS, TEXTS, st.just(1)),
    st.builds(Progress, IDS, st.just(1.0)),
    st.builds(
        StateChange,
        IDS,
        st.sampled_from(["running", "retryable", "completed"]),
        st.just(1),
        error=st.sampled_from([None, "E: " + "e" * 300]),
        result=st.sampled_from([None, "1", '"' + "r" * 500 + '"']),
    ),
)
STEPS = st.lists(st.one_of(ENTRIES, st.sampled_from(["take", "grant", "wait"])), max_size=120)
#: Four bare states fit in, and not much more.
NARROW = Bounds(bytes=2_000, entries=12)


@dataclass
class Heard:
    """What went in and what came out."""

    offered: list[Entry] = field(default_factory=list)
    got: list[Entry] = field(default_factory=list)
    skipped: Skipped = field(default_factory=Skipped)

    def take(self, buffer: Buffer, now: float) -> None:
        entries, skipped = buffer.take(now)
        self.got += entries
        self.skipped.states += skipped.states
        self.skipped.lines += skipped.lines
        self.skipped.values += skipped.values

    def count(self, entries: list[Entry]) -> tuple[int, int, int]:
        """States, lines and values."""
        return (
            sum(isinstance(one, StateChange) for one in entries),
            sum(one.lines for one in entries if isinstance(one, LogText)),
            sum(isinstance(one, Emitted) for one in entries),
        )


def same(left: Entry, right: Entry) -> bool:
    """Whether it is that entry, though perhaps without its result and error."""
    if isinstance(left, StateChange) and isinstance(right, StateChange):
        return (left.id, left.state) == (right.id, right.state)
    return left is right


def last_states(entries: list[Entry]) -> dict[int, str]:
    return {one.id: one.state for one in entries if isinstance(one, StateChange)}


@settings(max_examples=300, deadline=None)
@given(STEPS, st.booleans())
def test_bounded_counted_in_order_and_the_last_state_arrives(steps: list[Entry | str], keep_last: bool) -> None:
    """A slow reader would cost memory without end, would be lied to about what it missed, or never see a job end."""
    buffer, heard, now = Buffer(NARROW, 2, keep_last=keep_last), Heard(), 0.0
    for step in steps:
        if step == "grant":
            buffer.grant(1)
        elif step == "wait":
            now += 0.05
        elif step == "take":
            due = buffer.due_at(now)
            if due is not None and due <= now:
                heard.take(buffer, now)
        elif not isinstance(step, str):
            heard.offered.append(step)
            buffer.offer(step, entry_bytes(step))
        assert buffer.bytes <= NARROW.bytes
        assert len(buffer) <= NARROW.entries
        assert buffer.credit >= 0
    while not buffer.empty:
        heard.take(buffer, now)
    assert (buffer.bytes, len(buffer)) == (0, 0)

    left_out = (heard.skipped.states, heard.skipped.lines, heard.skipped.values)
    assert tuple(map(sum, zip(heard.count(heard.got), left_out, strict=True))) == heard.count(heard.offered)
    rest = iter(heard.offered)
    assert all(any(same(offered, one) for offered in rest) for one in heard.got), "in another order"
    assert last_states(heard.got) == last_states(heard.offered)


def test_more_jobs_than_there_is_room_for() -> None:
    """Who follows everything and does not read would make the daemon keep a state of each job there ever was."""
    buffer = Buffer(NARROW, 1, keep_last=False)
    for job_id in range(100):
        buffer.offer(StateChange(job_id, "completed", 1), 96)
        assert len(buffer) <= NARROW.entries
        assert buffer.bytes <= NARROW.bytes
    entries, skipped = buffer.take(0.0)
    assert [one.id for one in entries] == list(range(100 - len(entries), 100))
    assert skipped == Skipped(states=100 - len(entries))


def test_log_text_goes_before_values_and_values_before_states() -> None:
    """A flood of lines must not cost the one value that matters, nor the state of another job."""
    buffer = Buffer(NARROW, 1, keep_last=True)
    value, state = Emitted(1, "7", 1), StateChange(2, "running", 1)
    flood = [LogText(3, "x" * 400, 2) for _ in range(20)]
    for entry in [value, state, *flood]:
        assert isinstance(entry, Entry)
        buffer.offer(entry, entry_bytes(entry))
    entries, skipped = buffer.take(0.0)
    assert entries[:2] == [value, state]
    assert skipped.lines == 2 * (20 - (len(entries) - 2)) > 0
    assert (skipped.values, skipped.states) == (0, 0)


def test_one_huge_value_does_not_push_the_others_out() -> None:
    """What is too large by itself is left out by itself."""
    buffer = Buffer(NARROW, 1, keep_last=True)
    for entry in (LogText(1, "a line\n", 1), Emitted(1, "9" * 5_000, 1), LogText(1, "z" * 5_000, 1)):
        buffer.offer(entry, entry_bytes(entry))
    assert buffer.take(0.0) == ([LogText(1, "a line\n", 1)], Skipped(lines=1, values=1))


def test_of_progress_only_the_newest_waits() -> None:
    """A progress bar that lags behind by a thousand steps."""
    buffer = Buffer(Bounds(), 1, keep_last=True)
    for done in range(1_000):
        buffer.offer(Progress(1, done), 48)
    assert buffer.take(0.0) == ([Progress(1, 999)], Skipped())


def test_a_message_each_interval_or_when_it_is_full() -> None:
    """A message a line would cost a chatty job's followers a wake-up each, and the daemon a packet each."""
    buffer = Buffer(Bounds(), 3, keep_last=True)
    assert buffer.due_at(0.0) is None, "there is nothing to tell"
    buffer.offer(Progress(1, 1), 48)
    assert buffer.due_at(0.0) == 0.0, "the first one need not wait"
    buffer.take(0.0)
    buffer.offer(Progress(1, 2), 48)
    assert buffer.due_at(0.01) == INTERVAL_SECONDS
    text = LogText(1, "x" * (MESSAGE_BYTES // 2), 1)
    for _ in range(3):
        buffer.offer(text, entry_bytes(text))
    assert buffer.due_at(0.01) == 0.01, "this one is full"
    assert len(buffer.take(0.01)[0]) == 2, "progress and a text, the second text is too much"
    assert buffer.due_at(0.02) == 0.02, "and so is the next"
    buffer.take(0.02)
    assert buffer.due_at(9.0) is None, "no credit"
    buffer.grant(1)
    assert buffer.due_at(9.0) == 9.0


def test_the_last_message_waits_for_credit_and_for_nothing_else() -> None:
    """A subscription would end without saying so, or before everything was told."""
    buffer = Buffer(Bounds(), 0, keep_last=True)
    buffer.ending = True
    assert buffer.due_at(5.0) is None
    buffer.grant(-7)
    assert buffer.due_at(5.0) is None, "a credit cannot be taken back"
    buffer.grant(1)
    assert buffer.due_at(5.0) == 5.0
    assert buffer.take(5.0) == ([], Skipped())
