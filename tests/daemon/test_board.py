"""The breaker board, driven without clocks and processes."""

from __future__ import annotations

import pytest

from perdure.daemon.board import Board
from perdure.errors import UnknownDependency
from perdure.store.models import SavedBreaker
from perdure.wire.data import BreakerEvent
from perdure.wire.dependencies import BreakerState, Policy
from perdure.wire.work import Observed

MS = 1_000_000
WALL = 1_700_000_000_000
POLICY = Policy(
    timeout_ms=300,
    window_ms=10_000,
    minimum_volume=10,
    break_ms=1_000,
    break_cap_ms=5_000,
    probe_deadline_ms=500,
    slow_after_ms=2_000,
)


class Desk:
    """A board with a time of its own."""

    def __init__(self, *saved: SavedBreaker, wall_ms: int = WALL, **policies: Policy) -> None:
        self.ms = 1_000_000
        self.wall_ms = wall_ms - self.ms
        self.board = Board(policies or {"pg": POLICY, "neo4j": POLICY}, saved, wall_ms, self.ms * MS)

    @property
    def now(self) -> tuple[int, int]:
        return self.wall_ms + self.ms, self.ms * MS

    def see(self, name: str = "pg", **counts: int) -> None:
        error = "ConnectionRefusedError: nobody there" if counts.get("failed") else None
        self.board.observed(Observed(name, error=error, **counts), *self.now)

    def wait(self, ms: int) -> None:
        """Time passes; the board is woken when it asked for it, as the supervisor does."""
        end = self.ms + ms
        while (at := self.board.next_event_ns()) is not None and at <= end * MS:
            self.ms = max(self.ms, -(-at // MS))
            self.board.tick(*self.now)
        self.ms = end
        self.board.tick(*self.now)

    def open(self, name: str = "pg") -> None:
        """Ten calls fail."""
        self.see(name, failed=10)
        assert self.board.state(name).state == "open"

    def probe(self, job_id: int, name: str = "pg") -> None:
        assert self.board.assign_probe(name, job_id, self.ms * MS)

    def events(self) -> list[BreakerEvent]:
        return self.board.take_changes()[1]


def test_it_opens_when_too_many_calls_fail() -> None:
    """Jobs would go on failing against a database that is down, or be parked because of one hiccup."""
    desk = Desk()
    desk.see(failed=4, ok=5)
    assert desk.board.is_closed("pg"), "too few calls to judge"
    desk.see(failed=1)
    assert desk.board.state("pg") == BreakerState("pg", "open", (desk.ms + 1_000) * MS)
    assert desk.board.is_closed("neo4j")
    (event,) = desk.events()
    reason = "5 of 10 calls failed in the last 10s; the last one: ConnectionRefusedError: nobody there"
    assert event == BreakerEvent("pg", desk.now[0], "closed", "open", reason)


def test_it_stays_closed_while_most_calls_end_well() -> None:
    """A few bad statements among many good ones would cut everybody off."""
    desk = Desk()
    for _ in range(100):
        desk.see(ok=6, failed=4)
        desk.wait(100)
    assert desk.board.is_closed("pg")
    assert desk.events() == []


def test_failures_of_long_ago_do_not_count() -> None:
    """Nine failures a day would open the breaker on the second day."""
    desk = Desk()
    for _ in range(5):
        desk.see(failed=9)
        desk.wait(10_001)
    assert desk.board.is_closed("pg")


def test_it_opens_when_calls_are_slow() -> None:
    """A database that answers in a minute is as good as down, and holds every slot."""
    desk = Desk()
    desk.see(ok=10, slow=7)
    assert desk.board.is_closed("pg")
    desk.see(ok=10, slow=9)
    assert desk.board.state("pg").state == "open"
    assert desk.events()[0].reason == "16 of 20 calls took longer than 2s in the last 10s"


def test_after_the_break_one_job_may_call() -> None:
    """All the jobs that wait would be the first to see whether it is back."""
    desk = Desk()
    desk.open()
    desk.wait(999)
    assert (desk.board.state("pg").state, desk.board.wants_probe()) == ("open", [])
    desk.wait(1)
    assert (desk.board.state("pg").state, desk.board.wants_probe()) == ("half_open", ["pg"])
    assert desk.board.assign_probe("pg", 7, desk.ms * MS)
    assert not desk.board.assign_probe("pg", 8, desk.ms * MS)
    assert desk.board.state("pg") == BreakerState("pg", "half_open", 0, 7)
    assert desk.board.wants_probe() == []
    assert [desk.board.blocks(["neo4j", "pg"], job_id) for job_id in (7, 8, 0)] == [[], ["pg"], ["pg"]]
    assert desk.board.blocks(["neo4j"], 8) == []
    desk.see(ok=1, probe_job=7)
    assert desk.board.is_closed("pg")
    assert desk.board.blocks(["pg"], 8) == []
    saved, events, states = desk.board.take_changes()
    assert [(event.was, event.now) for event in events] == [
        ("closed", "open"), ("open", "half_open"), ("half_open", "closed"),
    ]  # fmt: skip
    assert events[-1].reason == "the probe, job 7, ended well"
    assert [(one.name, one.state, one.until) for one in saved] == [("pg", "closed", None)]
    assert states == [BreakerState("pg", "closed")]
    assert desk.board.take_changes() == ([], [], [])


def test_only_the_probe_is_heard() -> None:
    """A call that began before the break, and comes in late, would close or open the breaker."""
    desk = Desk()
    desk.open()
    desk.see(ok=50)
    desk.see(ok=1, probe_job=7)
    desk.wait(1_000)
    desk.see(ok=50)
    desk.see(ok=1, probe_job=7)
    desk.probe(8)
    desk.see(failed=50)
    desk.see(ok=1, probe_job=7)
    desk.see(probe_job=8)
    assert desk.board.state("pg") == BreakerState("pg", "half_open", 0, 8)


def test_the_break_doubles_up_to_the_cap() -> None:
    """A database that is down for a day would be tried every second, or never again."""
    desk = Desk()
    desk.open()
    breaks = []
    for job_id in range(1, 6):
        (info, *_) = [info for info in desk.board.infos(*desk.now) if info.name == "pg"]
        assert info.until is not None
        breaks.append(info.until - desk.now[0])
        assert info.break_ms == breaks[-1]
        desk.wait(breaks[-1])
        desk.probe(job_id)
        desk.see(failed=1, probe_job=job_id)
    assert breaks == [1_000, 2_000, 4_000, 5_000, 5_000]
    assert desk.events()[-1].reason == "the probe, job 5, failed: ConnectionRefusedError: nobody there"


def test_a_window_of_health_makes_breaks_short_again() -> None:
    """After one bad night each hiccup would cost five minutes; or one that flaps would get short breaks for ever."""
    desk = Desk()
    desk.open()
    desk.wait(1_000)
    desk.probe(1)
    desk.see(failed=1, probe_job=1)
    for healthy_ms, expected in ((9_000, 2_000), (10_000, 1_000)):
        desk.wait(2_000)
        desk.probe(2)
        desk.see(ok=1, probe_job=2)
        desk.wait(healthy_ms)
        desk.see(failed=20)
        assert desk.board.next_event_ns() == (desk.ms + expected) * MS


def test_a_probe_that_calls_nothing_gives_way() -> None:
    """T21: a job that never calls would keep the breaker half open for ever."""
    desk = Desk()
    desk.open()
    desk.wait(1_000)
    desk.probe(1)
    desk.board.take_changes()
    desk.wait(499)
    assert desk.board.state("pg").probe_job == 1
    desk.wait(1)
    assert desk.board.state("pg").probe_job == 0
    assert desk.board.take_changes()[2] == [BreakerState("pg", "half_open")], "workers are told"
    assert desk.board.wants_probe() == [], "a call that it began at the last moment may still be under way"
    desk.wait(300)
    assert desk.board.wants_probe() == ["pg"]
    desk.probe(2)
    desk.see(ok=1, probe_job=1)
    assert not desk.board.is_closed("pg")


def test_a_late_verdict_counts_until_somebody_else_may_probe() -> None:
    """A probe that takes long would be thrown away, and its success with it."""
    desk = Desk()
    desk.open()
    desk.wait(1_000)
    desk.probe(1)
    desk.wait(700)
    desk.see(ok=1, probe_job=1)
    assert desk.board.is_closed("pg")


@pytest.mark.parametrize("waited_ms", [0, 600])
def test_a_probe_that_ends_without_a_verdict_gives_way(waited_ms: int) -> None:
    """A probe that was cancelled, or whose worker died, would leave nobody to try."""
    desk = Desk()
    desk.open()
    desk.wait(1_000)
    desk.probe(1)
    desk.wait(waited_ms)
    desk.board.probe_ended(2)
    desk.board.probe_ended(0)
    assert desk.board.wants_probe() == []
    desk.board.take_changes()
    desk.board.probe_ended(1)
    assert desk.board.wants_probe() == ["pg"]
    assert desk.board.take_changes()[2] == [BreakerState("pg", "half_open")]


def test_a_job_can_be_the_probe_of_two() -> None:
    """A job that needs two half-open breakers would be kept by each for the sake of the other."""
    desk = Desk()
    desk.open("pg")
    desk.open("neo4j")
    desk.wait(1_000)
    desk.probe(1, "pg")
    assert desk.board.blocks(["pg", "neo4j"], 1) == ["neo4j"]
    desk.probe(1, "neo4j")
    assert desk.board.blocks(["pg", "neo4j"], 1) == []
    desk.board.probe_ended(1)
    assert sorted(desk.board.wants_probe()) == ["neo4j", "pg"]


def test_opened_by_hand_it_waits_for_a_hand() -> None:
    """A database under maintenance would get a probe in the middle of it."""
    desk = Desk()
    desk.board.open("pg", "ann", "upgrade", None, *desk.now)
    desk.wait(10**9)
    assert desk.board.state("pg") == BreakerState("pg", "open")
    (info, *_) = [info for info in desk.board.infos(*desk.now) if info.name == "pg"]
    assert (info.state, info.until, info.reason, info.changed_by) == ("open", None, "upgrade", "ann")
    desk.board.close("pg", "bob", "", *desk.now)
    assert desk.board.is_closed("pg")
    assert [(event.now, event.reason, event.who) for event in desk.events()] == [
        ("open", "upgrade", "ann"), ("closed", "closed by hand", "bob"),
    ]  # fmt: skip
    desk.board.close("pg", "bob", "", *desk.now)
    assert desk.events() == [], "it was closed already"


def test_opened_by_hand_for_a_time() -> None:
    """`--for 1h` would end with the cap of the breaker's own breaks, or never."""
    desk = Desk()
    desk.open()
    desk.board.open("pg", "ann", "", 3_600_000, *desk.now)
    desk.wait(3_599_999)
    assert desk.board.state("pg").state == "open"
    desk.wait(1)
    assert desk.board.wants_probe() == ["pg"]
    desk.probe(1)
    desk.see(failed=1, probe_job=1)
    assert desk.board.next_event_ns() == (desk.ms + 1_000) * MS, "its own breaks begin anew"


def test_a_name_that_is_not_configured_is_refused() -> None:
    """A typing error would open a breaker that nothing asks."""
    desk = Desk()
    for act in (
        lambda: desk.board.open("pq", "ann", "", None, *desk.now),
        lambda: desk.board.close("pq", "ann", "", *desk.now),
    ):
        with pytest.raises(UnknownDependency, match=r"no dependency pq \(it has: neo4j, pg\).*\[dependencies.pq\]"):
            act()
    desk.see("pq", failed=100)
    assert desk.board.state("pq") == BreakerState("pq", "closed")
    assert desk.board.is_closed("pq")
    assert not desk.board.in_trouble("pq", desk.ms * MS)
    assert not desk.board.assign_probe("pq", 1, desk.ms * MS)


def test_trouble_is_seen_before_the_breaker_opens() -> None:
    """The first jobs that meet an outage would each pay an attempt for it."""
    desk = Desk()
    assert desk.board.in_trouble("pg", desk.ms * MS), "nothing shows that it is well"
    desk.see(failed=1)
    assert desk.board.in_trouble("pg", desk.ms * MS), "nothing ended well"
    desk.see(ok=9)
    assert desk.board.in_trouble("pg", desk.ms * MS), "a tenth failed"
    desk.see(ok=1)
    assert not desk.board.in_trouble("pg", desk.ms * MS), "one of eleven: look at the job"
    desk.see(failed=20)
    assert desk.board.in_trouble("pg", desk.ms * MS), "it is open"


def test_health_begins_anew_when_it_closes() -> None:
    """The failures of before the break would open it again at once, or charge the jobs of after it."""
    desk = Desk()
    desk.open()
    desk.wait(1_000)
    desk.probe(1)
    desk.see(ok=1, probe_job=1)
    assert not desk.board.in_trouble("pg", desk.ms * MS)
    desk.see(failed=8)
    assert desk.board.is_closed("pg")


def test_a_long_error_is_cut() -> None:
    """One driver's novel would fill the log, the terminal and every event."""
    desk = Desk()
    error = "PoolError: first line\n" + "x" * 10_000
    desk.board.observed(Observed("pg", failed=10, error=error), *desk.now)
    (event,) = desk.events()
    assert len(event.reason) < 500
    assert "PoolError: first line xxx" in event.reason
    assert event.reason.endswith("…")


# --- restarts


def test_a_restart_goes_on_with_the_break() -> None:
    """A restart would send all jobs at a database that is down, or begin the break anew with each restart."""
    desk = Desk()
    desk.open("pg")
    desk.board.open("neo4j", "ann", "upgrade", None, *desk.now)
    saved, _, _ = desk.board.take_changes()
    again = Desk(*saved, wall_ms=desk.now[0] + 400)
    assert again.board.take_changes() == ([], [], [])
    assert again.board.states() == [BreakerState("pg", "open", (again.ms + 600) * MS), BreakerState("neo4j", "open")]
    again.wait(600)
    assert again.board.wants_probe() == ["pg"]
    saved, _, _ = again.board.take_changes()
    third = Desk(*saved, wall_ms=again.now[0])
    assert third.board.state("pg").state == "open"
    third.wait(0)
    assert third.board.wants_probe() == ["pg"], "half open: its break is over"
    third.probe(1)
    third.see(failed=1, probe_job=1)
    assert third.board.next_event_ns() == (third.ms + 2_000) * MS, "the break goes on growing"


@pytest.mark.parametrize(("shift_ms", "left_ms"), [(-(10**10), 1_000), (10**10, 0)])
def test_a_clock_that_was_set_wrong_makes_no_break_longer(shift_ms: int, left_ms: int) -> None:
    """T07: after a start with the clock of 1970 the breaker would be open for fifty years."""
    desk = Desk()
    desk.open()
    saved, _, _ = desk.board.take_changes()
    again = Desk(*saved, wall_ms=WALL + shift_ms)
    assert again.board.state("pg").state == "open"
    assert again.board.next_event_ns() == (again.ms + left_ms) * MS


def test_a_break_by_hand_outlasts_a_restart_whole() -> None:
    """`--for 1h` would be cut to the cap of the breaker's own breaks."""
    desk = Desk()
    desk.board.open("pg", "ann", "", 3_600_000, *desk.now)
    saved, _, _ = desk.board.take_changes()
    again = Desk(*saved, wall_ms=desk.now[0] + 600_000)
    assert again.board.next_event_ns() == (again.ms + 3_000_000) * MS


def test_a_dependency_that_is_gone_is_closed() -> None:
    """Taken out of the configuration and put back a year later, it would still be open by hand."""
    desk = Desk()
    desk.board.open("neo4j", "ann", "", None, *desk.now)
    saved, _, _ = desk.board.take_changes()
    again = Desk(*saved, pg=POLICY)
    assert again.board.is_closed("neo4j")
    assert again.board.states() == []
    saved, events, states = again.board.take_changes()
    assert [(one.name, one.state, one.until) for one in saved] == [("neo4j", "closed", None)]
    assert [(event.name, event.was, event.now) for event in events] == [("neo4j", "open", "closed")]
    assert states == []
    assert Desk(*saved, pg=POLICY).board.take_changes() == ([], [], [])


def test_a_smaller_cap_holds_for_breaks_of_before() -> None:
    """Who shortens the cap, because the breaks are too long, would wait for the old one."""
    saved = SavedBreaker("pg", "open", WALL, "", "down", WALL + 300_000, 300_000)
    desk = Desk(saved)
    assert desk.board.next_event_ns() == (desk.ms + 5_000) * MS
