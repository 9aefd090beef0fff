"""A worker's view of the breakers: who may call, and what the supervisor gets to know."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.adapters.view import BreakerView, describe
from perdure.clock import ManualClock
from perdure.errors import BreakerOpen
from perdure.wire.dependencies import ANY_JOB, BreakerState
from perdure.wire.work import Observed


class Board:
    """The supervisor's side."""

    def __init__(self) -> None:
        self.clock = ManualClock(monotonic_ns=5_000_000_000)
        self.told: list[Observed] = []
        self.view = BreakerView(self.told.append, self.clock)

    def say(self, word: Any, probe_job: int = 0, until_ns: int = 0, name: str = "db") -> None:
        """Broadcast one state."""
        self.view.update([BreakerState(name, word, until_ns, probe_job)])

    def may(self, job_id: int, name: str = "db") -> str:
        """What `admit` says: "yes", "probe" or "no"."""
        try:
            return "probe" if self.view.admit(name, job_id) else "yes"
        except BreakerOpen:
            return "no"


@pytest.fixture
def board() -> Board:
    """A fresh board."""
    return Board()


def test_what_nothing_was_said_of_is_closed(board: Board) -> None:
    """A worker could not call anything before the first broadcast."""
    assert board.view.state("db") == BreakerState("db", "closed")
    assert board.may(7) == board.may(0) == "yes"


def test_open_refuses_and_says_for_how_long(board: Board) -> None:
    """Whoever reads the error would not know when to come back."""
    board.say("open", until_ns=7_500_000_000)
    for seconds in (2.5, 0.5, 0.0):
        with pytest.raises(BreakerOpen) as caught:
            board.view.admit("db", 7)
        assert (caught.value.name, caught.value.seconds_left) == ("db", seconds)
        board.clock.advance(2_000)
    board.say("open")
    with pytest.raises(BreakerOpen) as caught:
        board.view.admit("db", 7)
    assert caught.value.seconds_left is None, "opened by hand: nobody knows"
    assert board.may(7, "other") == "yes"
    board.say("closed")
    assert board.may(7) == "yes"


def test_a_broadcast_leaves_others_alone(board: Board) -> None:
    """News of one breaker would close all others."""
    board.say("open", name="db")
    board.say("open", name="other")
    board.say("closed", name="other")
    assert board.may(7) == "no"


def test_t21_half_open_admits_one_call_of_one_job(board: Board) -> None:
    """The crowd would be admitted with the probe."""
    board.say("half_open")
    assert board.may(7) == board.may(0) == "no", "no probe has been picked"
    board.say("half_open", probe_job=7)
    assert [board.may(job_id) for job_id in (8, 0, 7, 7, 8, 7)] == ["no", "no", "probe", "no", "no", "no"]


def test_a_probes_verdict_is_told_at_once(board: Board) -> None:
    """Everybody would wait until the next flush, or the supervisor would not know that it was the probe."""
    board.say("half_open", probe_job=7)
    assert board.may(7) == "probe"
    board.view.record("db", True, probe_job=7)
    assert board.told == [Observed("db", ok=1, probe_job=7)]
    assert board.may(7) == "yes", "its job goes on"
    assert board.may(8) == "no", "the others wait for the supervisor's word"


def test_after_a_failed_probe_nobody_calls(board: Board) -> None:
    """Until the supervisor's answer comes, the job would go on hammering."""
    board.say("half_open", probe_job=7)
    assert board.may(7) == "probe"
    board.view.record("db", False, slow=True, probe_job=7, error=ConnectionError("refused"))
    assert board.told == [Observed("db", failed=1, slow=1, probe_job=7, error="ConnectionError: refused")]
    assert board.may(7) == "no"
    board.say("open")
    board.say("half_open", probe_job=7)
    assert board.may(7) == "probe", "the same job may be picked again"


def test_t21_an_abandoned_probe_leaves_room_for_the_next(board: Board) -> None:
    """One cancelled probe would be the last one for ever."""
    board.say("half_open", probe_job=7)
    assert board.may(7) == "probe"
    board.view.abandon("db", 7)
    assert board.told == []
    assert board.may(7) == "probe"
    board.say("half_open", probe_job=7)
    assert board.may(7) == "no", "the same news twice must not admit a second one"


