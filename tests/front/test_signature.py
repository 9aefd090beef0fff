"""From a function to a contract, in the process that has it."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, NewType, Optional, Union

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.context import Context
from perdure.errors import InvalidArguments, InvalidHandler
from perdure.signature import read_signature
from perdure.type_exprs import describe, parse

if TYPE_CHECKING:
    from perdure.nowhere import Unknown  # type: ignore[import-not-found]


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Foreign:
    """A class that nobody can make from JSON."""


@dataclasses.dataclass
class Options:
    depth: int
    names: list[str] = dataclasses.field(default_factory=list)


UserId = NewType("UserId", int)

TYPES: list[tuple[Any, str]] = [
    (str, "str"),
    (None, "none"),
    (Any, "any"),
    (object, "any"),
    (int | None, "int|none"),
    (Optional[str], "str|none"),  # noqa: UP045 - both spellings must work
    (Union[int, str], "int|str"),  # noqa: UP007 - both spellings must work
    (list[int], "list[int]"),
    (list, "list[any]"),
    (tuple[int, str], "list[int|str]"),
    (tuple[int, ...], "list[int]"),
    (set[str], "list[str]"),
    (dict[str, list[int | str]], "dict[str,list[int|str]]"),
    (dict, "dict[str,any]"),
    (Literal["a", 'b|"', 3, None], '"a"|"b|\\""|3|none'),
    (Literal["a", True], '"a"|bool'),
    (Color, '"red"|"blue"'),
    (Annotated[int, "note"], "int"),
    (UserId, "int"),
    (pathlib.Path, "str"),
    (datetime.datetime, "str"),
    (Options, "any"),
    (Foreign, "any"),
    (Callable[[int], str], "any"),
    (list[int] | list[str], "any"),
    ([1], "any"),
]


@pytest.mark.parametrize(("annotation", "expression"), TYPES, ids=[expression for _, expression in TYPES])
def test_annotations_have_expressions(annotation: Any, expression: str) -> None:
    """The daemon could not check arguments that the handler's author has annotated."""
    assert describe(annotation) == expression
    assert parse(describe(parse(expression))) == parse(expression)


@given(st.text(st.sampled_from('listdicnyo[],|"\\ 123-'), max_size=20))
def test_any_text_is_a_type(expression: str) -> None:
    """An expression written by a newer version would stop the daemon."""
    parse(expression)


def handler(  # type: ignore[no-untyped-def]
    ctx: Context,
    path: str,
    count: int = 3,
    when: datetime.datetime = None,  # type: ignore[assignment]  # noqa: RUF013 - as people write it
    target: pathlib.Path | None = None,
    color: Color = Color.RED,
    options: Options | None = None,
    foreign: Foreign | None = None,
    unknown: Unknown = 3,
    plain=None,
) -> None:
    """Every sort of parameter, with annotations as text."""


def test_parameters_are_read_from_postponed_annotations() -> None:
    """`from __future__ import annotations` would turn all checks off."""
    signature = read_signature(handler, "k")
    assert signature.takes_context
    assert signature.lane == "sync"
    assert [(p.name, p.type, p.required) for p in signature.params] == [
        ("path", "str", True),
        ("count", "int", False),
        ("when", "str|none", False),
        ("target", "str|none", False),
        ("color", '"red"|"blue"', False),
        ("options", "any", False),
        ("foreign", "any", False),
        ("unknown", "any", False),
        ("plain", "any", False),
    ]


