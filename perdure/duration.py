"""Durations and sizes as people write them: "1h30m", "250ms", "64MiB".

Numbers alone mean seconds and bytes. All arithmetic is in whole numbers, so nothing is lost to floating point.
"""

from __future__ import annotations

import math
import re
from typing import Final

#: Milliseconds in each unit of time, the largest first: the order in which they must be written.
DURATION_UNITS: Final = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}

#: Bytes in each unit of size. kB, MB, GB and TB are powers of 1000.
SIZE_UNITS: Final = {
    "TiB": 1 << 40,
    "GiB": 1 << 30,
    "MiB": 1 << 20,
    "KiB": 1 << 10,
    "TB": 10**12,
    "GB": 10**9,
    "MB": 10**6,
    "kB": 10**3,
    "B": 1,
}

#: The longest duration: a hundred years. Times stay far inside the 64 bits that the store has for them.
MAX_DURATION_MS: Final = 36_525 * 86_400_000
#: The largest size: what a signed 64-bit number holds.
MAX_SIZE_BYTES: Final = 2**63 - 1

#: Longer texts are not looked at: nobody means them, and they cost time.
_MAX_TEXT: Final = 64

_NUMBER = re.compile(r"([0-9]+)(?:\.([0-9]+))?")
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)")
_SIZE_FACTORS = {name.lower(): factor for name, factor in SIZE_UNITS.items()}

_DURATION_HELP = 'write it like "250ms", "30s", "10m", "1h30m" or "7d", or as a number of seconds'
_SIZE_HELP = 'write it like "512B", "64KiB", "1MiB" or "2GB", or as a number of bytes'


def parse_duration_ms(value: str | int | float) -> int:
    """The milliseconds of "1h30m", "250ms", "1.5h" or a number of seconds (as number or as text).

    Raises ValueError for anything else, for what is negative, longer than a hundred years, or not zero and yet
    shorter than a millisecond (it must not turn into 0, which often means "no limit").
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"{_show(value)} is not a duration: {_DURATION_HELP}")
    milliseconds = _duration_text(value) if isinstance(value, str) else _duration_seconds(value)
    if milliseconds > MAX_DURATION_MS:
        raise ValueError(f"{_show(value)} is longer than a hundred years")
    return milliseconds


def parse_size_bytes(value: str | int) -> int:
    """The bytes of "1MiB", "64KiB", "1.5GB" or a whole number (as number or as text). Units in any case.

    Raises ValueError for anything else, for what is negative, too large, or no whole number of bytes.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError(f"{_show(value)} is not a size: {_SIZE_HELP}")
    size = _size_text(value) if isinstance(value, str) else value
    if size < 0:
        raise ValueError(f"{_show(value)} is negative: a size is not")
    if size > MAX_SIZE_BYTES:
        raise ValueError(f"{_show(value)} is too large")
    return size


def format_duration(milliseconds: int, *, approx: bool = False) -> str:
    """As parse_duration_ms reads it: "1h30m", "1.5s", "250ms", "0s". Exact, unless `approx`: its two largest units."""
    if milliseconds < 0:
        return "-" + format_duration(-milliseconds, approx=approx)
    if milliseconds < 1_000:
        return f"{milliseconds}ms" if milliseconds else "0s"
    parts: list[str] = []
    rest = milliseconds
    for unit, factor in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000)):
        count, rest = divmod(rest, factor)
        if count:
            parts.append(f"{count}{unit}")
    if rest and not (approx and parts):
        parts.append(_seconds(rest, digits=1 if approx else 3))
    elif rest >= 1_000:
        parts.append(f"{rest // 1_000}s")
    return "".join(parts[:2] if approx else parts)


def format_size(size_bytes: int, *, approx: bool = False) -> str:
    """As parse_size_bytes reads it: "64MiB", "1536B". Exact, unless `approx`: one decimal of the fitting unit."""
    if size_bytes < 0:
        return "-" + format_size(-size_bytes, approx=approx)
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        factor = SIZE_UNITS[unit]
        if size_bytes >= factor and size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
        if size_bytes >= factor and approx:
            return f"{size_bytes / factor:.1f}".removesuffix(".0") + unit
    return f"{size_bytes}B"


