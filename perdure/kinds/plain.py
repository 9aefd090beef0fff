"""From the values of databases to what a job's result may hold, and no more of it than is reasonable."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final

import msgspec

from perdure.duration import parse_duration_ms
from perdure.errors import InvalidArguments

#: How much of what a statement returns stands in its job's result.
MOST_ROWS: Final = 1_000
MOST_ROWS_BYTES: Final = 256 * 1024


#: What a database's own kinds of values are in words that `plain` knows; others come back as they are.
Translate = Callable[[Any], Any]


def _as_it_is(value: Any) -> Any:
    return value


def plain(value: Any, translate: Translate = _as_it_is) -> Any:
    """The same value as JSON can hold it: times and spans of time as ISO text, numbers of any length as text, bytes in
    base64. What JSON has no number for is "NaN", "Infinity" or "-Infinity"."""
    value = translate(value)
    match value:
        case None | bool() | str():
            return value
        case int():
            return value if -(2**63) <= value < 2**63 else str(value)
        case float():
            return value if math.isfinite(value) else str(Decimal(value))
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return _iso_duration(value)
        case Decimal():
            return str(value)
        case bytes() | bytearray() | memoryview():
            return base64.b64encode(value).decode()
        case Mapping():
            return {str(key): plain(item, translate) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(item, translate) for item in value]
    return str(value)


def _iso_duration(span: timedelta) -> str:
    """`P1DT2H3M4.5S`; days have no sign of their own: `-P1DT12H` is a day and a half ago."""
    if span < timedelta(0):
        return f"-{_iso_duration(-span)}"
    minutes, rest = divmod(span.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    fraction = f".{span.microseconds:06}".rstrip("0") if span.microseconds else ""
    days = f"{span.days}D" if span.days else ""
    clock = "".join(f"{count}{unit}" for count, unit in ((hours, "H"), (minutes, "M")) if count)
    clock += f"{rest}{fraction}S" if rest or fraction or not (days or clock) else ""
    return f"P{days}T{clock}" if clock else f"P{days}"


def bounded(rows: Iterable[Mapping[str, Any]], translate: Translate = _as_it_is) -> dict[str, Any]:
    """{"rows": […]}, and "truncated": true when there are more than a result may hold."""
    kept: list[Any] = []
    size = 0
    for row in rows:
        one = plain(dict(row), translate)
        size += len(msgspec.json.encode(one))
        if len(kept) >= MOST_ROWS or size > MOST_ROWS_BYTES:
            return {"rows": kept, "truncated": True}
        kept.append(one)
    return {"rows": kept}


def seconds(timeout: str | float) -> float:
    """A time limit as it comes from a producer: text such as "30s", or seconds. Raises InvalidArguments."""
    try:
        milliseconds = parse_duration_ms(timeout)
    except Exception as error:
        raise InvalidArguments(f"timeout: {error}") from error
    if milliseconds <= 0:
        raise InvalidArguments("timeout: it must be above 0")
    return milliseconds / 1000
