"""The core of back-pressure against a model of the queue's file: random producers, turns and counts."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from perdure.config.queues import QueueLimits, QueueSettings
from perdure.daemon.pressure import Needs, Pressure, Waiting
from perdure.errors import QueueFull
from perdure.store.models import Claim, ClaimedJob, Committed, Depth, NewBatch, NewJob, Released, Turn
from perdure.wire.data import Enqueued

NOW, MOST = 1_000, 5
QUEUES = ("b", "c", "r", "s", "free")
LIMITED = QUEUES[:4]
LIMITS = QueueLimits(
    QueueSettings(),
    {
        "b": {"max_depth": MOST, "when_full": "block"},
        "c": {"max_depth": MOST, "when_full": "block"},
        "r": {"max_depth": MOST, "when_full": "reject"},
        "s": {"max_depth": MOST, "when_full": "shed"},
    },
)
Batches = st.lists(st.sampled_from(QUEUES), min_size=1, max_size=6)


@dataclass(eq=False)
class Asked:
    """A producer's request: in which order it came, and whether its producer has gone."""

    number: int
    batch: NewBatch
    needs: Needs
    entry: Waiting | None = None
    gone: bool = False


def asked_by(entry: Waiting) -> Asked:
    """Whose place in the line this is."""
    assert isinstance(entry.ticket, Asked)
    return entry.ticket


