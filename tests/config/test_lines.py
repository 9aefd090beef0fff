"""In which line of a TOML text each key stands."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from perdure.config.lines import KeyPath, find_lines

SAMPLE = '''\
# a comment with [brackets] = and "quotes

[plain]
key = 1
"quoted key" = "a # no comment"
a.b . "c d" = 2
literal = 'C:\\'

[ spaced . "in parts" ]
text = """
[not.a.section]
key = 1 \\""" still
""""
raw = \'\'\'
x = 2\'\'\'\'\'
list = [ # comment ]
  "one", # with a comma, here
  [2, 3],
  {four = 4, "]" = [
    5]},
]
inline = {a = 1, b.c = {d = 2}, e = "}"}
when = 1979-05-27T07:32:00Z
[[table]]
x = 1
[[table]]
x = 2
[table.below]
y = 3
[[table.deep]]
z = 4
'''


def line_of(part: str) -> int:
    """The line of SAMPLE that begins with `part`."""
    return next(number for number, line in enumerate(SAMPLE.splitlines(), 1) if line.lstrip().startswith(part))


def test_every_kind_of_key() -> None:
    """A mistake would be reported for a wrong line."""
    lines = find_lines(SAMPLE)
    expected: dict[KeyPath, int] = {
        ("plain",): line_of("[plain]"),
        ("plain", "key"): line_of("key = 1"),
        ("plain", "quoted key"): line_of('"quoted'),
        ("plain", "a"): line_of("a.b"),
        ("plain", "a", "b"): line_of("a.b"),
        ("plain", "a", "b", "c d"): line_of("a.b"),
        ("plain", "literal"): line_of("literal"),
        ("spaced",): line_of("[ spaced"),
        ("spaced", "in parts", "text"): line_of("text"),
        ("spaced", "in parts", "raw"): line_of("raw"),
        ("spaced", "in parts", "list"): line_of("list"),
        ("spaced", "in parts", "list", 0): line_of('"one"'),
        ("spaced", "in parts", "list", 1, 1): line_of("[2, 3]"),
        ("spaced", "in parts", "list", 2, "four"): line_of("{four"),
        ("spaced", "in parts", "list", 2, "]", 0): line_of("5]}"),
        ("spaced", "in parts", "inline", "b", "c", "d"): line_of("inline"),
        ("spaced", "in parts", "inline", "e"): line_of("inline"),
        ("spaced", "in parts", "when"): line_of("when"),
        ("table",): line_of("[[table]]"),
        ("table", 1, "x"): 1 + SAMPLE[: SAMPLE.rindex("x = 2")].count("\n"),
        ("table", 1, "below", "y"): line_of("y = 3"),
        ("table", 1, "deep", 0, "z"): line_of("z = 4"),
    }
    assert {path: lines.get(path) for path in expected} == expected
    assert set(lines) == set(paths_in(tomllib.loads(SAMPLE)))


def test_windows_line_ends_and_no_line_end() -> None:
    """A file from another editor would have other lines."""
    assert find_lines("a = 1\r\n\r\n[b]\r\nc = [1,\r\n2]") == {
        ("a",): 1,
        ("b",): 3,
        ("b", "c"): 4,
        ("b", "c", 0): 4,
        ("b", "c", 1): 5,
    }
    assert find_lines("") == {}


def paths_in(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """The way to every value in parsed TOML."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from paths_in(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from paths_in(item, (*path, index))


# --- any document


def quote(text: str) -> str:
    """A TOML string: JSON's, in which DEL must be escaped too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


plain_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
bare_keys = st.text("ab_-1", min_size=1, max_size=4)
keys = st.one_of(bare_keys, bare_keys, plain_texts.map(quote), st.sampled_from(["'x.y'", '"[="', '"#"', "'\"'"]))
scalars = st.one_of(
    st.integers(-5, 5).map(str),
    st.booleans().map(lambda value: "true" if value else "false"),
    plain_texts.map(quote),
    st.sampled_from(["'lit [#'", '"""two\n[lines]\nx = 1"""', "'''\nq = \"\n''\n'''", '""""q"\\"""""', "1.5e3"]),
)
gaps = st.sampled_from(["", " ", "\n", " # ] } = [x]\n", "\n\n\t"])


@st.composite
def values(draw: st.DrawFn, depth: int = 2) -> str:
    """A TOML value in one of many spellings."""
    kind = draw(st.sampled_from(["scalar", "scalar", "array", "table"])) if depth else "scalar"
    if kind == "array":
        items = draw(st.lists(values(depth - 1), max_size=3))
        return "[" + draw(gaps) + "".join(item + draw(gaps) + "," + draw(gaps) for item in items) + "]"
    if kind == "table":
        pairs = draw(st.dictionaries(keys, values(depth - 1), max_size=3))
        return "{" + ", ".join(f"{key} = {value}" for key, value in pairs.items()) + "}"
    return draw(scalars)


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[KeyPath, int]]:
    """A TOML text with the lines of its sections and their keys."""
    text = ""
    expected: dict[KeyPath, int] = {}
    for section in draw(st.dictionaries(keys.map(_unquoted), st.none(), max_size=3)):
        text += draw(st.sampled_from(["", "\n", "# [x]\n\n", "  "]))
        expected[(section,)] = text.count("\n") + 1
        text += f"[{quote(section)}]" + draw(st.sampled_from(["\n", " # y = 1\n"]))
        for key in draw(st.dictionaries(keys.map(_unquoted), st.none(), max_size=4)):
            text += draw(st.sampled_from(["", "\n", " # z\n", "\t"]))
            expected[(section, key)] = text.count("\n") + 1
            text += f"{quote(key)}{draw(st.sampled_from(['=', ' = ']))}{draw(values())}\n"
    return text, expected


def _unquoted(key: str) -> str:
    return next(iter(tomllib.loads(f"{key} = 1")))


@hypothesis_settings(deadline=None, max_examples=60)
@given(documents())
def test_any_document(document: tuple[str, dict[KeyPath, int]]) -> None:
    """Some spelling would shift the lines of all that follows, or break the report."""
    text, expected = document
    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return  # two spellings of one key met in an inline table
    lines = find_lines(text)
    assert {path: lines[path] for path in expected} == expected
    assert set(lines) == set(paths_in(parsed))
