"""Positions in a job's log go on over rotations, attempts and deaths of workers."""

from __future__ import annotations

import os
from pathlib import Path

from perdure.daemon.joblog import log_path, read_piece, read_story, remove_logs
from perdure.daemon.log_position import mark_path, note_rotation, rotated_path, start_of
from perdure.daemon.worker.job_file import JobFile
from perdure.wire.control import ReadLog
from perdure.wire.streams import LogText


def test_rotations_are_counted(tmp_path: Path) -> None:
    """Also by a worker that opens the file anew: a follower must not take new lines for old ones."""
    path = log_path(tmp_path, 1)
    for number in range(1, 50):
        if number % 7 == 1:
            file = JobFile(path, 20, counted=True)
        file.append(b"12345\n")
        assert file.position() == 6 * number
        assert start_of(path) + path.stat().st_size == 6 * number
    (story,) = read_story(tmp_path, 1)
    assert isinstance(story, LogText)
    assert (story.start or 0) + len(story.text) == 6 * 49
    piece = read_piece(tmp_path, ReadLog(1), finished=True)
    assert (piece.offset, piece.next_offset, piece.finished) == (story.start, 6 * 49, True)
    part = read_piece(tmp_path, ReadLog(1, 6 * 47, 6 * 48), finished=True)
    assert (part.offset, part.text, part.finished) == (6 * 47, "12345\n", False)
    file.close()
    remove_logs(tmp_path, [1])
    assert list(path.parent.iterdir()) == []


def test_killed_in_the_middle_of_a_rotation(tmp_path: Path) -> None:
    """The mark is there, but the files have not moved yet; or they have moved, and there is no new one."""
    path = tmp_path / "1.log"
    file = JobFile(path, 10, counted=True)
    for _ in range(5):
        file.append(b"12345\n")
    assert start_of(path) == 24
    fd = os.open(path, os.O_RDONLY)
    note_rotation(path, fd)
    os.close(fd)
    assert start_of(path) == 24
    path.replace(rotated_path(path))
    assert start_of(path) == 30
    other = JobFile(path, 10, counted=True)
    other.append(b"12345\n")
    assert other.position() == 36


def test_files_that_were_copied(tmp_path: Path) -> None:
    """Their inodes are others, so the mark says nothing: they are counted from what is there."""
    path = tmp_path / "1.log"
    rotated_path(path).write_bytes(b"123\n")
    path.write_bytes(b"45\n")
    mark_path(path).write_bytes(b"%020d %020d\n" % (1, 500))
    assert start_of(path) == 4
    mark_path(path).write_bytes(b"")
    assert start_of(path) == 4
