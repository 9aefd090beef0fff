"""The demo's handlers: split a source file into passages and write them to a full-text index.

Written so that it does not matter how often a job runs: a file's passages are replaced in one transaction.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import tokenize
from pathlib import Path

from perdure import Permanent, job

#: What makes the handler abort its whole process, as a bug in a C extension would.
ABORT_MARK = "# the perdure demo aborts here"

INDEX_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, passages INTEGER NOT NULL);
CREATE VIRTUAL TABLE IF NOT EXISTS passages USING fts5 (path UNINDEXED, line UNINDEXED, text);
"""


@job("demo.index", queue="demo", max_attempts=3, timeout="1m")
def index(path: str, into: str) -> None:
    """Index one file."""
    record_start(Path(into).with_name("starts.log"), path)
    if ABORT_MARK in Path(path).read_text("utf-8", "replace")[:200]:
        os.abort()
    try:
        with tokenize.open(path) as file:
            passages = split(file.read())
    except (SyntaxError, UnicodeDecodeError) as error:
        raise Permanent(f"not text: {error}") from error
    write(Path(into), path, passages)


def split(text: str) -> list[tuple[int, str]]:
    """(line number, text) of each passage: lines without an empty one between them."""
    passages: list[tuple[int, str]] = []
    block: list[str] = []
    for number, line in enumerate([*text.split("\n"), ""], 1):
        if line.strip():
            block.append(line)
        elif block:
            passages.append((number - len(block), "\n".join(block)))
            block = []
    return passages


def write(into: Path, path: str, passages: list[tuple[int, str]]) -> None:
    """Replace a file's passages in the index.

    Several workers write to it, so it is in SQLite's rollback mode: WAL with more than one writer is not safe with the
    SQLite versions that most systems have (docs/decisions/0001-one-writer.md). They take turns by a lock of their own,
    because SQLite's own waiting is by sleeping.
    """
    turn = os.open(into.with_name("index.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(turn, fcntl.LOCK_EX)
    index = sqlite3.connect(into, timeout=60, isolation_level=None)
    try:
        index.execute("BEGIN IMMEDIATE")
        row = index.execute("SELECT 1 FROM files WHERE path = ?", (path,)).fetchone()
        if row is not None:
            index.execute("DELETE FROM passages WHERE path = ?", (path,))
        index.executemany("INSERT INTO passages VALUES (?, ?, ?)", [(path, line, text) for line, text in passages])
        index.execute("INSERT OR REPLACE INTO files VALUES (?, ?)", (path, len(passages)))
        index.execute("COMMIT")
    finally:
        index.close()
        os.close(turn)


def record_start(log: Path, path: str) -> None:
    """One line for each time the handler begins, so that the report can count what ran twice."""
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(fd, f"{path}\n".encode())
    finally:
        os.close(fd)