def test_bind_converts_to_the_annotations() -> None:
    """A handler that asks for a datetime or a dataclass would get text or a dict."""
    bound = read_signature(handler, "k").bind(
        '{"path":"p","when":"2024-05-01T10:00:00Z","target":"/x","color":"blue","options":{"depth":1},"unknown":[1]}'
    )
    assert bound == {
        "path": "p",
        "when": datetime.datetime(2024, 5, 1, 10, tzinfo=datetime.UTC),
        "target": pathlib.Path("/x"),
        "color": Color.BLUE,
        "options": Options(1),
        "unknown": [1],
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", 'argument "path" is missing; it takes: path (str), count (int, optional)'),
        ('{"path":"p","pth":1}', 'unknown argument "pth" (did you mean "path"?)'),
        ('{"path":"p","when":"soon"}', 'argument "when": invalid RFC3339 encoded datetime'),
        ('{"path":"p","options":{"depth":"x"}}', 'argument "options" at .depth: expected int, got str'),
        ('{"path":"p","target":3}', 'argument "target": expected str|none, got int (3)'),
        ('{"path":"p","color":"pink"}', 'argument "color": expected "red"|"blue", got str ("pink")'),
        ("[", "cut off"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_bind_says_what_is_wrong(text: str, message: str) -> None:
    """The producer would get a stack of msgspec's words instead of the argument's name."""
    with pytest.raises(InvalidArguments) as caught:
        read_signature(handler, "k").bind(text)
    assert message in str(caught.value)
    assert str(caught.value).startswith("k: ")


def test_arguments_may_have_any_name() -> None:
    """A name that the decoder has a use of its own for would keep a module of handlers from being imported."""

    def named(__post_init__: int, f0: int, __x: int = 5, *, mro: str) -> None: ...

    signature = read_signature(named, "named")
    assert signature.bind('{"__post_init__": 1, "f0": 2, "mro": "m"}') == {"__post_init__": 1, "f0": 2, "mro": "m"}
    assert signature.bind('{"f0": 2, "mro": "m", "__x": 3, "__post_init__": 1}')["__x"] == 3
    with pytest.raises(InvalidArguments, match="f1"):
        signature.bind('{"__post_init__": 1, "f0": 2, "mro": "m", "f1": 1}')


def test_extra_arguments_are_passed_on() -> None:
    """A handler with **kwargs would lose what it does not name."""

    def free(a: int = 1, /, **rest: Any) -> None: ...

    with pytest.raises(InvalidHandler, match="positional-only"):
        read_signature(free, "k")

    def open_(ctx: Any, /, a: int = 1, **rest: Any) -> None: ...

    signature = read_signature(open_, "k")
    assert signature.accepts_extra
    assert signature.takes_context
    assert signature.bind('{"a":2,"b":[3]}') == {"a": 2, "b": [3]}
    assert signature.bind("{}") == {}


class Callable_:  # noqa: N801 - stands for a user's class
    async def __call__(self, n: int) -> None: ...

    def method(self, n: int) -> None: ...


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def test_wrapped_functions_instances_and_partials_are_handlers() -> None:
    """A decorator between @job and the function would hide its parameters."""
    assert read_signature(decorated(handler), "k").params == read_signature(handler, "k").params
    assert read_signature(decorated(handler), "k").lane == "async"
    assert read_signature(Callable_(), "k").lane == "async"
    assert [p.name for p in read_signature(Callable_(), "k").params] == ["n"]
    assert [p.name for p in read_signature(Callable_().method, "k").params] == ["n"]
    assert not read_signature(functools.partial(handler, count=1), "k").params[1].required


def test_an_argument_may_be_called_ctx_if_it_is_annotated_otherwise() -> None:
    """A handler with its own ctx argument would get a Context in its place."""

    def mine(ctx: str) -> None: ...

    def given_as_text(c: perdure.Context) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    assert not read_signature(mine, "k").takes_context
    assert read_signature(given_as_text, "k").takes_context


def generator(a: int) -> Any:
    yield a


async def async_generator(a: int) -> Any:
    yield a


def late_context(a: int, ctx: Context) -> None: ...


def keyword_context(*, ctx: Context) -> None: ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (Callable_, "is a class"),
        (Callable_.method, "is a method"),
        (generator, "a generator cannot be a handler"),
        (async_generator, "a generator cannot be a handler"),
        (lambda *many: 1, "takes any number of values"),
        (lambda a, /: 1, "positional-only"),
        (late_context, "must be the first parameter"),
        (keyword_context, "by position"),
        (3, "cannot be called"),
        (print, "takes any number of values"),
    ],
)
def test_what_cannot_be_a_handler_is_refused_when_declared(function: Any, message: str) -> None:
    """The mistake would show up when the first job runs, at night."""
    with pytest.raises(InvalidHandler, match=message):
        read_signature(function, "k")