class World(RuleBasedStateMachine):
    """What is on disk, what runs, what is to be committed next, and who waits."""

    def __init__(self) -> None:
        super().__init__()
        self.core = Pressure(LIMITS)
        self.core.counted({name: Depth(0, None) for name in LIMITED})
        self.waiting: dict[str, list[int]] = {name: [] for name in QUEUES}
        self.running: dict[int, str] = {}
        self.next_turn: list[Asked] = []
        self.sheds: dict[str, int] = {}
        self.line: list[Asked] = []

        self.last_id = self.last_number = 0

    # --- producers

    @rule(queues=Batches)
    def ask(self, queues: list[str]) -> None:
        self.last_number += 1
        batch = NewBatch([NewJob("k", name, 0, "{}", 3, 2, None, None, None, None) for name in queues], False)
        asked = Asked(self.last_number, batch, self.core.needs(batch, NOW))
        room = self.room(asked.needs)
        if self.core.doubtful(asked.needs):
            self.count()
            room = self.room(asked.needs)
        lines = set(asked.needs) & {"b", "c"}
        in_line = any(lines & set(one.needs) for one in self.line)
        there = any(lines & set(one.needs) for one in self.line if not one.gone)
        try:
            sheds = self.core.admit(batch, asked.needs, NOW)
        except QueueFull:
            assert any(need.total > (MOST if name in "bc" else room[name]) for name, need in asked.needs.items())
            return
        if sheds is None:
            assert in_line or any(asked.needs[name].total > room[name] for name in asked.needs if name in "bc")
            asked.entry = self.core.join(batch, asked.needs, asked)
            self.line.append(asked)
        else:
            assert not there, "it came past somebody who waits"
            self.let_in(asked, sheds)

    @precondition(lambda self: self.line)
    @rule(pick=st.integers(0, 9), told=st.booleans())
    def leave(self, pick: int, told: bool) -> None:
        asked = self.line[pick % len(self.line)]
        if told:
            assert asked.entry is not None
            assert self.core.leave(asked.entry) or asked.gone, "at the head, it may have been found gone already"
            self.line.remove(asked)
        asked.gone = True
        self.advance()

    # --- turns and counts

    @rule(claim=st.dictionaries(st.sampled_from(QUEUES), st.integers(1, 4)), back=st.integers(0, 3), bad=st.booleans())
    def turn(self, claim: dict[str, int], back: int, bad: bool) -> None:
        released = list(self.running)[:back]
        completed = list(self.running)[back : 2 * back]
        turn = Turn(
            NOW,
            completed={7: completed},
            released=[Released(job_id, 7) for job_id in released],
            batches=[asked.batch for asked in self.next_turn],
            shed=self.core.shed(self.sheds, NOW),
            claims=[Claim(name, count) for name, count in claim.items()],
        )
        result = Committed()
        for job_id in completed:
            del self.running[job_id]
        for job_id in released:
            name = self.running.pop(job_id)
            self.waiting[name].append(job_id)
        refused = 0
        for number, asked in enumerate(self.next_turn):
            if bad and number == 0:
                result.placed.append(QueueFull("a bad one"))
                refused = asked.needs["s"].total if "s" in asked.needs else 0
                continue
            places = []
            for job in asked.batch.jobs:
                self.last_id += 1
                self.waiting[job.queue].append(self.last_id)
                places.append(Enqueued(self.last_id, False))
            result.placed.append(places)
        for shed in turn.shed:
            for _ in range(max(0, shed.surplus - refused)):
                result.shed.append((self.waiting[shed.queue].pop(), shed.queue))
        for name, count in claim.items():
            for job_id in self.waiting[name][:count]:
                self.waiting[name].remove(job_id)
                self.running[job_id] = name
                result.claimed.append(ClaimedJob(job_id, "k", "{}", 1, name, 3, None, 0, 2, 0))
        self.next_turn, self.sheds = [], {}
        self.core.committed(turn, result)
        self.advance()

    @rule(name=st.sampled_from(LIMITED), change=st.sampled_from([-2, -1, 3]))
    def outside(self, name: str, change: int) -> None:
        """Jobs are cancelled, or dead ones replayed, without a turn."""
        for _ in range(-change):
            if self.waiting[name]:
                self.waiting[name].pop()
        for _ in range(change):
            self.last_id += 1
            self.waiting[name].append(self.last_id)
        self.core.doubt()

    @rule()
    def count(self) -> None:
        asked_for = self.core.to_count(all_of_them=True)
        self.core.counted({name: Depth(len(self.waiting[name]), None) for name in asked_for})
        self.core.counted({name: Depth(len(self.waiting[name]), None) for name in LIMITED})
        self.advance()

    # --- what is checked

    def room(self, needs: Needs) -> dict[str, int]:
        """How many more jobs there is really room for."""
        coming = [job.queue for asked in self.next_turn for job in asked.batch.jobs]
        return {name: max(0, MOST - len(self.waiting[name]) - coming.count(name)) for name in needs}

    def let_in(self, asked: Asked, sheds: dict[str, int]) -> None:
        room = self.room(asked.needs)
        for name, need in asked.needs.items():
            assert need.total - sheds.get(name, 0) <= room[name], "more than there is room for"
            assert name == "s" or name not in sheds
        self.next_turn.append(asked)
        for name, surplus in sheds.items():
            self.sheds[name] = self.sheds.get(name, 0) + surplus

    def advance(self) -> None:
        for entry, outcome in self.core.advance(NOW, lambda entry: asked_by(entry).gone):
            (asked,) = [asked for asked in self.line if asked.entry is entry]
            assert not asked.gone
            lines = set(asked.needs) & {"b", "c"}
            before = [one for one in self.line if one.number < asked.number and not one.gone]
            assert not any(lines & set(one.needs) for one in before), "not its turn"
            self.line.remove(asked)
            if not isinstance(outcome, QueueFull):
                self.let_in(asked, outcome)

    @invariant()
    def nobody_waits_where_there_is_room(self) -> None:
        self.advance()
        there = [asked for asked in self.line if not asked.gone]
        if there:
            first = there[0]
            room = self.room(first.needs)
            doubtful = self.core.doubtful(first.needs)
            assert doubtful or any(first.needs[name].total > room[name] for name in first.needs if name in "bc")

    @invariant()
    def the_line_is_what_is_in_it(self) -> None:
        entries = {asked.entry for asked in self.line if not asked.gone}
        assert entries <= set(self.core.in_line)
        left = {entry for entry in self.core.in_line if entry not in entries}
        assert all(asked_by(entry).gone for entry in left)

    @invariant()
    def gauges_are_right(self) -> None:
        coming = [job.queue for asked in self.next_turn for job in asked.batch.jobs]
        for name, gauge in self.core.gauges.items():
            assert gauge.coming == coming.count(name)
            assert gauge.doubtful or gauge.waiting == len(self.waiting[name])

    def teardown(self) -> None:
        for asked in self.line:
            if asked.entry is not None:
                self.core.leave(asked.entry)
        assert self.core.in_line == []
        assert self.core.advance(NOW, lambda _: False) == []


class TestPressure(World.TestCase):  # type: ignore[misc, valid-type]  # made by hypothesis
    """Somebody would be let in where there is no room, wait where there is, or be overtaken."""

    settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
