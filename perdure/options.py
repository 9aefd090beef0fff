"""What a producer may say about a job besides its arguments, as Python values."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypedDict

from perdure.duration import parse_duration_ms
from perdure.errors import InvalidOption
from perdure.names import (
    LAST_MS,
    check_max_attempts,
    check_max_interruptions,
    check_name,
    check_priority,
    check_timeout,
)
from perdure.wire.data import JobSpec

if TYPE_CHECKING:
    from perdure.payload import Source

#: How long to wait for room in a full queue; None: as configured.
Patience: TypeAlias = float | str | timedelta | None


class JobOptions(TypedDict, total=False):
    """Options of one job; what is not given comes from the handler's declaration, else from the configuration.

    `delay` and `timeout`: seconds, text such as "10m", or a timedelta; a timeout of 0 means no limit. `at`: a datetime
    with a time zone, ISO text with one, or seconds since the epoch. `unique`: while an unfinished job of this kind has
    the key, another one is not added. `priority`: -20 (first) to 19. `tags`: up to 20 labels.
    """

    queue: str
    priority: int
    delay: float | str | timedelta
    at: datetime | str | float
    unique: str
    tags: Sequence[str]
    timeout: float | str | timedelta
    max_attempts: int
    max_interruptions: int


class EnqueueOptions(JobOptions, total=False):
    """What `handler.enqueue` takes besides the handler's arguments: options of the job, and of the request.

    `blob`: the job's payload, bytes or the path of a file; `spool`: that file is copied, and may go then; `patience`:
    how long to wait for room in a full queue. See Client.enqueue.
    """

    blob: Source | None
    spool: bool
    patience: Patience


OPTION_NAMES: Final = frozenset(JobOptions.__annotations__)
#: Options of one request, not of a job.
REQUEST_NAMES: Final = frozenset(EnqueueOptions.__annotations__) - OPTION_NAMES


def job_spec(kind: str, args: str, options: Mapping[str, Any]) -> JobSpec:
    """The request for one job; `args` is JSON text. Options that are None count as not given. Raises InvalidOption."""
    spec = JobSpec(_text("kind", kind), args)
    for name, value in options.items():
        if name not in OPTION_NAMES:
            raise InvalidOption(_unknown(name))
        if value is not None:
            field, convert = _FIELDS[name]
            setattr(spec, field, convert(name, value))
    return spec


def check_spec(spec: JobSpec) -> None:
    """Raise InvalidOption if a name, budget or limit is outside what is allowed."""
    check_name("kind", spec.kind)
    if spec.queue is not None:
        check_name("queue", spec.queue)
    if spec.priority is not None:
        check_priority(spec.priority)
    if spec.max_attempts is not None:
        check_max_attempts(spec.max_attempts)
    if spec.max_interruptions is not None:
        check_max_interruptions(spec.max_interruptions)
    if spec.timeout_ms is not None:
        check_timeout(spec.timeout_ms)


def duration_ms(name: str, value: float | str | timedelta) -> int:
    """Milliseconds of an option that is a duration. Raises InvalidOption."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    try:
        return parse_duration_ms(value)
    except ValueError as error:
        raise InvalidOption(f"{name}: {error}") from error


def seconds(name: str, value: object) -> float | None:
    """How long to wait for an answer; None: as long as it takes. Raises InvalidOption."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise InvalidOption(f"{name}: expected a number of seconds, or None for no limit, got {value!r:.60}")
    return value


def path_text(name: str, value: object) -> str:
    """A path as text. Raises InvalidOption."""
    if isinstance(value, str | bytes | os.PathLike):
        return os.fsdecode(value)
    raise InvalidOption(f"{name}: expected a path, got {type(value).__name__}")


def moment_ms(name: str, value: datetime | str | float) -> int:
    """Milliseconds since the epoch of an option that is a moment. Raises InvalidOption."""
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            if value.tzinfo is None:
                raise InvalidOption(f"{name}: {value} has no time zone; use datetime.now(UTC) or .astimezone()")
            # Through whole numbers: a float of seconds would lose the milliseconds' last digit now and then.
            found = (value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidOption(f"{name}: expected a datetime, ISO text or seconds, got {type(value).__name__}")
        else:
            found = round(value * 1000)
    except (ValueError, OverflowError) as error:
        raise InvalidOption(f"{name}: {value!r:.60} is no time; give a datetime, ISO text or epoch seconds") from error
    if not 0 <= found <= LAST_MS:
        raise InvalidOption(f"{name}: {value!s:.60} is outside the years 1970 to 9999; epoch times are in seconds")
    return found


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidOption(f"{name}: expected text, got {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidOption(f"{name}: {value!r:.60} has a lone surrogate, which is no text") from None
    return value


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidOption(f"{name}: expected a whole number, got {type(value).__name__}")
    if not -(2**63) <= value < 2**63:
        raise InvalidOption(f"{name}: {value.bit_length()} bits are too many")
    return value


def _tags(name: str, value: object) -> list[str]:
    if isinstance(value, str) or not isinstance(value, Sequence | set | frozenset):
        raise InvalidOption(f'{name}: expected a list of texts, such as ["nightly"], got {type(value).__name__}')
    return [_text(name, tag) for tag in value]


_FIELDS: Final[dict[str, tuple[str, Any]]] = {
    "queue": ("queue", _text),
    "priority": ("priority", _whole),
    "delay": ("delay_ms", duration_ms),
    "at": ("at_ms", moment_ms),
    "unique": ("unique", _text),
    "tags": ("tags", _tags),
    "timeout": ("timeout_ms", duration_ms),
    "max_attempts": ("max_attempts", _whole),
    "max_interruptions": ("max_interruptions", _whole),
}


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, OPTION_NAMES, n=1)
    hint = f", did you mean {close[0]!r}?" if close else f"; there are {', '.join(sorted(OPTION_NAMES))}"
    return f"unknown option {name!r}{hint}"
