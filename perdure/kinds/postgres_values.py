"""Values of PostgreSQL that JSON has no word for, as PostgreSQL itself would write them."""

from __future__ import annotations

from datetime import date, datetime, time
from typing import Any, Final

import asyncpg
from asyncpg.types import BitString, Path

from perdure.kinds.plain import plain

#: What asyncpg makes of infinite times: the last and the first that Python has.
_END_DAYS: Final = {date.max: "infinity", date.min: "-infinity"}
_ENDS: Final = {datetime.combine(date.max, time.max): "infinity", datetime.combine(date.min, time.min): "-infinity"}


def translate(value: Any) -> Any:
    """A value that asyncpg has decoded, in words that say all of it; other values as they are.

    Times without an end are "infinity" and "-infinity", ranges "[1,5)", bits "0101"; composite values are objects.
    """
    match value:
        case asyncpg.Record():
            return dict(value.items())
        case asyncpg.Range():
            return _range(value)
        case BitString():
            return value.as_string().replace(" ", "")
        case Path():
            return {"closed": value.is_closed, "points": list(value.points)}
        case datetime():
            return _ENDS.get(value.replace(tzinfo=None), value)
        case date():
            return _END_DAYS.get(value, value)
    return value


def _range(value: Any) -> str:
    if value.isempty:
        return "empty"
    lower, upper = ("" if end is None else _bound(end) for end in (value.lower, value.upper))
    return f"{'[' if value.lower_inc else '('}{lower},{upper}{']' if value.upper_inc else ')'}"


def _bound(end: Any) -> str:
    """In quotes when a character in it has a meaning in a range."""
    text = str(plain(end, translate))
    if text and not any(character in '()[],"\\' or character.isspace() for character in text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
