"""Who follows what: the tables of all followers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from perdure.daemon.follower import Follower
from perdure.daemon.news_of_turns import Facts, Known
from perdure.daemon.subscriber import BUFFER_BYTES, Bounds
from perdure.errors import InvalidOption, Refused
from perdure.names import check_name
from perdure.store.models import ClaimedJob
from perdure.wire.control import Subscribe
from perdure.wire.peer import Peer
from perdure.wire.streams import TOPICS
from perdure.wire.work import FollowQueues

#: Jobs that one subscription may name: the last state of each is kept for it, however slowly it reads.
MOST_IDS: Final = 1_000
#: Subscriptions at the same time: of one client, and of all.
MOST_OF_ONE: Final = 1_000
MOST_OF_ALL: Final = 10_000
#: What may wait for all followers together, about; so each may have less when there are many, but never less than this.
ALL_BYTES: Final = 64 * BUFFER_BYTES
LEAST_BYTES: Final = 64 * 1024

UNKNOWN: Final = Facts("", "", 0)


class Roll:
    """Nothing of a follower is here any more once it was struck off."""

    def __init__(self) -> None:
        #: How much may wait for each, as many as they are now.
        self.bounds = Bounds()
        self.count = 0
        #: Followers by the ids that they asked for; and what is known of those jobs.
        self.by_id: dict[int, set[Follower]] = {}
        self.names: dict[int, Facts] = {}
        self.by_queue: dict[str, set[Follower]] = {}
        self.of_everything: set[Follower] = set()
        #: Claimed jobs of queues that are followed.
        self.rows: dict[int, ClaimedJob] = {}
        self._by_peer: dict[Peer, dict[int, Follower]] = {}

    @property
    def wide(self) -> bool:
        """Whether somebody follows queues, or everything."""
        return bool(self.by_queue or self.of_everything)

    def check(self, request: Subscribe, peer: Peer) -> None:
        """Raises InvalidOption for what has no meaning, and Refused when there are too many already."""
        if (bool(request.ids) + bool(request.queues) + request.everything) != 1:
            raise InvalidOption("a subscription is for jobs by id, or for queues, or for everything: for one of these")
        if len(request.ids) > MOST_IDS:
            raise InvalidOption(
                f"{len(request.ids):,} ids in one subscription; the most is {MOST_IDS:,}. Follow their queue instead"
            )
        for queue in request.queues:
            check_name("queue", queue)
        if not request.topics:
            raise InvalidOption(f"a subscription without topics; there are: {', '.join(TOPICS)}")
        if self.count >= MOST_OF_ALL or len(self._by_peer.get(peer, ())) >= MOST_OF_ONE:
            raise Refused(
                f"there are {self.count:,} subscriptions already; the most is {MOST_OF_ONE:,} of one client and "
                f"{MOST_OF_ALL:,} of all. Subscribe to several jobs at once"
            )

    def enter(self, follower: Follower, claimed: Iterable[ClaimedJob]) -> None:
        """A new follower. `claimed`: all jobs that are claimed now."""
        for job_id in follower.ids:
            self.by_id.setdefault(job_id, set()).add(follower)
        for queue in follower.queues:
            self.by_queue.setdefault(queue, set()).add(follower)
        if follower.everything:
            self.of_everything.add(follower)
        self._by_peer.setdefault(follower.peer, {})[follower.number] = follower
        self._counted(1)
        if not follower.ids:
            self.note_claimed(claimed)

    def retire(self, follower: Follower) -> list[int]:
        """It gets nothing new; what waits for it still does. Returns the ids that nobody listens to any more."""
        silent: list[int] = []
        for job_id in follower.ids:
            others = self.by_id.get(job_id)
            if others is None or follower not in others:
                continue
            others.remove(follower)
            if follower.listens and not any(one.listens for one in others):
                silent.append(job_id)
            if not others:
                del self.by_id[job_id]
                self.names.pop(job_id, None)
        for queue in follower.queues:
            others = self.by_queue.get(queue, set())
            others.discard(follower)
            if not others:
                self.by_queue.pop(queue, None)
        self.of_everything.discard(follower)
        if not self.wide:
            self.rows.clear()
        return silent

    def strike_off(self, follower: Follower) -> None:
        """It is gone; it was retired before."""
        mine = self._by_peer[follower.peer]
        del mine[follower.number]
        if not mine:
            del self._by_peer[follower.peer]
        self._counted(-1)

    def get(self, peer: Peer, number: int) -> Follower | None:
        """A client's subscription of this number."""
        return self._by_peer.get(peer, {}).get(number)

    def of(self, peer: Peer) -> list[Follower]:
        """All of a client's."""
        return list(self._by_peer.get(peer, {}).values())

    def all(self) -> list[Follower]:
        """Everybody's, also those that only wait for their last message."""
        return [one for some in self._by_peer.values() for one in some.values()]

    def of_queue(self, queue: str) -> Iterator[Follower]:
        """Those who follow this queue, or everything."""
        yield from self.by_queue.get(queue, ())
        yield from self.of_everything

    def facts(self, job_id: int) -> Known | None:
        """What is known of a claimed job; None if nobody listens to its queue."""
        return self.rows.get(job_id, UNKNOWN if self.of_everything else None)

    def wants_new(self, queue: str) -> bool:
        """Whether anybody listens to jobs that are new in this queue."""
        return bool(self.of_everything) or queue in self.by_queue

    def note_ended(self, ids: Iterable[int]) -> None:
        """The attempts of these have ended."""
        for job_id in ids:
            self.rows.pop(job_id, None)

    def note_claimed(self, rows: Iterable[ClaimedJob]) -> None:
        """These are claimed now: their outcomes will tell no more than their ids."""
        # The rows themselves: there may be thousands in a turn.
        if self.of_everything:
            self.rows.update({row.id: row for row in rows})
        elif self.by_queue:
            self.rows.update({row.id: row for row in rows if row.queue in self.by_queue})

    def queues_wanted(self) -> FollowQueues:
        """Whose log lines and values workers must tell, besides those of jobs followed by id."""
        queues = sorted(name for name, some in self.by_queue.items() if any(one.listens for one in some))
        return FollowQueues(queues, any(one.listens for one in self.of_everything))

    def figures(self) -> dict[str, int]:
        """What there is of everything."""
        followers = self.all()
        return {
            "subscribers": self.count,
            "clients": len(self._by_peer),
            "followed": len(self.by_id) + len(self.by_queue) + len(self.of_everything),
            "names": len(self.names) + len(self.rows),
            "waiting_entries": sum(len(one.buffer) for one in followers),
            "waiting_bytes": sum(one.buffer.bytes for one in followers),
        }

    def _counted(self, more: int) -> None:
        self.count += more
        self.bounds.bytes = max(LEAST_BYTES, min(BUFFER_BYTES, ALL_BYTES // max(1, self.count)))


class ById:
    """Who follows jobs by their ids, for TurnNews; a Roll itself is who follows queues, or everything."""

    def __init__(self, roll: Roll) -> None:
        self._roll = roll

    def facts(self, job_id: int) -> Known | None:
        """What is known of a job; None if nobody listens to it."""
        return self._roll.names.get(job_id, UNKNOWN) if job_id in self._roll.by_id else None

    def wants_new(self, _queue: str) -> bool:
        """No: a new job has an id that nobody knows."""
        return False
