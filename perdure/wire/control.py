"""What clients and the supervisor say to each other on the control socket.

Each request is one struct; `REPLIES` names the type of its answer. Every request can be answered by a Fault instead.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from perdure.wire.data import (
    Blob,
    BreakerInfo,
    DeadFilter,
    DeadView,
    Enqueued,
    Explanation,
    JobFilter,
    JobSpec,
    JobView,
    KindSpec,
    QueueView,
    Verdict,
)
from perdure.wire.streams import TOPICS, Grant, Topic


class Enqueue(Struct, tag="enqueue"):
    """Put these jobs into the queue, all or none; answered after the commit is on disk.

    `strict`: a job whose unique key is taken refuses the whole request (Duplicate) instead of being reported as one.
    `patience_ms`: how long to wait for room in a full queue whose policy is to wait; None: as configured.
    Descriptors may come with it, see JobSpec.blob_fd.
    """

    jobs: list[JobSpec]
    strict: bool = False
    patience_ms: int | None = None


class EnqueueAlike(Struct, tag="enqueue-alike", omit_defaults=True):
    """As Enqueue, for jobs that differ only in their arguments: `job`, once for each of `args`. Its own do not count.

    A third of the work of as many JobSpecs, on both sides. Payloads (`blob`, `blob_fd`) go with Enqueue only.
    """

    job: JobSpec
    args: list[str]
    strict: bool = False
    patience_ms: int | None = None


class GetJob(Struct, tag="get"):
    """One job, wherever it is."""

    id: int


class ListJobs(Struct, tag="list"):
    """A page of jobs."""

    filter: JobFilter


class WaitJobs(Struct, tag="wait"):
    """Answer when each of these is completed, cancelled or dead (or the call's deadline passes)."""

    ids: list[int]


class CancelJobs(Struct, tag="cancel"):
    """Take jobs back: those that wait at once, those that run by stopping them. Answered when all is decided."""

    ids: list[int]
    who: str = ""


class RetryJobs(Struct, tag="retry"):
    """Make jobs available now: scheduled, retryable, cancelled and completed ones."""

    ids: list[int]


class ReadLog(Struct, tag="log"):
    """A piece of a job's output, from `offset`: bytes of all that was ever written, also of what was rotated away.

    `until`: nothing from this place on; None: to the end.
    """

    id: int
    offset: int = 0
    until: int | None = None


class ListDead(Struct, tag="dead-list"):
    """A page of dead letters."""

    filter: DeadFilter


class GetDead(Struct, tag="dead-get"):
    """One dead letter with its whole story."""

    id: int


class ReplayDead(Struct, tag="dead-replay"):
    """Give dead jobs another life. `set_args` is a JSON object merged into the arguments; `who` goes to the history."""

    ids: list[int]
    set_args: str | None = None
    who: str = ""


class DiscardDead(Struct, tag="dead-discard"):
    """Decide that dead letters need nothing more. They stay on record for the retention time."""

    ids: list[int]
    who: str = ""


class ListQueues(Struct, tag="queues"):
    """All queues that have jobs or a setting."""


class PauseQueue(Struct, tag="pause"):
    """Claim nothing more from this queue; what runs goes on."""

    queue: str
    who: str = ""


class ResumeQueue(Struct, tag="resume"):
    """Claim from this queue again."""

    queue: str
    who: str = ""


class ListKinds(Struct, tag="kinds"):
    """The kinds that the handlers loaded last declare."""


class ListBreakers(Struct, tag="breakers"):
    """All breakers, each with its last `events` changes, newest first."""

    events: int = 0


class OpenBreaker(Struct, tag="breaker-open"):
    """Open a breaker by hand. Without `for_ms` it stays open until somebody closes it."""

    name: str
    who: str = ""
    reason: str = ""
    for_ms: int | None = None


class CloseBreaker(Struct, tag="breaker-close"):
    """Close a breaker by hand; the jobs that wait for it are released with a ramp."""

    name: str
    who: str = ""
    reason: str = ""


class Explain(Struct, tag="explain"):
    """Why is this job where it is?"""

    id: int


class GetStatus(Struct, tag="status"):
    """What the daemon does, and how it is."""


class Ping(Struct, tag="ping"):
    """Is somebody there?"""


class Subscribe(Struct, tag="subscribe", omit_defaults=True):
    """Tell me of these jobs: by id, of these queues, or of all. What was there before comes first.

    `topics`: what to tell. `credit`: how many messages (streams.News, as events) may be sent before the first Grant.
    It ends with the connection, with Unsubscribe, or when all of `ids` have ended.
    """

    ids: list[int] = []
    queues: list[str] = []
    everything: bool = False
    topics: list[Topic] = field(default_factory=lambda: [*TOPICS])
    credit: int = 16


class Unsubscribe(Struct, tag="unsubscribe"):
    """Tell me no more."""

    subscription: int


class GetResult(Struct, tag="result"):
    """The result of a completed job; with a spooled one comes its descriptor, open for reading."""

    id: int


class AttachPort(Struct, tag="attach"):
    """Connect me with the job's port; answered when the job offers one, with a descriptor: a stream socket."""

    id: int


class Reload(Struct, tag="reload"):
    """Load the handlers anew; answered when the new workers run, or with the reason why the old ones stay."""


class LogPiece(Struct):
    """`text` starts at `offset`, which is larger than asked for where the log does not reach back so far.

    Read on at `next_offset`. `finished`: the job will write no more.
    """

    offset: int
    next_offset: int
    text: str
    finished: bool


class Subscribed(Struct):
    """The number of a subscription, unique on its connection."""

    subscription: int


class ResultView(Struct, omit_defaults=True):
    """A result: JSON text (None: the handler returned nothing), or the description of a spooled file."""

    json: str | None = None
    blob: Blob | None = None


class PortView(Struct):
    """The job at whose port a client is."""

    id: int


class JobEnd(Struct, omit_defaults=True):
    """How a job that was waited for ended: completed, cancelled or dead. `result` is JSON text; or it is in `blob`."""

    id: int
    state: str
    result: str | None = None
    error: str | None = None
    blob: Blob | None = None


class WorkerView(Struct, omit_defaults=True):
    """A worker process: its pid, what it executes (job ids), what was sent ahead, and its memory (bytes)."""

    id: int
    pid: int
    state: str
    executing: list[int] = []
    waiting: int = 0
    rss_bytes: int = 0
    jobs_done: int = 0
    uptime_seconds: float = 0.0
    loop_lag_ms_max: float = 0.0
    loop_lag_ms_p999: float = 0.0


class Status(Struct, omit_defaults=True):
    """The daemon at a glance. `counts` is jobs per state over all queues; `dead` is open dead letters."""

    version: str
    pid: int
    state: str
    uptime_seconds: float
    store: str
    durability: str
    counts: dict[str, int]
    dead: int
    workers: list[WorkerView] = []
    kinds: int = 0
    queues_paused: list[str] = []
    jobs_done: int = 0
    jobs_per_second: float = 0.0
    loop_lag_ms_max: float = 0.0
    loop_lag_ms_p999: float = 0.0
    subscribers: int = 0
    events_skipped: int = 0
    spool_bytes: int = 0
    rss_bytes: int = 0
    cpu_seconds: float = 0.0
    disk_free_bytes: int = 0
    breakers_open: list[str] = []
    warnings: list[str] = []


Request = (
    Enqueue
    | EnqueueAlike
    | GetJob
    | ListJobs
    | WaitJobs
    | CancelJobs
    | RetryJobs
    | ReadLog
    | ListDead
    | GetDead
    | ReplayDead
    | DiscardDead
    | ListQueues
    | PauseQueue
    | ResumeQueue
    | ListKinds
    | ListBreakers
    | OpenBreaker
    | CloseBreaker
    | Explain
    | GetStatus
    | Reload
    | Ping
    | Subscribe
    | Unsubscribe
    | GetResult
    | AttachPort
)

#: What a client tells without asking.
ClientEvent = Grant

#: The type of the answer to each request.
REPLIES: dict[type, Any] = {
    Enqueue: list[Enqueued],
    EnqueueAlike: list[Enqueued],
    GetJob: JobView | None,
    ListJobs: list[JobView],
    WaitJobs: list[JobEnd],
    CancelJobs: list[Verdict],
    RetryJobs: list[Verdict],
    ReadLog: LogPiece,
    ListDead: list[DeadView],
    GetDead: DeadView | None,
    ReplayDead: list[Verdict],
    DiscardDead: list[Verdict],
    ListQueues: list[QueueView],
    PauseQueue: None,
    ResumeQueue: None,
    ListKinds: list[KindSpec],
    ListBreakers: list[BreakerInfo],
    OpenBreaker: None,
    CloseBreaker: None,
    Explain: Explanation,
    GetStatus: Status,
    Reload: list[KindSpec],
    Ping: None,
    Subscribe: Subscribed,
    Unsubscribe: None,
    GetResult: ResultView,
    AttachPort: PortView,
}
