"""The breaker board in histories that nobody has thought of."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from perdure.daemon.board import Board
from perdure.store.models import SavedBreaker
from perdure.wire.data import BreakerEvent
from perdure.wire.dependencies import BreakerState, Policy
from perdure.wire.work import Observed

MS = 1_000_000
NAMES = ("a", "b")
POLICIES = {
    "a": Policy(timeout_ms=50, window_ms=100, minimum_volume=4, break_ms=100, break_cap_ms=400, probe_deadline_ms=80),
    "b": Policy(timeout_ms=50, window_ms=500, minimum_volume=2, break_ms=70, break_cap_ms=70, probe_deadline_ms=20),
}
DIAGRAM = {
    ("closed", "open"), ("open", "half_open"), ("half_open", "open"), ("half_open", "closed"), ("open", "closed"),
}  # fmt: skip
Names = st.sampled_from(NAMES)
Jobs = st.integers(1, 3)


class BoardMachine(RuleBasedStateMachine):
    """A supervisor that is late, asks twice and restarts; workers that obey what they were told last."""

    def __init__(self) -> None:
        super().__init__()
        self.ms = 0
        self.wall_ms = 1_700_000_000_000
        self.board = Board(POLICIES, [], *self.now)
        self.saved: dict[str, SavedBreaker] = {}
        self.told: dict[str, BreakerState] = {}
        self.calling: dict[str, dict[int, int]] = {name: {} for name in NAMES}  # job -> when its probe call ends, ms

    @property
    def now(self) -> tuple[int, int]:
        return self.wall_ms + self.ms, self.ms * MS

    def pass_on(self) -> None:
        """What the supervisor does after each event."""
        saved, events, states = self.board.take_changes()
        self.saved.update((one.name, one) for one in saved)
        self.told.update((state.name, state) for state in states)
        for event in events:
            self.check(event)
        for name in NAMES:
            now = self.board.state(name)
            assert self.told.get(name, BreakerState(name, "closed")) == now, "a change that workers were not told"
            if event_now := [event.now for event in events if event.name == name]:
                assert event_now[-1] == now.state == self.saved[name].state

    def check(self, event: BreakerEvent) -> None:
        by_hand_again = event.who and (event.was, event.now) == ("open", "open")
        assert (event.was, event.now) in DIAGRAM or by_hand_again
        assert event.reason

    @rule(name=Names, ok=st.integers(0, 4), failed=st.integers(0, 4), slow=st.integers(0, 4))
    def calls(self, name: str, ok: int, failed: int, slow: int) -> None:
        before = self.board.state(name)
        self.board.observed(Observed(name, ok, failed, slow, error="E: x" if failed else None), *self.now)
        assert before.state == "closed" or self.board.state(name) == before, "only the probe is heard"
        self.pass_on()

    @rule(ms=st.one_of(st.integers(0, 30), st.integers(0, 1_000)), wake=st.booleans())
    def wait(self, ms: int, wake: bool) -> None:
        self.ms += ms
        for calls in self.calling.values():
            for job in [job for job, end in calls.items() if end <= self.ms]:
                del calls[job]  # its worker cut it off and could not say so
        if wake:
            self.board.tick(*self.now)
        self.pass_on()

    @rule(name=Names, job=Jobs)
    def assign(self, name: str, job: int) -> None:
        wanted = name in self.board.wants_probe()
        assert self.board.assign_probe(name, job, self.ms * MS) == wanted
        self.pass_on()

    @rule(name=Names, job=Jobs)
    def outage(self, name: str, job: int) -> None:
        """The short way to a probe."""
        self.calls(name, 0, 4, 0)
        at = self.board.next_event_ns()
        if at is not None:
            self.wait(max(0, -(-at // MS) - self.ms), wake=True)
        self.assign(name, job)

    @rule(name=Names)
    def call_as_probe(self, name: str) -> None:
        """A worker lets the first call of the probe job through, as long as it was not told otherwise."""
        state = self.told.get(name)
        if state is not None and state.state == "half_open" and state.probe_job:
            self.calling[name].setdefault(state.probe_job, self.ms + POLICIES[name].timeout_ms)

    @rule(name=Names, job=Jobs)
    def call_at_the_last_moment(self, name: str, job: int) -> None:
        """The probe begins its call just before it must give way, and the supervisor looks for the next one at once."""
        at = self.board.next_event_ns()
        if at is not None and self.board.state(name).probe_job:
            self.wait(max(0, at // MS - self.ms - 1), wake=False)
            self.call_as_probe(name)
            self.wait(1, wake=True)
            self.assign(name, job)
            self.call_as_probe(name)

    @rule(name=Names, job=Jobs, ok=st.booleans())
    def verdict(self, name: str, job: int, ok: bool) -> None:
        if self.calling[name].pop(job, None) is None and self.board.state(name).probe_job == job:
            return
        before = self.board.state(name)
        self.board.observed(Observed(name, int(ok), int(not ok), probe_job=job, error="E: x"), *self.now)
        after = self.board.state(name)
        if before.state == "half_open" and before.probe_job == job:
            assert after.state == ("closed" if ok else "open")
        if before.state == "open":
            assert after == before
        self.pass_on()

    @rule(job=Jobs)
    def end(self, job: int) -> None:
        for calls in self.calling.values():
            calls.pop(job, None)
        self.board.probe_ended(job)
        assert all(self.board.state(name).probe_job != job for name in NAMES)
        self.pass_on()

    @rule(name=Names, for_ms=st.one_of(st.none(), st.integers(1, 5_000)))
    def open_by_hand(self, name: str, for_ms: int | None) -> None:
        self.board.open(name, "ann", "", for_ms, *self.now)
        assert self.board.state(name).state == "open"
        self.calling[name].clear()  # what was under way may call on: it is not the probe any more
        self.pass_on()

    @rule(name=Names)
    def close_by_hand(self, name: str) -> None:
        self.board.close(name, "ann", "", *self.now)
        assert self.board.is_closed(name)
        self.calling[name].clear()
        self.pass_on()

    @rule()
    def restart(self) -> None:
        """Both boards, the old one and the one made from what was saved, must go on alike."""
        for calls in self.calling.values():
            calls.clear()
        old, self.board = self.board, Board(POLICIES, self.saved.values(), *self.now)
        self.told = {state.name: state for state in self.board.states()}
        for name in NAMES:
            was, now = old.state(name), self.board.state(name)
            if was.state == "half_open" or 0 < was.until_ns < self.ms * MS:
                assert now == BreakerState(name, "open", self.ms * MS), "the break is over"
            else:
                assert now == was
        self.pass_on()

    @invariant()
    def there_is_one_probe_at_most(self) -> None:
        for name in NAMES:
            assert len(self.calling[name]) <= 1, "two probes call at once"
            assert self.board.blocks([name], 99) == ([] if self.board.is_closed(name) else [name])
        assert self.board.blocks(list(NAMES), 0) == [name for name in NAMES if not self.board.is_closed(name)]

    @invariant()
    def nothing_is_stuck(self) -> None:
        """From here a supervisor that wakes when it was asked to gets to a probe, in the time that the policy says."""
        saved = [*self.saved.values()]
        for name in NAMES:
            state = self.board.state(name)
            info = next(info for info in self.board.infos(*self.now) if info.name == name)
            if state.state == "open" and info.until is not None:
                assert state.until_ns
                assert self.board.next_event_ns() is not None
                if not info.changed_by:
                    assert info.until - self.now[0] <= POLICIES[name].break_cap_ms
            elif state.state == "half_open" and name not in self.board.wants_probe():
                at = self.board.next_event_ns()
                assert at is not None
                assert at <= (self.ms + POLICIES[name].probe_deadline_ms + POLICIES[name].timeout_ms) * MS
        probing = Board(POLICIES, saved, *self.now)
        ms = self.ms
        while (at := probing.next_event_ns()) is not None:
            ms = max(ms, -(-at // MS))
            probing.tick(self.wall_ms + ms, ms * MS)
        for name in NAMES:
            by_hand = name in self.saved and self.saved[name].state == "open" and self.saved[name].until is None
            assert probing.is_closed(name) or by_hand or name in probing.wants_probe()


class TestBoard(BoardMachine.TestCase):  # type: ignore[misc, valid-type]  # made by hypothesis
    """A breaker would let two probes through, forget to say so, or stay open when nobody asked it to."""

    settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
