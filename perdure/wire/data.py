"""Plain data that crosses a channel or a layer: no behaviour, no I/O."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Lane = Literal["sync", "async"]


class ErrorData(Struct, omit_defaults=True):
    """An exception as data. `type` is the class's name; `retryable` None means: not said."""

    type: str
    message: str
    retryable: bool | None = None
    traceback: str | None = None
    cause: ErrorData | None = None


class Param(Struct, array_like=True):
    """One argument of a handler. `type` is a small type expression, see `perdure.signature`."""

    name: str
    type: str
    required: bool


class KindSpec(Struct, omit_defaults=True):
    """What a handler declares: everything the supervisor must know without importing it.

    None means: the configuration's default. Times are milliseconds.
    """

    name: str
    lane: Lane
    params: list[Param]
    accepts_extra: bool = False
    queue: str | None = None
    priority: int | None = None
    max_attempts: int | None = None
    max_interruptions: int | None = None
    timeout_ms: int | None = None
    needs: list[str] = []
    module: str = ""
    doc: str = ""


class Blob(Struct, omit_defaults=True):
    """A file that belongs to a job: its payload, or its result. The queue holds this, never the bytes.

    `spool`: its name in the spool folder, where it lives and dies with its jobs; else `path` is the absolute path of
    somebody else's file, as it was at `mtime_ns`. `size` in bytes, `sha256` in hex. `json`: the content is JSON text.
    """

    size: int
    sha256: str
    path: str = ""
    spool: str = ""
    mtime_ns: int = 0
    json: bool = False


class JobSpec(Struct, omit_defaults=True):
    """One job as a producer asks for it. None means: what the kind declares, else the configuration's default.

    `args` is a JSON object as text. `delay_ms` counts from the moment the daemon takes it; `at_ms` is absolute.
    `blob`: the job's payload is this file (`path`). `blob_fd`: the payload is what stands in the descriptor of this
    position among those that came with the request; it is copied into the spool before the answer.
    """

    kind: str
    args: str = "{}"
    queue: str | None = None
    priority: int | None = None
    max_attempts: int | None = None
    max_interruptions: int | None = None
    timeout_ms: int | None = None
    delay_ms: int | None = None
    at_ms: int | None = None
    unique: str | None = None
    tags: list[str] = []
    blob: Blob | None = None
    blob_fd: int | None = None


class JobView(Struct, omit_defaults=True):
    """A job as people see it. `args`, `errors`, `result` are JSON text; times are epoch milliseconds."""

    id: int
    kind: str
    queue: str
    state: str
    priority: int
    args: str
    attempt: int
    max_attempts: int
    interruptions: int
    max_interruptions: int
    created_at: int
    scheduled_at: int
    timeout_ms: int | None = None
    attempted_at: int | None = None
    finalized_at: int | None = None
    park_reason: str | None = None
    unique_key: str | None = None
    tags: str | None = None
    errors: str | None = None
    result: str | None = None
    blob: str | None = None
    result_blob: str | None = None


class DeadView(Struct, omit_defaults=True):
    """A dead letter as people see it. `args`, `last_args`, `errors`, `history`, `tags` are JSON text."""

    id: int
    kind: str
    queue: str
    priority: int
    args: str
    last_args: str
    attempt: int
    max_attempts: int
    interruptions: int
    max_interruptions: int
    created_at: int
    died_at: int
    deaths: int
    reason: str
    fingerprint: str
    errors: str
    history: str
    timeout_ms: int | None = None
    attempted_at: int | None = None
    unique_key: str | None = None
    tags: str | None = None
    resolution: str | None = None
    resolved_at: int | None = None
    blob: str | None = None


class QueueView(Struct, omit_defaults=True):
    """A queue: how many jobs in each state, and whether it is paused (since when, by whom).

    `max_depth`, `max_age_ms`: its limits, 0 for none; `when_full`: what happens at them. `pressure`: how near it is to
    a limit, 0.0 (empty, or no limit) to 1.0 (full) and above.
    """

    name: str
    counts: dict[str, int]
    paused_at: int | None = None
    paused_by: str | None = None
    max_depth: int = 0
    max_age_ms: int = 0
    when_full: str = ""
    pressure: float = 0.0


class JobFilter(Struct, omit_defaults=True):
    """Which jobs to list, newest first. `before` is an id: the page that ends below it."""

    states: list[str] = []
    queue: str | None = None
    kind: str | None = None
    tag: str | None = None
    before: int | None = None
    limit: int = 50


class DeadFilter(Struct, omit_defaults=True):
    """Which dead letters to list, newest death first; resolved ones only when asked for."""

    queue: str | None = None
    kind: str | None = None
    fingerprint: str | None = None
    include_resolved: bool = False
    after: int | None = None
    limit: int = 50


class Enqueued(Struct, omit_defaults=True):
    """What became of one JobSpec: its id, or the id of the unfinished job that holds its unique key.

    `shed`: its queue is full, and this job was the least urgent: it is in the dead letters. `pressure`: see QueueView.
    """

    id: int
    duplicate: bool = False
    shed: bool = False
    pressure: float = 0.0


class Verdict(Struct, omit_defaults=True):
    """What became of one id in a request over several: `error` None means done."""

    id: int
    error: ErrorData | None = None


class BreakerInfo(Struct, omit_defaults=True):
    """A breaker as people see it. Times are epoch milliseconds; `ok`, `failed`, `slow` are calls in the rolling window.

    `until`: when the break is over, None if it lasts until somebody closes it. `parked`: jobs that wait for it.
    `ramp`: jobs a second that are being released after a break, 0.0 when none are.
    """

    name: str
    state: str
    reason: str = ""
    changed_at: int | None = None
    changed_by: str = ""
    until: int | None = None
    break_ms: int = 0
    probe_job: int = 0
    ok: int = 0
    failed: int = 0
    slow: int = 0
    parked: int = 0
    ramp: float = 0.0
    last_error: str | None = None
    events: list[BreakerEvent] = []


class BreakerEvent(Struct, array_like=True):
    """A change of a breaker's state: when (epoch milliseconds), from what to what, why, by whom ("": by itself)."""

    name: str
    at: int
    was: str
    now: str
    reason: str
    who: str = ""


class Explanation(Struct, omit_defaults=True):
    """Why a job is where it is. `because` is a word for programs; `text` a sentence or more for people.

    because: "completed", "cancelled", "dead", "running", "claimed", "next", "behind", "scheduled", "retry", "paused",
    "kind", "needs", "breaker", "probe", "alone", "no-daemon", "lane-full", "stopping". `ahead`: how many jobs of its
    queue come before it. `seconds_left` until something changes by itself, when that is known. `name`: the breaker,
    queue or kind.
    """

    id: int
    state: str
    because: str
    text: str
    name: str = ""
    ahead: int | None = None
    seconds_left: float | None = None
    holders: list[int] = []
