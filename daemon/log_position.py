"""Where the files of a job's log begin, counted in bytes of all that was ever written into it.

Rotation throws the older half away, so from the second time on a mark beside the log says what came before. It names
the file that it speaks of by its inode: a worker may be killed between the writing of the mark and the rotation.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def rotated_path(path: Path) -> Path:
    """Where the older half of such a file is, if it has grown that large."""
    return path.with_name(path.name + ".1")


def mark_path(path: Path) -> Path:
    """Where the mark is, if it was rotated twice."""
    return path.with_name(path.name + ".at")


def start_of(path: Path) -> int:
    """The position of the first byte of the present file. Raises OSError."""
    older = _look(rotated_path(path))
    size = 0 if older is None else older.st_size
    mark = _read_mark(path)
    if mark is None:
        return size
    inode, start = mark
    if older is not None and older.st_ino == inode:
        return start + size
    present = _look(path)
    return start if present is not None and present.st_ino == inode else size


def note_rotation(path: Path, fd: int) -> None:
    """The present file, open as `fd`, is about to become the rotated one. Raises OSError."""
    start = start_of(path)
    if start:
        mark = os.open(mark_path(path), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            # In one piece and always as long: who is killed here leaves the old mark or the new one.
            os.pwrite(mark, b"%020d %020d\n" % (os.fstat(fd).st_ino, start), 0)
        finally:
            os.close(mark)


def _read_mark(path: Path) -> tuple[int, int] | None:
    with contextlib.suppress(FileNotFoundError, ValueError):
        inode, start = mark_path(path).read_bytes().split()
        return int(inode), int(start)
    return None


def _look(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None
