"""What is data, and what is refused with the path to it."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import math
import pathlib
import re
import sqlite3
import time
import uuid
from collections import OrderedDict, defaultdict
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.data_check import check_args_text, decode_object, encode_args, text_depth
from perdure.errors import InvalidArguments, NotData

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
)
keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
data = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)
objects = st.dictionaries(keys, data, max_size=3)

sqlite = sqlite3.connect(":memory:", check_same_thread=False)


def sqlite_takes(text: str) -> bool:
    return bool(sqlite.execute("SELECT json_valid(?)", (text,)).fetchone()[0])


class Color(enum.Enum):
    RED = "red"


class Level(enum.StrEnum):
    LOW = "low"


class Point(msgspec.Struct):
    x: int


@dataclasses.dataclass
class Spot:
    x: int


class Text(str):
    """A subclass that would come back as plain text."""


def cycle() -> dict[str, Any]:
    inner: list[Any] = []
    inner.append(inner)
    return {"items": [inner]}


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


REFUSED = [
    ({"user": {"callback": len}}, "args.user.callback: builtin_function_or_method"),
    ({"user": {"callback": lambda: 0}}, "args.user.callback: function"),
    ({"items": [1, 2, 3, {"x": object()}]}, "args.items[3].x: object"),
    ({"a b": {1}}, "args['a b']: set; pass a list"),
    ({"a": frozenset()}, "args.a: frozenset; pass a list"),
    ({"a": b"x"}, "args.a: bytes; pass a path, or base64 text"),
    ({"a": [float("nan")]}, "args.a[0]: nan is not a JSON number"),
    ({"a": float("inf")}, "args.a: inf is not a JSON number"),
    ({"a": [0.0] * 99 + [-math.inf]}, "args.a[99]: -inf is not a JSON number"),
    ({"a": "x\ud800"}, "args.a: text with a lone surrogate"),
    ({"x\udfff": 1}, "has a lone surrogate"),
    ({"a": {1: 2}}, "args.a: the key 1 is int; pass str keys"),
    ({None: 2}, "args: the key None is NoneType"),
    ({"a": 2**64}, "args.a: an integer beyond 64 bits"),
    ({"a": [-(2**63) - 1]}, "args.a[0]: an integer beyond 64 bits"),
    ({"a": datetime.datetime.now(datetime.UTC)}, "args.a: datetime; pass .isoformat()"),
    ({"a": datetime.timedelta(1)}, "args.a: timedelta; pass .total_seconds()"),
    ({"a": uuid.uuid4()}, "args.a: UUID; pass str(value)"),
    ({"a": decimal.Decimal(1)}, "args.a: Decimal; pass str(value)"),
    ({"a": pathlib.Path("x")}, "PosixPath; pass str(value)"),
    ({"a": Color.RED}, "args.a: Color; pass .value"),
    ({"a": Point(1)}, "args.a: Point; pass msgspec.to_builtins(value)"),
    ({"a": Spot(1)}, "args.a: Spot; pass dataclasses.asdict(value)"),
    ({"a": Text("x")}, "args.a: Text; pass a plain str"),
    ({"a": msgspec.Raw(b"!")}, "args.a: Raw"),
    ({"a": int}, "args.a: class int; pass a name or a path, not code"),
    ({"a": iter(())}, "args.a: tuple_iterator; pass a list"),
    (cycle(), "args.items[0][0]: contains itself"),
    (nested(101), "nested too deep"),
    (nested(5_000), "nested too deep"),
]


@pytest.mark.parametrize(("value", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_is_not_data_is_refused_with_its_path(value: dict[str, Any], message: str) -> None:
    """A producer would not learn which of a hundred values cannot be stored, or it would change in silence."""
    with pytest.raises(NotData, match=re.escape(message)):
        encode_args(value)


@pytest.mark.parametrize("value", [[], "x", 3, None])
def test_arguments_are_a_mapping(value: Any) -> None:
    """Arguments have names; a list of them would fail in the worker."""
    with pytest.raises(NotData, match="pass a dict"):
        encode_args(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({}, "{}"),
        ({"a": (1, (2,))}, '{"a":[1,[2]]}'),
        ({"a": Level.LOW, Level.LOW: 1}, '{"a":"low","low":1}'),
        ({"a": 2**64 - 1, "b": -(2**63)}, '{"a":18446744073709551615,"b":-9223372036854775808}'),
        (OrderedDict(b=1, a=defaultdict(int, x=1)), '{"b":1,"a":{"x":1}}'),
        (MappingProxyType({"a": None}), '{"a":null}'),
        ({"a": [{"b": 1}] * 3}, '{"a":[{"b":1},{"b":1},{"b":1}]}'),
        ({"a": [1e308] * 60}, None),
    ],
)
def test_what_comes_back_equal_is_taken(value: dict[str, Any], text: str | None) -> None:
    """Harmless values, such as the same list twice or a large sum, would be taken for cycles or infinities."""
    encoded = encode_args(value)
    assert text is None or encoded == text


@given(objects)
def test_data_comes_back_as_it_was(value: dict[str, Any]) -> None:
    """A job would run with other arguments than it was given, or the store would refuse its row."""
    text = encode_args(value)
    assert json.loads(text) == value
    assert sqlite_takes(text)
    check_args_text(text)


odd = st.floats() | st.text(max_size=3) | st.integers() | st.sampled_from([len, Color.RED, {1}, b"x", (1,), {2: 3}])
anything = st.recursive(odd, lambda inner: st.lists(inner, max_size=3) | st.tuples(inner), max_leaves=6)


def as_lists(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [as_lists(item) for item in value]
    return {key: as_lists(item) for key, item in value.items()} if isinstance(value, dict) else value


@given(st.dictionaries(keys, anything, max_size=3))
def test_anything_is_either_the_same_or_refused(value: dict[str, Any]) -> None:
    """Something between data and not data would slip through changed."""
    try:
        text = encode_args(value)
    except NotData:
        return
    assert json.loads(text) == as_lists(value)


# --- text from outside

BAD_TEXTS: list[tuple[str | bytes, str]] = [
    ("", "empty"),
    ("{", "cut off"),
    ("[]", "not list"),
    ("null", "not null"),
    ('{"a":NaN}', "NaN or Infinity"),
    ('{"a":-Infinity}', "NaN or Infinity"),
    ('{"a":1e999}', "out of range"),
    ('{"a":' + "9" * 5_000 + "}", "out of range"),
    ('{"a":99999999999999999999}', "beyond 64 bits"),
    ('{"a":"\\ud800"}', "surrogate"),
    ('{"a":"\\udc00 and more text"}', "surrogate"),
    ('{"a":"\ud800"}', "surrogate"),
    (b'{"a":"\xff"}', "not UTF-8"),
    ('{"a":"\x00"}', "not JSON"),
    ('{"a":1,}', "trailing comma"),
    ("{}{}", "trailing characters"),
    ("\ufeff{}", "not JSON"),
    ("nope", "not JSON"),
    ("[" * 10_000, "10,000 deep"),
    ('{"a":' * 10_000 + "1" + "}" * 10_000, "10,000 deep"),
    ('{"a":' * 101 + "1" + "}" * 101, "101 deep"),
    ('{"a":"' + "x" * (1 << 20) + '"}', "over the limit of 1,048,576"),
    ('{"a":"' + "€" * 400_000 + '"}', "1,200,008 bytes"),
]


@pytest.mark.parametrize(("text", "message"), BAD_TEXTS, ids=[message for _, message in BAD_TEXTS])
def test_bad_text_is_refused_clearly(text: str | bytes, message: str) -> None:
    """Text from outside would reach the store, or its author would not learn what is wrong with it."""
    with pytest.raises(InvalidArguments, match=message) as caught:
        check_args_text(text)
    assert len(str(caught.value)) < 200


def test_brackets_in_text_are_no_depth() -> None:
    """Arguments that hold source code would be refused as nested too deep."""
    check_args_text(json.dumps({"code": "[{" * 500 + '\\"'}))


def test_size_is_counted_in_bytes() -> None:
    """Text just within the limit would be refused, because characters were counted as four bytes."""
    check_args_text('{"a":"' + "x" * ((1 << 20) - 8) + '"}')


@given(data)
def test_depth_is_counted_without_parsing(value: Any) -> None:
    """The depth limit would depend on brackets inside strings."""

    def depth(item: Any) -> int:
        inner = item.values() if isinstance(item, dict) else item if isinstance(item, list) else None
        return 0 if inner is None else 1 + max(map(depth, inner), default=0)

    assert text_depth(msgspec.json.encode(value)) == depth(value)


def test_depth_of_a_hostile_text_takes_linear_time() -> None:
    """A megabyte of quotes would hold up the daemon's loop for minutes."""
    began = time.monotonic()
    for hostile in (b'\\"' * 500_000, b'"\\' * 500_000, b'["' * 500_000):
        text_depth(hostile)
    assert time.monotonic() - began < 5


@given(st.text(st.sampled_from('{}[]",:\\u01eE+-. tfn\x00\n"a\ud800'), max_size=24) | st.text())
def test_what_we_take_the_store_takes(text: str) -> None:
    """The store's CHECK constraint would refuse a row, and with it its whole batch, that the intake had accepted."""
    for candidate in (text, '{"a":' + text + "}"):
        try:
            check_args_text(candidate)
        except InvalidArguments:
            continue
        assert sqlite_takes(candidate)
        assert isinstance(decode_object(candidate), dict)
