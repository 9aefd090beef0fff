"""Times that people type."""

from __future__ import annotations

import re
from datetime import datetime, time, timedelta

from perdure.errors import InvalidOption

#: Year 9999: what a datetime can still show.
_LAST_MS = 253_402_300_799_000


def duration_ms(value: str | float) -> int:
    """Milliseconds of "30s", "5m", "1h30m", or of a number of seconds. Raises InvalidOption."""
    from perdure.duration import parse_duration_ms

    text = f"{value:f}" if isinstance(value, float) else str(value).strip()
    if text.startswith("-"):
        raise InvalidOption(f"{text!r} is negative; write a duration such as 30s, 5m or 1h30m")
    try:
        return parse_duration_ms(float(text) if _is_number(text) else text)
    except (ValueError, OverflowError, InvalidOption) as error:
        raise InvalidOption(str(error)) from None


def moment_ms(value: str | float, now: datetime | None = None) -> int:
    """Milliseconds since the epoch of a time that someone typed. Raises InvalidOption.

    ISO 8601 with or without a zone (without: local time), "14:30" (the next time it is so), or seconds since the epoch.
    """
    text = str(value).strip()
    try:
        found = _moment(text, now or datetime.now().astimezone())
    except (ValueError, OverflowError, OSError):
        raise InvalidOption(
            f"{text!r} is not a time; write 2027-01-31T14:30, 2027-01-31T14:30+01:00, 14:30 or seconds since the epoch"
        ) from None
    if not 0 <= found <= _LAST_MS:
        raise InvalidOption(f"{text!r} is outside the years 1970 to 9999; epoch times are in seconds")
    return found


def _moment(text: str, now: datetime) -> int:
    # Eight digits are the ISO date 20270131; epoch seconds have had nine or more since 1973.
    if _is_number(text) and len(text.partition(".")[0]) >= 9:
        return round(float(text) * 1000)
    if re.fullmatch(r"\d{1,2}:\d{2}(:\d{2})?", text, re.ASCII):
        return _ms(_next_time_of_day(text, now))
    return _ms(datetime.fromisoformat(text))


def _next_time_of_day(text: str, now: datetime) -> datetime:
    hour, minute, second = (int(part) for part in f"{text}:00".split(":")[:3])
    at = time(hour, minute, second)
    today = datetime.combine(now.date(), at)
    return today if today.astimezone() > now else today + timedelta(days=1)


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d*)?", text, re.ASCII) is not None
