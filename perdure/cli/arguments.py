"""Job arguments as they are typed: key=value, key:=json, and whole objects."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from perdure.errors import InvalidArguments, UsageError

Object = dict[str, msgspec.Raw]

_TOO_DEEP = "is nested too deeply (limits.args_depth); pass flatter data, or a path to a file"
_LONE_SURROGATE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")


def parse_object(text: str | bytes, what: str) -> Object:
    """A JSON object, its values left as they are written. `what` names it in errors. Raises InvalidArguments."""
    if isinstance(text, str) and text.startswith("@"):
        raise InvalidArguments(f'{what} takes the object itself; for one in a file: {what} "$(cat {_shown(text[1:])})"')
    try:
        return msgspec.json.decode(text, type=Object)
    except msgspec.ValidationError:
        raise InvalidArguments(f"{what} is not a JSON object; write {{…}}") from None
    except RecursionError:
        raise InvalidArguments(f"{what} {_TOO_DEEP}") from None
    except UnicodeError:
        raise InvalidArguments(f"{what} is not valid UTF-8") from None
    except msgspec.DecodeError as error:
        raise InvalidArguments(f"{what} is not valid JSON: {_reason(text, error)}") from None


def parse_pairs(pairs: Iterable[str], base: Object | None = None) -> Object:
    """`base` with key=value (text) and key:=json added. Raises UsageError for what is neither, or a key given twice."""
    found = dict(base or {})
    seen = set()
    for pair in pairs:
        key, raw = _parse_pair(pair)
        if key in seen:
            raise UsageError(f"argument {key!r} is given twice")
        seen.add(key)
        found[key] = raw
    return found


def object_text(value: Object) -> str:
    """The object as JSON text."""
    return msgspec.json.encode(value).decode()


def _parse_pair(pair: str) -> tuple[str, msgspec.Raw]:
    key, equals, text = pair.partition("=")
    is_json = key.endswith(":")
    key = key.removesuffix(":")
    if not equals or not key:
        raise UsageError(f"{pair!r} is not an argument; write key=value for text, or key:=json (count:=3) for the rest")
    try:
        if not is_json:
            key.encode()
            return key, msgspec.Raw(msgspec.json.encode(text))
        msgspec.json.decode(text)
    except UnicodeError:
        raise InvalidArguments(f"argument {_shown(key)!r} is not valid UTF-8") from None
    except RecursionError:
        raise InvalidArguments(f"argument {key!r} {_TOO_DEEP}") from None
    except msgspec.DecodeError as error:
        raise InvalidArguments(
            f"argument {key!r} is not valid JSON: {_reason(text, error)}; for text write {key}=…"
        ) from None
    return key, msgspec.Raw(text.encode())


def _reason(text: str | bytes, error: msgspec.DecodeError) -> str:
    """What is wrong with the text, in other words than the parser's where those would mislead."""
    raw = text if isinstance(text, bytes) else text.encode(errors="replace")
    reason = str(error).removeprefix("JSON is malformed: ")
    if "surrogate" in reason or (("truncated" in reason or "escape" in reason) and _LONE_SURROGATE.search(raw)):
        return "a lone surrogate (\\ud800 to \\udfff) is no text"
    if "truncated" in reason:
        return "it ends too early" if raw.strip() else "it is empty; write {}"
    place = re.search(r"invalid character \(byte ([0-9]+)\)", reason)
    if place and raw[int(place[1]) :].startswith((b"NaN", b"Infinity")):
        return "it has no NaN and no Infinity; write null, or text in quotes"
    return reason


def _shown(text: str) -> str:
    return text.encode(errors="surrogateescape").decode(errors="replace")
