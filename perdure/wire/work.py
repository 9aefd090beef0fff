"""What the supervisor says to workers and to the nursery, and what they answer.

Arrays on the wire, not maps: these are the messages of the hot path.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from perdure.wire.data import ErrorData, KindSpec
from perdure.wire.dependencies import BreakerState, Dependencies
from perdure.wire.streams import JobSkipped, WorkerEntry


class JobRow(Struct, array_like=True, gc=False):
    """A job on its way to a worker. The order of the fields is that of the columns which the claim returns."""

    id: int
    kind: str
    args: str
    attempt: int
    queue: str
    max_attempts: int
    timeout_ms: int | None
    interruptions: int
    max_interruptions: int
    priority: int
    created_at: int = 0
    #: The job's payload: a Blob as JSON text.
    blob: str | None = None


# --- supervisor to worker: events


class Run(Struct, array_like=True, tag="run"):
    """Run these, in this order."""

    jobs: list[JobRow]


class Recall(Struct, array_like=True, tag="recall"):
    """Give back up to `count` jobs that have not begun, the last ones first; and those of `ids` that have not begun."""

    count: int = 0
    ids: list[int] = []


class DumpStacks(Struct, array_like=True, tag="dump"):
    """Write the stacks of all threads and tasks into the stacks file. SIGUSR1 is for where this hangs too."""


class Drain(Struct, array_like=True, tag="drain"):
    """Give back all that has not begun, finish what runs, then exit with status 0."""


class Breakers(Struct, array_like=True, tag="breakers"):
    """These breakers are in these states now. A dependency of which nothing was said is closed."""

    states: list[BreakerState]


class Stop(Struct, array_like=True, tag="stop"):
    """End these jobs, which may be executing: their producers do not want them any more."""

    ids: list[int]


class Follow(Struct, array_like=True, tag="follow"):
    """Somebody listens to these jobs: tell their log and emitted values (Told). Those of `story`: from the beginning.

    Progress is always told.
    """

    ids: list[int]
    story: list[int] = []


class Unfollow(Struct, array_like=True, tag="unfollow"):
    """Nobody listens to these any more, by id."""

    ids: list[int]


class FollowQueues(Struct, array_like=True, tag="follow-queues"):
    """Somebody listens to all jobs of these queues, or to all jobs. Takes the place of the one before."""

    queues: list[str]
    everything: bool = False


class PortTaken(Struct, array_like=True, tag="port-taken"):
    """A client has the other end of the port that this job offered."""

    id: int


ToWorker = Run | Recall | DumpStacks | Drain | Breakers | Stop | Follow | Unfollow | FollowQueues | PortTaken


# --- worker to supervisor: events


class Hello(Struct, array_like=True, tag="hello"):
    """The worker is ready for jobs."""

    pid: int


class Failed(Struct, array_like=True):
    """A handler raised. `retryable` False: permanent. `retry_after_ms`: the handler's own wish.

    `dependency`: the failure is that of a call to this dependency. `refused`: the call was not even made, because the
    breaker was open. `busy`: it is not that one's fault either, this worker made more calls at once than it has
    connections for.
    """

    id: int
    error: ErrorData
    retryable: bool
    retry_after_ms: int | None = None
    dependency: str | None = None
    refused: bool = False
    busy: bool = False
    #: It ended because it was told to (Stop).
    stopped: bool = False


class Timing(Struct, array_like=True):
    """How long `count` jobs of a kind ran, together, in nanoseconds: what prefetch is measured by."""

    kind: str
    count: int
    total_ns: int


class Done(Struct, array_like=True, tag="done"):
    """Outcomes, many at a time. `results` are (id, JSON text); jobs that return None are in `completed`.

    `spooled` are (id, Blob as JSON text): results that lie in the spool.
    """

    completed: list[int]
    results: list[tuple[int, str]]
    failed: list[Failed]
    timings: list[Timing]
    spooled: list[tuple[int, str]] = []


class Returned(Struct, array_like=True, tag="returned"):
    """These had not begun; they are the supervisor's again."""

    ids: list[int]


class StacksDumped(Struct, array_like=True, tag="dumped"):
    """The stacks of all tasks are in the stacks file."""


class Observed(Struct, array_like=True, tag="observed"):
    """What calls to a dependency came to since the last message: how many ended well, failed, and took too long.

    A slow call is counted in `slow` besides, whatever it came to. `probe_job`: this is the verdict of that job's probe.
    `error`: "Type: message" of the last failure. With no figure at all: a call was refused here, by a half-open breaker
    that has no probe.
    """

    name: str
    ok: int = 0
    failed: int = 0
    slow: int = 0
    probe_job: int = 0
    error: str | None = None


class Told(Struct, array_like=True, tag="told"):
    """What jobs have to tell: progress, and of followed ones log lines and emitted values; and what was left out."""

    entries: list[WorkerEntry]
    skipped: list[JobSkipped] = []


class PortOffered(Struct, array_like=True, tag="port"):
    """This job waits for a client at a port; the client's end, a stream socket, comes along as a descriptor."""

    id: int


class LoopBlocked(Struct, array_like=True, tag="blocked"):
    """The worker's loop stood still for so long. `task` is the name of what ran then, `stack` where it was.

    The stack is one line, the innermost frame first. `left_out`: how often this happened since the last message
    without being told. `still`: it stands there yet.
    """

    lag_ms: float
    task: str
    stack: str
    left_out: int = 0
    still: bool = False


FromWorker = Hello | Done | Returned | StacksDumped | Observed | Told | PortOffered | LoopBlocked


# --- supervisor and nursery: calls


class LoadHandlers(Struct, array_like=True, tag="load"):
    """Import these modules, with `path` in front of the search path. Answered by Loaded."""

    modules: list[str]
    path: list[str]


class Loaded(Struct, array_like=True, tag="loaded"):
    """What the modules declare."""

    kinds: list[KindSpec]


class ForkWorker(Struct, array_like=True, tag="fork"):
    """Fork a worker. Descriptors with the message: its channel, its recorder page, its stacks file, its output file.

    `config` is a WorkerConfig. Answered by Forked.
    """

    config: Any


class Forked(Struct, array_like=True, tag="forked"):
    """The new worker's pid. It is (or becomes at once) a child of the supervisor."""

    pid: int


class WorkerConfig(Struct):
    """What a worker must know. `log_level` as in logs.level."""

    id: int
    supervisor_pid: int
    async_slots: int
    job_log_dir: str
    job_log_bytes: int
    result_bytes: int
    log_level: str = "info"
    #: Names this queue among all others, for marks in databases that several of them share.
    store_id: str = ""
    dependencies: Dependencies = Dependencies()
    #: Results above `result_bytes` and files of handlers go into this folder, each up to `blob_bytes`.
    spool_dir: str = ""
    blob_bytes: int = 0
    #: What every command that jobs start has in its environment (PERDURE_OWNER), so that it can be found again.
    owner: str = ""
    #: Commands that the kind `shell` may run: patterns for the absolute path of the program.
    shell_allow: list[str] = []
    #: Seconds between SIGTERM and SIGKILL for a command that is ended …
    command_grace: float = 2.0
    #: … and how long after its time limit a job may run until its worker is killed, commands and all.
    hard_grace: float = 0.5


ToNursery = LoadHandlers | ForkWorker
FromNursery = Loaded | Forked
