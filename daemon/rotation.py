"""Which queues have jobs, and whose turn it is: a ring, so that a full queue cannot starve the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from perdure.store.models import Claim
from perdure.wire.data import Lane

#: Most queues that one turn claims from. A claim costs about 10 µs by itself; more would delay the commit.
CLAIMS_PER_TURN = 128
#: A queue whose claims are capped, and use the cap up to this many jobs, is claimed from without one again.
MOST_CAPPED = 1024


class Rotation:
    """The ring of queues that may have available jobs. Paused queues are kept beside it, so they cost nothing.

    A queue whose next jobs need a lane that is full is *blocked* on that lane: it is claimed from only as far as that
    lane has room, so that nothing is claimed just to be given back.
    """

    def __init__(self, quantum: int) -> None:
        self.quantum = quantum
        self.paused: set[str] = set()
        self._active: dict[str, None] = {}
        self._asleep: set[str] = set()
        self._blocked: dict[str, Lane] = {}
        self._caps: dict[str, int] = {}

    @property
    def active(self) -> bool:
        """Whether any queue that is not paused may have available jobs."""
        return bool(self._active)

    def fill(self, name: str) -> None:
        """The queue may have available jobs."""
        if name in self.paused:
            self._asleep.add(name)
        elif name not in self._active:
            self._active[name] = None

    def empty(self, name: str) -> None:
        """The queue has no available jobs."""
        self._active.pop(name, None)
        self._asleep.discard(name)
        self._blocked.pop(name, None)
        self._caps.pop(name, None)

    def pause(self, name: str) -> None:
        """Claim nothing from the queue until it is resumed."""
        self.paused.add(name)
        if name in self._active:
            del self._active[name]
            self._asleep.add(name)

    def resume(self, name: str) -> None:
        """Claim from the queue again."""
        self.paused.discard(name)
        self._asleep.discard(name)
        self._active[name] = None

    def block(self, name: str, lane: Lane) -> None:
        """The queue's next job needs `lane`, which is full."""
        self._blocked[name] = lane

    def unblock(self, name: str) -> None:
        """The queue's jobs need more than one lane."""
        self._blocked.pop(name, None)

    def unblock_all(self) -> None:
        """Lanes mean something else now."""
        self._blocked.clear()
        self._caps.clear()

    def adapt(self, name: str, claimed: int, released: int) -> None:
        """Of `claimed` jobs of the queue `released` found no worker: claim what did, and step by step more again."""
        cap = self._caps.get(name)
        if released:
            self._caps[name] = max(1, claimed - released)
        elif cap is not None and claimed >= cap:
            if cap < MOST_CAPPED:
                self._caps[name] = cap * 2
            else:
                del self._caps[name]

    def blocked(self, name: str) -> Lane | None:
        """The lane that the queue waits for."""
        return self._blocked.get(name)

    def claims(self, room: Mapping[Lane, int]) -> list[Claim]:
        """What to claim, given how many more jobs each lane can take; no more than the sum of the rooms."""
        total = left = sum(room.values())
        if total <= 0 or not self._active:
            return []
        most = max(room.values())
        share = max(self.quantum, total // len(self._active))
        chosen: list[Claim] = []
        for name in self._active:
            lane = self._blocked.get(name)
            limit = min(share, left, most if lane is None else room.get(lane, 0), self._caps.get(name, share))
            if limit > 0:
                chosen.append(Claim(name, limit))
                left -= limit
                if not left or len(chosen) == CLAIMS_PER_TURN:
                    break
        return chosen

    def served(self, names: Iterable[str]) -> None:
        """These queues had their go: they move to the end of the ring."""
        for name in names:
            if name in self._active:
                del self._active[name]
                self._active[name] = None
