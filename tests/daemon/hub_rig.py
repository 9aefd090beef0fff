"""A hub without a daemon: a store of rows that the test sets, workers that write down what they are told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from perdure.clock import Clock, SystemClock
from perdure.daemon.hub import Hub
from perdure.daemon.ledger import Held
from perdure.store.models import ClaimedJob, Committed, NewBatch, NewJob, Turn
from perdure.wire.control import Subscribe
from perdure.wire.data import DeadView, Enqueued, JobView
from perdure.wire.envelope import Event
from perdure.wire.peer import Peer
from perdure.wire.streams import Emitted, Entry, Grant, LogText, News, Progress
from perdure.wire.work import Told
from tests.support.wait import async_wait_until

#: The end of a worker's story.
OVER = ""


def line(job_id: int, text: str) -> LogText:
    """One live line of a job."""
    return LogText(job_id, text, 1)


class Rows:
    """As much of a store as the hub looks at."""

    def __init__(self) -> None:
        self.jobs: dict[int, JobView] = {}
        self.dead: dict[int, DeadView] = {}

    async def get(self, job_id: int) -> JobView | None:
        return self.jobs.get(job_id)

    async def get_dead(self, job_id: int) -> DeadView | None:
        return self.dead.get(job_id)


class ScriptedWorker:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def send(self, message: object) -> None:
        self.heard.append(message)


class HubRig:
    """The hub's surroundings, and things that happen in them."""

    def __init__(self, logs_dir: Path) -> None:
        self.store: Any = Rows()
        self.clock: Clock = SystemClock()
        self.logs_dir = logs_dir
        self.workers: dict[int, ScriptedWorker] = {1: ScriptedWorker(), 2: ScriptedWorker()}
        self.holding: dict[int, dict[int, Held]] = {1: {}, 2: {}}
        self.messages: dict[Peer, list[News]] = defaultdict(list)
        self.hub = Hub(self)

    # --- Surroundings

    def send(self, peer: Peer, message: object) -> object:
        assert isinstance(message, Event)
        self.messages[peer].append(message.body)
        return True

    def worker(self, number: int) -> ScriptedWorker | None:
        return self.workers.get(number)

    def ready_workers(self) -> Iterable[ScriptedWorker]:
        return self.workers.values()

    def held(self) -> Iterable[tuple[int, Mapping[int, Held]]]:
        return list(self.holding.items())

    def claimed(self) -> Iterable[ClaimedJob]:
        return [held.job for jobs in self.holding.values() for held in jobs.values()]

    # --- what happens

    def job(self, job_id: int, state: str = "available", queue: str = "default", attempt: int = 0) -> None:
        """A row in the store."""
        self.store.jobs[job_id] = JobView(job_id, "kind", queue, state, 0, "{}", attempt, 5, 0, 3, 1_000, 1_000)

    def commit(self, turn: Turn, result: Committed | None = None) -> None:
        """A turn is on disk."""
        if self.hub.awake:
            self.hub.committed(turn, result or Committed())

    def new_job(self, job_id: int, queue: str = "default") -> None:
        """A producer puts a job in."""
        self.job(job_id, queue=queue)
        new = NewJob("kind", queue, 0, "{}", 5, 3, None, None, None, None)
        turn = Turn(1_000, batches=[NewBatch([new], False)])
        self.commit(turn, Committed(placed=[[Enqueued(job_id, False)]]))

    def claim(self, job_id: int, attempt: int = 1, queue: str = "default") -> ClaimedJob:
        """A turn claims a job."""
        row = ClaimedJob(job_id, "kind", "{}", attempt, queue, 5, None, 0, 3, 0)
        self.job(job_id, "running", queue, attempt)
        self.commit(Turn(2_000, lease=7), Committed(claimed=[row]))
        return row

    def hand_out(self, row: ClaimedJob, worker: int = 1) -> None:
        """The job goes to a worker, as the supervisor does it."""
        self.holding[worker][row.id] = Held(row, 7, 0.0, "sync")
        if self.hub.followed:
            self.hub.sending(worker, [row])

    def run(self, job_id: int, worker: int = 1, attempt: int = 1, queue: str = "default") -> None:
        """Both."""
        self.hand_out(self.claim(job_id, attempt, queue), worker)

    def complete(self, job_id: int, result: str = "null") -> None:
        """The job's worker says that it has completed, and that is on disk."""
        for jobs in self.holding.values():
            jobs.pop(job_id, None)
        self.job(job_id, "completed", attempt=1)
        self.commit(Turn(3_000, results=[(job_id, 7, result)]))

    def tell(self, worker: int, *entries: Progress | LogText | Emitted) -> None:
        """A worker tells."""
        self.hub.told(worker, Told(list(entries)))

    def story(self, worker: int, job_id: int, *texts: str) -> None:
        """A worker tells a story, to its end."""
        self.tell(worker, *(LogText(job_id, text, 1, True) for text in (*texts, OVER)))

    # --- what followers get

    async def follow(self, *ids: int, peer: Peer | None = None, at_once: bool = False, **options: Any) -> Listener:
        """A subscription; not `at_once`: after the files have been read."""
        peer = peer or Peer(1, 2, 3)
        answer = await self.hub.subscribe(Subscribe(list(ids), **options), peer)
        await async_wait_until(lambda: at_once or not self.hub.figures()["tasks"], 10, "the files to be read")
        return Listener(self, peer, answer.subscription)

    def assert_nothing_left(self) -> None:
        """No subscription, buffer, timer or task."""
        assert not any(self.hub.figures().values()), self.hub.figures()
        assert not self.hub.awake


class Listener:
    """One subscription's end."""

    def __init__(self, rig: HubRig, peer: Peer, number: int) -> None:
        self._rig = rig
        self.peer = peer
        self.number = number

    @property
    def news(self) -> list[News]:
        return [one for one in self._rig.messages[self.peer] if one.subscription == self.number]

    @property
    def entries(self) -> list[Entry]:
        return [entry for one in self.news for entry in one.entries]

    @property
    def words(self) -> list[str]:
        """The entries in short: states, texts, values, percentages."""
        return [_word(entry) for entry in self.entries]

    @property
    def ended(self) -> bool:
        return bool(self.news) and self.news[-1].ended

    async def hear(self, *words: str) -> None:
        """Wait for exactly these entries."""
        await async_wait_until(lambda: len(self.words) >= len(words), 10, f"{words}, got {self.words}")
        assert self.words == list(words)

    async def end(self) -> None:
        """Wait for the last message."""
        await async_wait_until(lambda: self.ended, 10, f"the end; got {self.words}")

    def grant(self, messages: int = 1) -> None:
        self._rig.hub.granted(Grant(self.number, messages), self.peer)


def _word(entry: Entry) -> str:
    match entry:
        case LogText():
            return entry.text
        case Emitted():
            return f"value {entry.value}"
        case Progress():
            return f"{entry.done:g}%"
    return entry.state
