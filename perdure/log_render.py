"""How an event looks: for people, for systemd's journal, for log collectors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final

from perdure.redact import redact, scrub

Event = MutableMapping[str, Any]
Renderer = Callable[[Any, str, Event], str]

#: systemd's priorities (sd-daemon(3)), which journalctl filters and colours by.
PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
#: journald cuts lines at 48 KiB, and would make two records of one.
JOURNAL_LINE_BYTES: Final = 40_000

_COLOURS: Final = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "1;31"}
#: Words, numbers, paths and names stand as they are ...
_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.,:;/@%+-*#()<>~")
#: ... and so does other text without these and without control characters.
_QUOTE_NEEDED: Final = frozenset(' "=\\')


def as_text(event: str, fields: Mapping[str, object]) -> str:
    """`event key=value …` on one line, secrets blotted out."""
    pairs = [f"{_key(key)}={quoted(redact(key, value))}" for key, value in fields.items()]
    return " ".join([_one_line(scrub(event)), *pairs])


def blot_secrets(_logger: Any, _method: str, event: Event) -> Event:
    """A processor: no secret gets any further."""
    return {key: redact(key, value) for key, value in event.items()}


def json_line(_logger: Any, _method: str, event: Event) -> str:
    """One JSON object: time, level, event, then the fields."""
    head = {key: event.pop(key) for key in ("time", "level", "event") if key in event}
    try:
        return _strict_json({**head, **event})
    except (ValueError, TypeError):
        return _strict_json({key: _json_or_text(value) for key, value in {**head, **event}.items()})


def journal_line(_logger: Any, _method: str, event: Event) -> str:
    """`<6>event key=value …`; the journal has the time already, and a traceback stays in the one record."""
    event.pop("time", None)
    level = event.pop("level", "info")
    line = f"<{PRIORITIES.get(level, 6)}>{_pairs(event)}"
    raw = line.encode("utf-8", "backslashreplace")
    if len(raw) <= JOURNAL_LINE_BYTES:
        return line
    # The end of a traceback tells more than its middle.
    half = JOURNAL_LINE_BYTES // 2
    head, tail = raw[:half].decode("utf-8", "ignore"), raw[-half:].decode("utf-8", "ignore")
    return f"{head} …({len(raw) - 2 * half} bytes cut)… {tail}"


def console_line(colours: bool) -> Renderer:
    """`12:00:00.123 info    event key=value …`, a traceback on lines of its own below."""

    def render(_logger: Any, _method: str, event: Event) -> str:
        time, level = str(event.pop("time", "")), str(event.pop("level", "info"))
        name = _one_line(str(event.pop("event", "")))
        traceback = event.pop("exception", None)
        clock, padded = time[11:23], f"{level:<9}"
        if colours:
            clock, padded, name = (
                f"\x1b[2m{clock}\x1b[0m",
                f"\x1b[{_COLOURS.get(level, '0')}m{padded}\x1b[0m",
                bold(name),
            )
        pairs = _fields(event, "\x1b[36m{}\x1b[0m=" if colours else "{}=")
        line = " ".join(part for part in (clock, padded + name, pairs) if part)
        return f"{line}\n{_visible(str(traceback))}" if traceback else line

    return render


def bold(text: str) -> str:
    """For terminals."""
    return f"\x1b[1m{text}\x1b[0m"


def quoted(value: object) -> str:
    """A value as it stands after the equals sign: no space, quote or control character unless inside quotes."""
    text = value if isinstance(value, str) else _as_str(value)
    if text and (_PLAIN.issuperset(text) or (text.isprintable() and _QUOTE_NEEDED.isdisjoint(text))):
        return text
    return json.dumps(text, ensure_ascii=not text.replace("\n", " ").isprintable())


def _pairs(event: Event) -> str:
    name = _one_line(str(event.pop("event", "")))
    fields = _fields(event, "{}=")
    return f"{name} {fields}" if fields else name


def _fields(event: Event, key_form: str) -> str:
    return " ".join(key_form.format(_key(key)) + quoted(value) for key, value in event.items())


def _key(key: str) -> str:
    return key if _PLAIN.issuperset(key) else quoted(key)


def _one_line(text: str) -> str:
    """Text in which nothing can start a line of its own or move a terminal's cursor."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def _visible(text: str) -> str:
    """The same for text of several lines."""
    return "\n".join(_one_line(line) for line in text.expandtabs(4).splitlines())


def _as_str(value: object) -> str:
    """In JSON's words; what JSON has no words for, as Python shows it."""
    if isinstance(value, (bool, list, dict)) or value is None:
        try:
            return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        except (ValueError, TypeError):
            return repr(value)
    return str(value)


def _json_or_text(value: object) -> object:
    """The value, or its text where JSON has none for it: NaN, a dict whose keys are tuples."""
    try:
        _strict_json(value)
    except (ValueError, TypeError):
        return str(value)
    return value


def _strict_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
