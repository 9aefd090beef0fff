"""The SQL of this folder's .sql files, by name: a statement goes from a line `-- name: NAME` to the next one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

_NAME = re.compile(r"^-- name: ([a-z0-9_]+)$", re.MULTILINE)


def load_statements() -> dict[str, str]:
    """Read every .sql file beside this module. Raises ValueError when a name is given twice."""
    statements: dict[str, str] = {}
    for entry in sorted(Path(__file__).parent.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".sql"):
            for name, text in parse(entry.read_text(encoding="utf-8")):
                if name in statements:
                    raise ValueError(f"{entry.name}: there is a statement {name} already")
                statements[name] = text
    return statements


def parse(text: str) -> Iterator[tuple[str, str]]:
    """The (name, statement) pairs of one file; comments before the first name are about the file."""
    pieces = _NAME.split(text)[1:]
    for name, body in zip(pieces[::2], pieces[1::2], strict=True):
        lines = (line for line in body.splitlines() if line.strip() and not line.lstrip().startswith("--"))
        yield name, "\n".join(lines).rstrip(";")


#: Every statement of the store.
SQL: Final[Mapping[str, str]] = load_statements()
