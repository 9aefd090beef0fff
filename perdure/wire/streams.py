"""What is told about jobs while they live: to the supervisor by workers, and to subscribers by the supervisor.

Each kind of entry may be left out when its reader is slow, log text first, and is then counted (Skipped).
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

#: What a subscriber can ask for.
Topic = Literal["state", "progress", "log", "emit"]
TOPICS: tuple[Topic, ...] = ("state", "progress", "log", "emit")


class StateChange(Struct, tag="state", omit_defaults=True, gc=False):
    """A job is in another state, on disk. `at`: epoch milliseconds. `state` "dead": in the dead letters.

    `error` is "Type: message" of the attempt that ended; `result` the JSON text of a small result.
    """

    id: int
    state: str
    at: int
    kind: str = ""
    queue: str = ""
    attempt: int = 0
    error: str | None = None
    result: str | None = None


class Progress(Struct, tag="progress", omit_defaults=True, gc=False):
    """How far a job is: `done` of `total` (None: nobody knows the total). A newer one takes the place of an older."""

    id: int
    done: float
    total: float | None = None
    text: str | None = None


class LogText(Struct, tag="log", omit_defaults=True, gc=False):
    """Whole lines of a job's output, `lines` of them. `earlier`: it was there before the subscription.

    `start`: where it begins, in bytes of all that was ever written into the job's log; None: the disk would not take
    it. `raw`: what stands there, where that is no valid UTF-8.
    """

    id: int
    text: str
    lines: int
    earlier: bool = False
    start: int | None = None
    raw: bytes | None = None


class Emitted(Struct, tag="emit", omit_defaults=True, gc=False):
    """A partial result: the `number`-th value (from 1) that this attempt has emitted, as JSON text.

    `since`: when that attempt has emitted its first, epoch milliseconds; a job that was replayed counts anew.
    """

    id: int
    value: str
    number: int
    earlier: bool = False
    attempt: int = 0
    since: int = 0


class Skipped(Struct, omit_defaults=True):
    """How many were left out, because somebody read more slowly than they came: state changes, lines, values."""

    states: int = 0
    lines: int = 0
    values: int = 0


class JobSkipped(Struct, array_like=True):
    """What a worker has left out for one job."""

    id: int
    lines: int
    values: int


WorkerEntry = Progress | LogText | Emitted
Entry = StateChange | Progress | LogText | Emitted


class News(Struct, tag="news", omit_defaults=True):
    """What a subscriber gets, at most every 100 ms or 64 KiB; it costs one credit.

    `skipped` counts what was left out before these entries. `ended`: every job that was asked for has ended, and this
    is the last message of the subscription. `error`: it ended for this reason.
    """

    subscription: int
    entries: list[Entry]
    skipped: Skipped = field(default_factory=Skipped)
    ended: bool = False
    error: str | None = None


class Grant(Struct, tag="grant"):
    """From a subscriber: send `messages` more."""

    subscription: int
    messages: int
