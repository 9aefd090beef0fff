"""From a file to passages, and to the modules that it imports. Nothing here knows of jobs or databases."""

from __future__ import annotations

import ast
import re
import tokenize
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

#: Two empty lines or more: what stands between the functions and classes of a Python module.
GAP = re.compile(r"\n(?:[^\S\n]*\n){2,}")


class Passage(NamedTuple):
    """A piece of a document, and the line it begins on."""

    line: int
    text: str


def read(path: Path) -> str:
    """The text of a source file, in whatever encoding it declares. Raises ValueError when it is not text."""
    try:
        with tokenize.open(path) as file:
            text = file.read()
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ValueError(f"not text: {error}") from error
    if "\0" in text:
        raise ValueError("not text: it has a zero byte")
    return text


def split(text: str) -> list[Passage]:
    """Cut a text where two empty lines stand, which is about once for each function and class."""
    passages: list[Passage] = []
    begin, line = 0, 1
    for gap in [*GAP.finditer(text), None]:
        piece = text[begin : gap.start() if gap else len(text)]
        if piece.strip():
            passages.append(Passage(line, piece))
        if gap:
            line += text.count("\n", begin, gap.end())
            begin = gap.end()
    return passages


def module_name(path: str) -> str:
    """What Python calls it: http.client for http/client.py, http for http/__init__.py."""
    parts = PurePosixPath(path).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imported(text: str, path: str) -> Iterator[list[str]]:
    """For each import of a module's source: what it may mean, the longest name first.

    `from a.b import c` means the module a.b.c if there is one, else a.b; whoever knows the modules picks the first
    that exists. Raises SyntaxError.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(text)
    module = module_name(path)
    package = module if PurePosixPath(path).name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (_shorter(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, package)
            yield from (_shorter(f"{base}.{alias.name}".lstrip(".")) for alias in node.names)


def _base(node: ast.ImportFrom, package: str) -> str:
    """What a `from` names, without leading dots."""
    if node.level == 0:
        return node.module or ""
    above = package.split(".")
    kept = above[: len(above) - node.level + 1]
    return ".".join([*kept, *([node.module] if node.module else [])])


def _shorter(name: str) -> list[str]:
    """a.b.c, a.b, a."""
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
