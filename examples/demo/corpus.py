"""What the demo indexes, and an independent count of what must come out."""

from __future__ import annotations

import itertools
import json
import tokenize
from dataclasses import dataclass
from pathlib import Path

from examples.demo.handlers import ABORT_MARK, INDEX_SCHEMA


@dataclass(frozen=True)
class Corpus:
    """The files, and the two among them that must fail."""

    files: list[Path]
    not_text: Path
    aborts: Path
    jobs_file: Path
    index: Path


def gather(source: Path, folder: Path) -> Corpus:
    """Every .py file below `source`, plus the two bad ones, as a file of jobs for `perdure enqueue --from`."""
    import sqlite3

    files = sorted(path for path in source.rglob("*.py") if "site-packages" not in path.parts and path.is_file())
    not_text, aborts = folder / "not_text.py", folder / "aborts.py"
    not_text.write_bytes(bytes(range(256)) * 4)
    aborts.write_text(f"{ABORT_MARK}\n")
    middle = len(files) // 3
    files[middle:middle] = [not_text, aborts]
    index = folder / "index.db"
    with sqlite3.connect(index) as connection:
        connection.executescript(INDEX_SCHEMA)
    connection.close()
    jobs_file = folder / "files.jsonl"
    lines = (json.dumps({"path": str(path), "into": str(index)}) for path in files)
    jobs_file.write_text("\n".join(lines) + "\n")
    return Corpus(files, not_text, aborts, jobs_file, index)


def count_passages(path: Path) -> int | None:
    """How many passages a file has, counted in another way than the handler does; None if it is not text."""
    try:
        with tokenize.open(path) as file:
            lines = file.read().split("\n")
    except (SyntaxError, UnicodeDecodeError):
        return None
    return sum(filled for filled, _ in itertools.groupby(lines, lambda line: not line.isspace() and line != ""))
