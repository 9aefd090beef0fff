"""Arguments are data: what would not come back from the queue as the same value is refused, with the path to it.

Two doors. `encode_args` turns a producer's values into JSON text; `check_args_text` judges JSON text from outside. What
passes either of them is also valid for SQLite's `json_valid`, which is looser in the escapes it lets through.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from itertools import accumulate
from pathlib import PurePath
from typing import Any, Final
from uuid import UUID

import msgspec

from perdure.errors import InvalidArguments, NotData

#: Nesting beyond this is a mistake or an attack; the configuration's limits.args_depth has the same default.
DEFAULT_DEPTH: Final = 100
#: Other readers of the queue lose digits beyond 64 bits. Unsigned ones are let in: hashes used as ids are like that.
INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**64 - 1

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
#: Refuses integers beyond 64 bits (OverflowError), at native speed.
refuse_big_integers: Final = msgspec.msgpack.Encoder().encode

#: A string, or the rest of the text after an unpaired quote: possessive and without failure, so linear in any input.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NOT_BRACKETS: Final = bytes(sorted(set(range(256)) - set(b"[]{}")))
_STEP: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
#: A high surrogate without its low one.
_HALF_PAIR: Final = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")
_TEXT_ONLY: Final = frozenset({str})
_PLAIN_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")

#: What to do instead, by type; the first match counts.
_ADVICE: Final[tuple[tuple[type | tuple[type, ...], str], ...]] = (
    ((datetime, date, time), "pass .isoformat()"),
    (timedelta, "pass .total_seconds()"),
    ((bytes, bytearray, memoryview), "pass a path, or base64 text"),
    ((set, frozenset), "pass a list"),
    ((UUID, PurePath, Decimal), "pass str(value)"),
    (Enum, "pass .value"),
    (msgspec.Struct, "pass msgspec.to_builtins(value)"),
    ((str, int, float), "pass a plain str, int or float"),
    (Mapping, "pass a dict"),
    (Iterable, "pass a list"),
)


def encode_args(value: Mapping[str, Any], what: str = "args", max_depth: int = DEFAULT_DEPTH) -> str:
    """The JSON text of a job's arguments. Tuples become lists; anything else comes back equal.

    `what` names the value in messages. Raises NotData with the path to the first value that is not data.
    """
    if not isinstance(value, dict):
        if not isinstance(value, Mapping):
            raise NotData(f"{what}: {_name(value)}; pass a dict of arguments")
        value = dict(value)
    return encode_data(value, what, max_depth)


def encode_data(value: object, what: str, max_depth: int = DEFAULT_DEPTH) -> str:
    """The same for a value of any shape, such as a handler's result."""
    return encode_data_utf8(value, what, max_depth).decode()


def encode_data_utf8(value: object, what: str, max_depth: int = DEFAULT_DEPTH) -> bytes:
    """The same as bytes."""
    try:
        if not _is_plain((value,), max_depth):
            _walk(value, what, max_depth)
        return _encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        _walk(value, what, max_depth)
        raise NotData(f"{what}: cannot be written as JSON ({error})") from error


def check_args_text(text: str | bytes, max_bytes: int = 1 << 20, max_depth: int = DEFAULT_DEPTH) -> None:
    """Refuse, with InvalidArguments, what is not a JSON object within the limits that every reader understands."""
    check_size(text, max_bytes, max_depth)
    decode_object(text)


def check_size(text: str | bytes, max_bytes: int, max_depth: int) -> None:
    """The cheap half of `check_args_text`: the size in bytes, and the depth before anything recurses into it."""
    if len(text) * (4 if isinstance(text, str) else 1) > max_bytes:
        size = len(_to_bytes(text))
        if size > max_bytes:
            raise InvalidArguments(
                f"the arguments are {size:,} bytes, over the limit of {max_bytes:,} (limits.args); pass a path instead"
            )
    brackets = text.count("[") + text.count("{") if isinstance(text, str) else text.count(b"[") + text.count(b"{")
    if brackets > max_depth and (depth := text_depth(_to_bytes(text))) > max_depth:
        raise InvalidArguments(
            f"the arguments are nested {depth:,} deep, over the limit of {max_depth} (limits.args_depth)"
        )


def decode_object(text: str | bytes) -> dict[str, Any]:
    """A JSON object as a dict. Raises InvalidArguments that says what is wrong with the text."""
    try:
        value = _decode(text)
        refuse_big_integers(value)
    except UnicodeError as error:
        raise InvalidArguments(_not_utf8(error)) from error
    except msgspec.MsgspecError as error:
        raise InvalidArguments(_not_json(text, error)) from error
    except OverflowError as error:
        raise InvalidArguments(
            "the arguments hold an integer beyond 64 bits, which other readers would round; pass it as text"
        ) from error
    except RecursionError as error:
        raise InvalidArguments("the arguments are nested too deep") from error
    if not isinstance(value, dict):
        name = json_name(value)
        raise InvalidArguments(f'the arguments must be a JSON object such as {{"path": "a.md"}}, not {name}')
    return value


def text_depth(text: bytes) -> int:
    """How deep a JSON text nests, without parsing it: brackets inside strings do not count."""
    brackets = _STRING.sub(b"", text).translate(None, _NOT_BRACKETS)
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0)


def json_name(value: object) -> str:
    """What JSON calls a value, for messages."""
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case dict():
            return "object"
        case _:
            return type(value).__name__


