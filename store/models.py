"""What goes into a group commit and what comes out of it. Times are epoch milliseconds, texts named *_json are JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec import Struct

from perdure.wire.data import Enqueued


class NewJob(Struct, gc=False):
    """A job with every default resolved and every value checked, ready to be written."""

    kind: str
    queue: str
    priority: int
    args: str
    max_attempts: int
    max_interruptions: int
    timeout_ms: int | None
    scheduled_at: int | None  # None: available at once
    unique_key: str | None
    tags_json: str | None
    blob_json: str | None = None


class Retried(NamedTuple):
    """A failed attempt with budget left: next attempt at `scheduled_at`."""

    id: int
    lease: int
    scheduled_at: int
    error_json: str


class Interrupted(NamedTuple):
    """The worker died while it executed the job: charged to the interruptions, available again."""

    id: int
    lease: int
    error_json: str


class Released(NamedTuple):
    """Given back unbegun or at a clean stop: charged to nothing, available again."""

    id: int
    lease: int


class Parked(NamedTuple):
    """Put aside until `reason` ('kind:NAME', 'breaker:NAME') is over: charged to nothing."""

    id: int
    lease: int
    reason: str


class Postponed(NamedTuple):
    """Failed through no fault of its own: charged to nothing, next attempt at `scheduled_at`."""

    id: int
    lease: int
    scheduled_at: int
    error_json: str


class Buried(NamedTuple):
    """Moved to the dead letters. `interrupted`: the last attempt is charged as an interruption, not as a failure."""

    id: int
    lease: int
    reason: str
    error_json: str
    fingerprint: str
    interrupted: bool


class Stopped(NamedTuple):
    """Cancelled while it executed: the attempt stays on record, with an entry of what became of it."""

    id: int
    lease: int
    error_json: str


class Shed(NamedTuple):
    """`queue` has `surplus` jobs too many: its least urgent available ones, the newest first, go to the dead letters.

    `error_json` becomes an entry of their errors: why they went. `known`: so many of the turn's duplicates were known
    to be some, and are not in the surplus.
    """

    queue: str
    surplus: int
    error_json: str
    known: int = 0


class NewBatch(NamedTuple):
    """The jobs of one enqueue call: all or none. `strict`: a taken unique key refuses the batch."""

    jobs: list[NewJob]
    strict: bool


class Claim(NamedTuple):
    """Claim up to `limit` available jobs of `queue`."""

    queue: str
    limit: int


class ClaimedJob(Struct, array_like=True, gc=False):
    """A claimed row, in the order of `perdure.wire.work.JobRow`."""

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
    blob: str | None = None


@dataclass(slots=True)
class Turn:
    """All that one transaction carries: outcomes first, then due jobs, new jobs, and last the claims.

    So a job that is enqueued in a turn can be claimed in the same turn. `lease` is the token that the turn's claims
    get. `completed` maps a lease to the ids that completed under it without a result.
    """

    now: int
    lease: int = 0
    completed: dict[int, list[int]] = field(default_factory=dict)
    results: list[tuple[int, int, str]] = field(default_factory=list)  # (id, lease, result_json)
    retried: list[Retried] = field(default_factory=list)
    interrupted: list[Interrupted] = field(default_factory=list)
    released: list[Released] = field(default_factory=list)
    parked: list[Parked] = field(default_factory=list)
    postponed: list[Postponed] = field(default_factory=list)
    buried: list[Buried] = field(default_factory=list)
    cancelled: list[Released] = field(default_factory=list)  # claimed, not begun, taken back by its producer
    stopped: list[Stopped] = field(default_factory=list)
    spooled: list[tuple[int, int, str]] = field(default_factory=list)  # (id, lease, blob_json): completed
    promote: bool = False
    batches: list[NewBatch] = field(default_factory=list)
    shed: list[Shed] = field(default_factory=list)  # after the new jobs are in, before the claims
    claims: list[Claim] = field(default_factory=list)
    claim_total: int = 0  # over all claims together


@dataclass(slots=True)
class Committed:
    """What a turn did. `placed` has one entry a batch: its jobs' places, or the error that refused that batch alone."""

    placed: list[list[Enqueued] | Exception] = field(default_factory=list)
    claimed: list[ClaimedJob] = field(default_factory=list)
    drained: list[str] = field(default_factory=list)  # claimed queues that had fewer jobs than asked for
    filled: list[str] = field(default_factory=list)  # queues that got available jobs by promotion or release
    stale: list[tuple[int, int]] = field(default_factory=list)  # (id, lease): outcomes refused by the fence
    shed: list[tuple[int, str]] = field(default_factory=list)  # (id, queue)
    next_due: int | None = None  # earliest scheduled_at left; only looked up when `promote` was set


class Recovered(NamedTuple):
    """What recovery found of the run before: how many jobs were charged, given back, buried and cancelled."""

    interrupted: int
    released: int
    buried: int
    cancelled: int = 0


class RunInfo(NamedTuple):
    """This start of the daemon, and whether the one before ended cleanly, on the same boot of the machine."""

    id: int
    previous_clean: bool
    previous_same_boot: bool


class SavedBreaker(NamedTuple):
    """A breaker as it outlasts a restart. Times are epoch milliseconds; `until` None: until somebody closes it."""

    name: str
    state: str
    changed_at: int
    changed_by: str
    reason: str
    until: int | None
    break_ms: int


class Depth(NamedTuple):
    """What waits in a queue (available, scheduled, retryable, parked), counted no further than asked for.

    `oldest_at`: since when the oldest available job could have run, epoch milliseconds; None: there is none.
    """

    waiting: int
    oldest_at: int | None


class Pruned(NamedTuple):
    """What retention has deleted: jobs and settled letters by id, and files of the spool that nobody refers to now."""

    ids: list[int]
    spooled: list[str]


class ParkedJob(NamedTuple):
    """Where a parked job stands in its line: first by priority, then by id."""

    id: int
    priority: int
    queue: str
