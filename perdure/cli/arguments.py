"""Job arguments as they are typed: key=value, key:=json, and whole objects."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from perdure.errors import InvalidArguments, UsageError

Object = dict[str, msgspec.Raw]


def parse_object(text: str | bytes, what: str) -> Object:
    """A JSON object, its values left as they are written. `what` names it in errors. Raises InvalidArguments."""
    try:
        return msgspec.json.decode(text, type=Object)
    except msgspec.ValidationError:
        raise InvalidArguments(f"{what} is not a JSON object; write {{…}}") from None
    except RecursionError:
        raise InvalidArguments(f"{what} is nested too deeply") from None
    except UnicodeError:
        raise InvalidArguments(f"{what} is not valid UTF-8") from None
    except msgspec.DecodeError as error:
        raise InvalidArguments(f"{what} is not valid JSON: {_reason(error)}") from None


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
        raise InvalidArguments(f"argument {_readable(key)} is not valid UTF-8") from None
    except RecursionError:
        raise InvalidArguments(f"argument {key!r} is nested too deeply") from None
    except msgspec.DecodeError as error:
        raise InvalidArguments(
            f"argument {key!r} is not valid JSON: {_reason(error)}; for text write {key}=…"
        ) from None
    return key, msgspec.Raw(text.encode())


def _reason(error: msgspec.DecodeError) -> str:
    return str(error).removeprefix("JSON is malformed: ")


def _readable(text: str) -> str:
    return repr(text.encode(errors="surrogateescape").decode(errors="replace"))
