"""One subscription, as the hub has it: what it wants to hear, and how far it is with each job that it asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from perdure.daemon.news_of_turns import ENDS
from perdure.daemon.subscriber import Bounds, Buffer
from perdure.wire.control import Subscribe
from perdure.wire.heard import Heard
from perdure.wire.peer import Peer
from perdure.wire.streams import StateChange

#: No time.
NEVER = float("inf")


class Join:
    """A job whose story so far has not been told to a follower yet.

    `found`: it is known where the job is. `worker`: the one that was asked for the story; None: it is read from the
    files. `others`: so many stories that others have asked for come before ours. `held`: states that come after it.
    """

    __slots__ = ("found", "held", "others", "worker")

    def __init__(self) -> None:
        self.found = False
        self.worker: int | None = None
        self.others = 0
        self.held: deque[StateChange] = deque()

    def holds(self, change: StateChange) -> bool:
        """Whether this must wait until the story has been told: the end of the job, and what comes after that."""
        if self.found and not self.held and change.state not in ENDS:
            return False
        self.held.append(change)
        return True


class Follower:
    """Follows jobs by id, or all of some queues, or all."""

    __slots__ = (
        "buffer",
        "closed",
        "due",
        "everything",
        "heard",
        "ids",
        "joins",
        "last_told",
        "left",
        "listens",
        "number",
        "peer",
        "queues",
        "topics",
    )

    def __init__(self, number: int, peer: Peer, request: Subscribe, bounds: Bounds) -> None:
        self.number = number
        self.peer = peer
        #: In the order in which they were asked for.
        self.ids: Sequence[int] = list(dict.fromkeys(request.ids))
        self.queues = frozenset(request.queues)
        self.everything = request.everything
        self.topics = frozenset(request.topics)
        #: Workers must tell more than progress.
        self.listens = bool(self.topics & {"log", "emit"})
        self.buffer = Buffer(bounds, request.credit, keep_last=bool(self.ids))
        #: Jobs asked for that have not ended.
        self.left = set(self.ids)
        self.joins = {job_id: Join() for job_id in self.ids}
        #: How far it is with the log and the values of each.
        self.heard = {job_id: Heard() for job_id in self.ids}
        #: (state, attempt) told last of each job that was asked for.
        self.last_told: dict[int, tuple[str, int]] = {}
        #: When the next message is planned to leave.
        self.due = NEVER
        self.closed = False