def _is_plain(values: Iterable[object], depth_left: int) -> bool:
    """Whether these are data beyond doubt: exact types only, so that no encoder's generosity plays a part.

    msgspec itself would write NaN as null, bytes and dates as text, sets as lists. False means: look closer.
    """
    for item in values:
        kind = type(item)
        if kind is str or kind is bool or item is None:
            continue
        if kind is int:
            if not INT_MIN <= item <= INT_MAX:  # type: ignore[operator]
                return False
        elif kind is float:
            if item - item != 0.0:  # type: ignore[operator]
                return False
        elif depth_left == 0 or not _is_plain_container(item, kind, depth_left - 1):
            return False
    return True


def _is_plain_container(item: Any, kind: type, depth_left: int) -> bool:
    if kind is dict:
        return _TEXT_ONLY.issuperset(map(type, item)) and _is_plain(item.values(), depth_left)
    if kind is not list and kind is not tuple:
        return False
    if len(item) > 50 and {float}.issuperset(map(type, item)) and math.isfinite(sum(item)):
        return True  # an embedding: judged at native speed
    return _is_plain(item, depth_left)


def _walk(value: object, path: str, depth_left: int, above: tuple[int, ...] = ()) -> None:
    """Find the first value that is not data and raise NotData for it. Only on suspicion: it is slow."""
    refusal = _refuse_scalar(value)
    if refusal is not None:
        raise NotData(f"{_short(path)}: {refusal}")
    if not isinstance(value, dict | list | tuple):
        return
    if id(value) in above:
        raise NotData(f"{_short(path)}: contains itself; pass data without cycles")
    if depth_left == 0:
        raise NotData(f"{_short(path)}: nested too deep; pass flatter data or a path to a file")
    above = (*above, id(value))
    if isinstance(value, dict):
        for key, item in value.items():
            _walk(item, _below(path, key), depth_left - 1, above)
    else:
        for index, item in enumerate(value):
            _walk(item, f"{path}[{index}]", depth_left - 1, above)


def _refuse_scalar(value: object) -> str | None:
    """Why a value by itself is not data, or None."""
    if value is None or type(value) is bool or isinstance(value, dict | list | tuple):
        return None
    if isinstance(value, Enum) and isinstance(value, str | int):
        value = value.value  # a StrEnum or IntEnum member equals its value, so it does come back
    if type(value) is str:
        return None if _is_text(value) else "text with a lone surrogate; decode it with errors='replace'"
    if type(value) is int:
        return None if INT_MIN <= value <= INT_MAX else "an integer beyond 64 bits; pass str(value)"
    if type(value) is float:
        return None if math.isfinite(value) else f"{value} is not a JSON number; pass None or text"
    return f"{_name(value)}; {advice}" if (advice := _advice(value)) else _name(value)


def _advice(value: object) -> str | None:
    if isinstance(value, type) or callable(value):
        return "pass a name or a path, not code"
    if dataclasses.is_dataclass(value):
        return "pass dataclasses.asdict(value)"
    return next((advice for types, advice in _ADVICE if isinstance(value, types)), "pass plain data")


def _below(path: str, key: object) -> str:
    if not isinstance(key, str):
        raise NotData(f"{_short(path)}: the key {_clip(key)} is {_name(key)}; pass str keys")
    if not _is_text(key):
        raise NotData(f"{_short(path)}: the key {key!a:.60} has a lone surrogate")
    return f"{path}.{key}" if _PLAIN_KEY.fullmatch(key) else f"{path}[{_clip(key)}]"


def _clip(value: object) -> str:
    """A short repr that cannot fail."""
    try:
        text = repr(value)
    except Exception:
        return f"<{_name(value)}>"
    return text if len(text) <= 60 else text[:57] + "..."


def _short(path: str) -> str:
    """A path that stays readable when it is a hundred steps long."""
    return path if len(path) <= 200 else f"{path[:120]} … {path[-60:]}"


def _name(value: object) -> str:
    if isinstance(value, type):
        return f"class {value.__name__}"
    return type(value).__name__


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _to_bytes(text: str | bytes) -> bytes:
    return text.encode(errors="surrogatepass") if isinstance(text, str) else text


def _not_utf8(error: UnicodeError) -> str:
    if isinstance(error, UnicodeEncodeError):
        return "the arguments hold a lone surrogate, which is no text in UTF-8"
    return f"the arguments are not UTF-8 ({error})"


_LONE: Final = "the arguments hold a lone surrogate (\\ud800 … \\udfff), which is no text"
#: Words in msgspec's messages that deserve a clearer one.
_CAUSES: Final[tuple[tuple[str, Callable[[bytes], bool], str], ...]] = (
    ("surrogate", lambda text: True, _LONE),
    ("escape", lambda text: _HALF_PAIR.search(text) is not None, _LONE),
    ("truncated", lambda text: _HALF_PAIR.search(text) is not None, _LONE),
    ("truncated", lambda text: not text.strip(), 'the arguments are empty; pass at least "{}"'),
    ("truncated", lambda text: True, "the arguments are cut off: the JSON text ends too early"),
    ("out of range", lambda text: True, "the arguments hold a number that is out of range"),
    (
        "invalid character",
        lambda text: re.search(rb"\b(NaN|Infinity)\b", text) is not None,
        "the arguments hold NaN or Infinity, which JSON does not have; pass null or text",
    ),
)


def _not_json(text: str | bytes, error: Exception) -> str:
    raw = _to_bytes(text)
    for word, applies, message in _CAUSES:
        if word in str(error) and applies(raw):
            return message
    reason = str(error).removeprefix("JSON is malformed: ")
    return f"the arguments are not JSON: {reason}"