def test_t21_a_probe_that_was_given_up_is_a_call_like_any_other(board: Board) -> None:
    """Its late verdict would pass for that of the job that probes now."""
    board.say("half_open", probe_job=7)
    assert board.may(7) == "probe"
    board.say("half_open", probe_job=8)
    assert board.may(7) == "no"
    assert board.may(8) == "probe"
    board.view.abandon("db", 7)
    board.view.record("db", True, probe_job=7)
    board.view.record("db", False, probe_job=7, error=OSError("late"))
    board.view.flush()
    assert [one.probe_job for one in board.told] == [0, 0]
    assert board.may(8) == "no", "its own probe is still in flight"
    board.view.record("db", True, probe_job=8)
    assert board.told[-1] == Observed("db", ok=1, probe_job=8)


@pytest.mark.parametrize("probe", [7, ANY_JOB])
def test_t21_a_verdict_that_comes_after_the_deadline_counts_until_another_job_probes(board: Board, probe: int) -> None:
    """Where calls take longer than probes have time to begin, no verdict would ever count: half open for ever."""
    board.say("half_open", probe_job=probe)
    assert board.may(7) == "probe"
    board.say("half_open")
    assert board.may(7) == "no"
    board.view.record("db", True, probe_job=7)
    assert board.told[-1] == Observed("db", ok=1, probe_job=probe)
    board.view.record("db", True, probe_job=7)
    assert board.told[-1] == Observed("db", ok=1)


def test_t21_the_probe_of_any_job_is_one_call_too(board: Board) -> None:
    """Where nobody is parked, all callers of this worker would be the probe; or one without a job would block it."""
    board.say("half_open", probe_job=ANY_JOB)
    assert [board.may(job_id) for job_id in (0, 7, 7, 8, 0)] == ["no", "probe", "no", "no", "no"]
    board.view.record("db", True, probe_job=7)
    assert board.told == [Observed("db", ok=1, probe_job=ANY_JOB)]
    assert board.may(8) == "yes"


def test_whoever_is_refused_while_no_probe_is_picked_is_told_of_once(board: Board) -> None:
    """A breaker that no parked job waits for would never be probed; or each refusal would cost a message."""
    board.say("half_open")
    assert [board.may(job_id) for job_id in (7, 8)] == ["no", "no"]
    assert board.told == [Observed("db")]


def test_good_calls_are_gathered(board: Board) -> None:
    """A message for each call would cost more than the call."""
    assert not board.view.pending
    for number in range(5):
        board.view.record("db", True, slow=number == 0)
    board.view.record("other", True)
    assert board.view.pending
    assert board.told == []
    board.view.flush()
    assert sorted(board.told, key=lambda one: one.name) == [Observed("db", ok=5, slow=1), Observed("other", ok=1)]
    assert not board.view.pending
    board.view.flush()
    assert len(board.told) == 2, "nothing is told twice"


def test_a_failure_takes_the_gathered_ones_along(board: Board) -> None:
    """The supervisor would see failures before the good calls that came earlier, and open too soon."""
    for _ in range(4):
        board.view.record("db", True)
    board.view.record("other", True)
    board.view.record("db", False, error=TimeoutError())
    assert board.told == [Observed("db", ok=4, failed=1, error="TimeoutError")]
    board.view.flush()
    assert board.told[1:] == [Observed("other", ok=1)]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans(), st.booleans(), st.booleans()), max_size=60))
def test_nothing_is_lost_or_counted_twice(calls: list[tuple[str, bool, bool, bool]]) -> None:
    """The window would be wrong, and with it every decision of the breaker."""
    board = Board()
    for name, ok, slow, flush in calls:
        board.view.record(name, ok, slow=slow)
        if flush:
            board.view.flush()
    board.view.flush()
    for name in "ab":
        mine = [call for call in calls if call[0] == name]
        told = [one for one in board.told if one.name == name]
        assert sum(one.ok for one in told) == sum(ok for _, ok, _, _ in mine)
        assert sum(one.failed for one in told) == sum(not ok for _, ok, _, _ in mine)
        assert sum(one.slow for one in told) == sum(slow for _, _, slow, _ in mine)


def test_an_errors_text_is_short_and_without_secrets() -> None:
    """A password would be shown by `perdure breaker list`; or an odd exception would break the guard."""

    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert describe(OSError("postgres://me:hunter2@db/x")) == "OSError: postgres://me:***@db/x"
    assert len(describe(OSError("x" * 10_000))) < 600
    assert describe(Odd()) == "Odd: its message cannot be shown"
    assert describe(KeyboardInterrupt()) == "KeyboardInterrupt"
