"""Small type expressions: enough of a handler's annotations to judge arguments without importing the handler.

    str  int  float  bool  none  any  list[T]  dict[str,T]  T|U  "a"|"b"  1|2

`describe` writes one from an annotation, `parse` turns it into a type that msgspec checks at native speed. What has no
place in the grammar is `any`: the worker, which has the handler, checks it against the true annotation before the run.
"""

from __future__ import annotations

import collections.abc as abc
import inspect
import re
import types
import typing
from datetime import date, time
from enum import Enum
from functools import lru_cache
from pathlib import PurePath
from typing import Any, Final, Literal, Union
from uuid import UUID

import msgspec

_SCALARS: Final[dict[object, str]] = {str: "str", int: "int", float: "float", bool: "bool", type(None): "none"}
_TYPES: Final[dict[str, Any]] = {name: kind for kind, name in _SCALARS.items()} | {"any": Any}
#: What msgspec reads from JSON text strings.
_WRITTEN_AS_TEXT: Final = (date, time, UUID, PurePath, bytes)  # datetime is a date
_LISTS: Final = frozenset({list, tuple, set, frozenset, abc.Sequence, abc.Iterable, abc.Collection, abc.Set})
_DICTS: Final = frozenset({dict, abc.Mapping, abc.MutableMapping})
#: More alternatives than this help nobody in a message.
_MAX_LITERALS: Final = 50

_TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|-?\d+|[a-z]+|[\[\],|])')


def describe(annotation: object) -> str:
    """The expression for an annotation (resolved, not text); "any" where the grammar or msgspec has no match."""
    expression = _describe(annotation)
    try:
        msgspec.json.Decoder(parse(expression))
    except TypeError:  # such as list[int]|list[str], which msgspec cannot tell apart
        return "any"
    return expression


@lru_cache(maxsize=1024)
def parse(expression: str) -> Any:
    """The msgspec type of an expression. What cannot be read means Any: a newer perdure may have written it."""
    try:
        tokens = _tokens(expression)
        parsed = _union(tokens)
    except (ValueError, RecursionError):
        return Any
    return Any if tokens else parsed


def _describe(annotation: object) -> str:
    if annotation is Any or annotation is object or annotation is inspect.Parameter.empty:
        return "any"
    if annotation is None:
        return "none"
    scalar = next((name for kind, name in _SCALARS.items() if kind is annotation), None)
    if scalar is not None:
        return scalar
    if isinstance(annotation, typing.NewType):
        return _describe(annotation.__supertype__)
    origin, args = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if origin is typing.Annotated:
        return _describe(args[0])
    if origin is Union or origin is types.UnionType:
        return _join(_describe(arg) for arg in args)
    if origin is Literal:
        return _literals(args)
    if isinstance(origin, type):
        return _describe_class(origin, args)
    return "any"


def _describe_class(cls: type, args: tuple[Any, ...]) -> str:
    if cls in _LISTS:
        items = [arg for arg in args if arg is not Ellipsis]
        return f"list[{_join(map(_describe, items)) if items else 'any'}]"
    if cls in _DICTS:
        return f"dict[str,{_describe(args[1]) if len(args) == 2 else 'any'}]"
    if issubclass(cls, Enum):
        return _literals(tuple(member.value for member in cls))
    return "str" if issubclass(cls, _WRITTEN_AS_TEXT) else "any"


def _literals(values: tuple[object, ...]) -> str:
    if not values or len(values) > _MAX_LITERALS:
        return "any"
    return _join(_literal(value) for value in values)


def _literal(value: object) -> str:
    if isinstance(value, Enum):
        value = value.value
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "bool"
    return msgspec.json.encode(value).decode() if type(value) in (str, int) else "any"


def _join(expressions: abc.Iterable[str]) -> str:
    unique = list(dict.fromkeys(expressions))
    return "any" if "any" in unique else "|".join(unique)


def _tokens(expression: str) -> list[str]:
    """The tokens in reverse, so that taking the next one is a pop."""
    tokens: list[str] = []
    position = 0
    while position < len(expression):
        match = _TOKEN.match(expression, position)
        if match is None:
            raise ValueError(expression)
        tokens.append(match[1])
        position = match.end()
    return tokens[::-1]


def _union(tokens: list[str]) -> Any:
    members: list[Any] = []
    literals: list[str | int] = []
    while True:
        member = _member(tokens)
        if isinstance(member, str | int):
            literals.append(member)
        else:
            members.append(member)
        if not tokens or tokens[-1] != "|":
            break
        tokens.pop()
    if Any in members:
        return Any
    literals = [value for value in literals if type(value) not in members]
    if literals:
        members.append(Literal[tuple(literals)])
    return Union[tuple(members)]  # noqa: UP007 - the members are only known now


def _member(tokens: list[str]) -> Any:
    """One alternative: a type, or the value of a literal."""
    token = _take(tokens)
    if token[0] == '"':
        return msgspec.json.decode(token, type=str)
    if token[0] == "-" or token[0].isdigit():
        return int(token)
    if token == "list":
        return list[_between(tokens, "[", "]")]  # type: ignore[misc]
    if token == "dict":
        return dict[str, _between(tokens, "[", "str", ",", "]")]  # type: ignore[misc]
    if token not in _TYPES:
        raise ValueError(token)
    return _TYPES[token]


def _between(tokens: list[str], *around: str) -> Any:
    """A union after the given opening tokens and before the closing one."""
    *opening, closing = around
    for expected in opening:
        _expect(tokens, expected)
    inner = _union(tokens)
    _expect(tokens, closing)
    return inner


def _take(tokens: list[str]) -> str:
    if not tokens:
        raise ValueError("ends too early")
    return tokens.pop()


def _expect(tokens: list[str], expected: str) -> None:
    if _take(tokens) != expected:
        raise ValueError(expected)
