"""Arguments are judged by the declaration alone, where the handler is not imported."""

from __future__ import annotations

import json

import msgspec
import pytest

from perdure.args_checker import ArgsChecker
from perdure.errors import InvalidArguments
from perdure.wire.data import KindSpec, Param

SPEC = KindSpec(
    "documents.ingest",
    "async",
    [
        Param("path", "str", True),
        Param("lang", '"en"|"de"|none', False),
        Param("n", "int", False),
        Param("flag", "bool", False),
        Param("names", "list[str]", False),
        Param("class", "any", False),
    ],
)


def refusal(args: object, spec: KindSpec = SPEC) -> str:
    with pytest.raises(InvalidArguments) as caught:
        ArgsChecker(spec).check(args if isinstance(args, str) else json.dumps(args))
    return str(caught.value)


def test_missing_argument() -> None:
    """The producer would not learn what the handler takes."""
    spec = KindSpec("documents.ingest", "async", [Param("path", "str", True), Param("lang", "str", False)])
    assert refusal({}, spec) == (
        'documents.ingest: argument "path" is missing; it takes: path (str), lang (str, optional)'
    )
    assert refusal({"x": 1}, KindSpec("k", "sync", [])) == 'k: unknown argument "x"; it takes: no arguments'


def test_wrong_type_tells_how_to_pass_it_on_the_command_line() -> None:
    """`n=12` is text on the command line, and nothing would say that n:=12 is meant."""
    assert refusal({"path": "a", "n": "12"}) == (
        'documents.ingest: argument "n": expected int, got str ("12"); use n:=12 to pass a number'
    )
    assert refusal({"path": "a", "flag": "true"}).endswith("use flag:=true to pass true or false")
    assert refusal({"path": "a", "names": '["x"]'}).endswith('use names:=["x"] to pass a list')
    assert refusal({"path": "a", "n": "twelve"}).endswith('expected int, got str ("twelve")')


def test_every_mistake_is_named_at_once() -> None:
    """Three mistakes would take three tries."""
    message = refusal({"pth": "a", "n": None, "lang": "fr", "names": ["a", 1]})
    for part in (
        'argument "path" is missing',
        'unknown argument "pth" (did you mean "path"?)',
        'argument "n": expected int, got null (null)',
        'argument "lang": expected "en"|"de"|none, got str ("fr")',
        'argument "names" at [1]: expected str, got int',
    ):
        assert part in message


def test_messages_stay_short() -> None:
    """A thousand wrong arguments would print a thousand lines."""
    assert len(refusal({"x" * 5_000 + str(n): 1 for n in range(1_000)})) < 1_000
    many = KindSpec("k", "sync", [Param(f"p{n}", "str", True) for n in range(200)])
    assert "and 195 more" in refusal({}, many)


def test_what_fits_is_taken() -> None:
    """Good jobs would be refused."""
    checker = ArgsChecker(SPEC)
    checker.check('{"path":"a"}')
    checker.check('{"path":"a","lang":null,"n":18446744073709551615,"flag":true,"names":[],"class":{"x":[1]}}')


@pytest.mark.parametrize(
    "text", ['{"path":"a","class":[99999999999999999999]}', '{"path":"a","n":99999999999999999999}']
)
def test_big_integers_are_refused_everywhere(text: str) -> None:
    """A typed check would let through what the check of plain data refuses."""
    assert "beyond 64 bits" in refusal(text)


def test_extra_arguments_are_checked_as_data() -> None:
    """With **kwargs, text that the store refuses would get past the typed decode, which skips what it does not know."""
    spec = KindSpec("k", "sync", [Param("a", "int", False)], accepts_extra=True)
    ArgsChecker(spec).check('{"b":[1]}')
    for text in ('{"b":"\\ud800"}', '{"b":1e999}', '{"b":99999999999999999999}', '{"a":"x"}'):
        assert refusal(text, spec).startswith("k: ") or "surrogate" in text or "arguments hold" in refusal(text, spec)


def test_a_declaration_from_a_newer_version_is_taken() -> None:
    """A downgrade of the daemon would refuse every job of a kind whose types it cannot read."""
    ArgsChecker(
        KindSpec("k", "sync", [Param("a", "matrix[float]", True), Param("b", "list[int]|list[str]", False)])
    ).check('{"a":1,"b":[2]}')


def test_parameters_may_have_any_name() -> None:
    """A parameter named like one of msgspec's or Python's own would break the check."""
    names = ["self", "class", "__init__", "f0", "__struct_fields__", "rename", "é"]
    checker = ArgsChecker(KindSpec("k", "sync", [Param(name, "int", True) for name in names]))
    checker.check(msgspec.json.encode(dict.fromkeys(names, 1)))