def _duration_seconds(value: int | float) -> int:
    """A number of seconds, in milliseconds."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{_show(value)} is not a duration: {_DURATION_HELP}")
    if value < 0:
        raise ValueError(f"{_show(value)} is negative: a duration is not")
    milliseconds = value * 1_000 if isinstance(value, int) else round(min(value, 1e12) * 1_000)
    if value and not milliseconds:
        raise ValueError(f"{_show(value)} seconds is shorter than a millisecond")
    return milliseconds


def _duration_text(text: str) -> int:
    """The sum of the parts of a text, each unit at most once and the larger ones first."""
    stripped = text.strip()
    if stripped.startswith("-"):
        raise ValueError(f"{_show(text)} is negative: a duration is not")
    if _NUMBER.fullmatch(stripped) and len(stripped) <= _MAX_TEXT:
        return _at_least_a_millisecond(text, stripped, 1_000)
    units = list(DURATION_UNITS)
    position, total = 0, 0
    while position < len(stripped) <= _MAX_TEXT:
        match = _DURATION_PART.match(stripped, position)
        if match is None:
            break
        number, unit = match.groups()
        if unit not in DURATION_UNITS:
            raise ValueError(f'{_show(text)}: unknown unit "{unit}": use w, d, h, m, s or ms')
        if unit not in units:
            raise ValueError(f"{_show(text)}: write every unit once, and the larger ones first, like 1h30m")
        units = units[units.index(unit) + 1 :]
        total += _at_least_a_millisecond(text, number, DURATION_UNITS[unit])
        position = match.end()
    if position == 0 or position < len(stripped):
        raise ValueError(f"{_show(text)} is not a duration: {_DURATION_HELP}")
    return total


def _at_least_a_millisecond(text: str, number: str, factor: int) -> int:
    """`number` times `factor`, rounded to whole milliseconds, though never from something to nothing."""
    numerator, denominator = _scaled(number, factor)
    milliseconds = (2 * numerator + denominator) // (2 * denominator)
    if numerator and not milliseconds:
        raise ValueError(f"{_show(text)} is shorter than a millisecond")
    return milliseconds


def _size_text(text: str) -> int:
    """The bytes of a text."""
    stripped = text.strip()
    if stripped.startswith("-"):
        raise ValueError(f"{_show(text)} is negative: a size is not")
    match = _SIZE.fullmatch(stripped + "B" if stripped.isdecimal() else stripped)
    if match is None or len(stripped) > _MAX_TEXT or not stripped.isascii():
        raise ValueError(f"{_show(text)} is not a size: {_SIZE_HELP}")
    number, unit = match.groups()
    factor = _SIZE_FACTORS.get(unit.lower())
    if factor is None:
        raise ValueError(
            f'{_show(text)}: unknown unit "{unit}": use B, KiB, MiB, GiB, TiB (powers of 1024) '
            "or kB, MB, GB, TB (powers of 1000)"
        )
    numerator, denominator = _scaled(number, factor)
    if numerator % denominator:
        raise ValueError(f"{_show(text)} is not a whole number of bytes")
    return numerator // denominator


def _scaled(number: str, factor: int) -> tuple[int, int]:
    """A decimal number times `factor`, as a fraction of whole numbers."""
    whole, _, decimals = number.partition(".")
    return int(whole + decimals) * factor, int(10 ** len(decimals))


def _seconds(milliseconds: int, digits: int) -> str:
    """Seconds with at most `digits` decimals, cut, without trailing zeros."""
    whole, rest = divmod(milliseconds, 1_000)
    decimals = f"{rest:03d}"[:digits].rstrip("0")
    return f"{whole}.{decimals}s" if decimals else f"{whole}s"


def _show(value: object) -> str:
    """The value as it may stand in a message: short, and on one line."""
    if isinstance(value, str):
        text = '"' + value.encode("unicode_escape").decode() + '"'
    elif isinstance(value, int) and value.bit_length() > 256:
        text = f"a number of {value.bit_length()} bits"
    else:
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
