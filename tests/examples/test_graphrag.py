"""The parts of examples/graphrag that know nothing of jobs, against the demo's independent count."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.demo import independent
from examples.graphrag import embedding, reading

ODD = '''\
"""from fake import nothing


import neither
"""


import os, shop.till as t
from . import (  # a comment (with a parenthesis
    till,
    stock as s,
)
from .. import shop; from .till \\
    import Drawer
if True: import shop.stock
text = "import shop.never"
\t

   \n
def last(): from shop.deep.down import thing
'''
KNOWN = {"shop", "shop.till", "shop.stock", "shop.desk", "shop.deep", "os"}


def test_both_ways_of_counting_agree_on_odd_source() -> None:
    """The demo would compare two counts that make the same mistake, or report losses that are none."""
    meanings = list(reading.imported(ODD, "shop/desk.py"))
    targets = {next((name for name in meaning if name in KNOWN), "") for meaning in meanings} - {"", "shop.desk"}
    assert targets == {"os", "shop", "shop.till", "shop.stock", "shop.deep"}
    assert independent.count_edges(ODD, "shop/desk.py", KNOWN) == len(targets)
    assert independent.count_passages(ODD) == len(reading.split(ODD)) == 4


def test_both_ways_of_counting_agree_on_our_own_source() -> None:
    """What holds for made-up text might not hold for real files."""
    root = Path(__file__).parents[2]
    paths = [str(path.relative_to(root)) for path in sorted((root / "examples").rglob("*.py"))]
    known = {reading.module_name(path) for path in paths}
    assert known == {independent.dotted(path) for path in paths}
    for path in paths:
        text = reading.read(root / path)
        found = {next((name for name in meaning if name in known), "") for meaning in reading.imported(text, path)}
        edges = found - {"", reading.module_name(path)}
        assert independent.count_edges(text, path, known) == len(edges), path
        assert independent.count_passages(text) == len(reading.split(text)), path


def test_passages_begin_on_their_lines() -> None:
    """An answer would point to the wrong place of a file."""
    lines = ODD.split("\n")
    assert [passage.line for passage in reading.split(ODD)] == [1, 4, 8, 21]
    assert all(passage.text.split("\n")[0] == lines[passage.line - 1] for passage in reading.split(ODD))


def test_what_is_not_text_is_refused(tmp_path: Path) -> None:
    """A job on a binary file would be tried again and again, or fail in the database."""
    file = tmp_path / "a.py"
    for content in (bytes(range(256)), b"a\0b", b"# coding: nothing-known\n"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="not text"):
            reading.read(file)


def test_hashed_vectors_point_where_words_are_shared() -> None:
    """Without the model, questions would find nothing, or vectors would differ from process to process."""
    one, same, other, empty = embedding.hashed(["open the file", "the file was open", "parse_args", ""])
    assert float(one @ one) == pytest.approx(1.0, abs=1e-5)
    assert float(one @ same) > 0.3 > float(one @ other)
    assert float(abs(empty).sum()) == 0.0
    assert len(embedding.embed(["text"])[0]) == embedding.SIZE
