"""Where the output of jobs is, and reading it. Workers write it (daemon/worker/output.py and teller.py)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from perdure.daemon.log_position import mark_path, rotated_path, start_of
from perdure.wire.control import LogPiece, ReadLog
from perdure.wire.heard import log_text
from perdure.wire.streams import Emitted, LogText

#: Jobs whose logs share a folder, so that none grows to millions of files.
JOBS_PER_FOLDER = 10_000
#: Most bytes of a log in one answer, and in one LogText.
PIECE_BYTES = 64 * 1024
#: Of a log, and of emitted values, so much is told to somebody who comes late: the end of it.
STORY_BYTES = 256 * 1024


class _Value(msgspec.Struct, array_like=True):
    number: int
    value: msgspec.Raw
    attempt: int = 0
    since: int = 0


_decode_value = msgspec.json.Decoder(_Value).decode


def log_path(logs_dir: Path, job_id: int) -> Path:
    """The file that a job's output goes to; what was rotated out of it is beside it, with `.1` at the end."""
    return logs_dir / str(job_id // JOBS_PER_FOLDER) / f"{job_id}.log"


def values_path(logs_dir: Path, job_id: int) -> Path:
    """The file of the values that a job has emitted, rotated like its log. A line is `[number,value,attempt,since]`."""
    return logs_dir / str(job_id // JOBS_PER_FOLDER) / f"{job_id}.values"


def read_piece(logs_dir: Path, request: ReadLog, finished: bool) -> LogPiece:
    """Up to PIECE_BYTES of a job's output, from `request.offset`, or the first place after it that is still there."""
    begin, data = _read_all(log_path(logs_dir, request.id))
    offset = max(0, min(request.offset - begin, len(data)))
    end = len(data) if request.until is None else max(offset, min(request.until - begin, len(data)))
    piece = data[offset : min(end, offset + PIECE_BYTES)]
    if offset + len(piece) < end and b"\n" in piece:
        piece = piece[: piece.rindex(b"\n") + 1]
    reached = offset + len(piece)
    text = piece.decode("utf-8", "replace")
    return LogPiece(begin + offset, begin + reached, text, finished and reached == len(data))


# --- the story so far


def read_story(logs_dir: Path, job_id: int, unended: int = 0) -> list[LogText | Emitted]:
    """What a subscriber that comes late is told: the end of the log, and of the emitted values.

    The last `unended` bytes of the log are left out: a line that has not ended and will be told when it has.
    """
    path = log_path(logs_dir, job_id)
    log = read_tail(path)
    position = _end_of(path) - len(log)
    story: list[LogText | Emitted] = []
    for piece in cut(log[: len(log) - unended]):
        story.append(log_text(job_id, piece, True, position))
        position += len(piece)
    for line in read_tail(values_path(logs_dir, job_id)).splitlines():
        # A line may be cut, if the machine stopped or the disk was full when it was written.
        with contextlib.suppress(msgspec.DecodeError):
            one = _decode_value(line)
            text = bytes(one.value).decode("utf-8", "replace")
            story.append(Emitted(job_id, text, one.number, True, one.attempt, one.since))
    return story


def value_line(number: int, json: bytes, attempt: int, since: int) -> bytes:
    """An emitted value as it is written down: see Emitted."""
    return b"[%d,%b,%d,%d]\n" % (number, json, attempt, since)


def cut(data: bytes, most_bytes: int = PIECE_BYTES) -> Iterator[bytes]:
    """Pieces of up to `most_bytes`, each of whole lines as far as lines are not longer than that."""
    start = 0
    while len(data) - start > most_bytes:
        end = data.rfind(b"\n", start, start + most_bytes) + 1 or _character_end(data, start + most_bytes)
        yield data[start:end]
        start = end
    if start < len(data):
        yield data[start:]


def _character_end(data: bytes, end: int) -> int:
    """A place near `end` that is not within a character of UTF-8."""
    for back in range(4):
        if data[end - back] & 0xC0 != 0x80:
            return end - back
    return end


def read_tail(path: Path, most_bytes: int = STORY_BYTES) -> bytes:
    """The last lines of the rotated and the present file together, up to `most_bytes`; empty if there is none."""
    data, whole = _read_end(path, most_bytes)
    if whole and len(data) < most_bytes:
        older, whole = _read_end(rotated_path(path), most_bytes - len(data))
        data = older + data
    return data if whole else data[data.find(b"\n") + 1 :]


def _read_end(path: Path, most_bytes: int) -> tuple[bytes, bool]:
    """The end of a file, and whether that is all of it."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - most_bytes))
            return file.read(most_bytes), size <= most_bytes
    except FileNotFoundError:
        return b"", True


# --- the end


def remove_logs(logs_dir: Path, ids: Iterable[int]) -> None:
    """Delete the output and the emitted values of jobs that were pruned."""
    for job_id in ids:
        for path in (log_path(logs_dir, job_id), values_path(logs_dir, job_id)):
            for name in (path, rotated_path(path), mark_path(path)):
                # A log that cannot be removed must not keep the queue from being pruned.
                with contextlib.suppress(OSError):
                    name.unlink()


def _read_all(path: Path) -> tuple[int, bytes]:
    """The rotated and the present file together, and the position in the log where they begin."""
    while True:
        begin = start_of(path)
        older = _read(rotated_path(path))
        data = older + _read(path)
        if start_of(path) == begin:  # else the worker has rotated it meanwhile
            return begin - len(older), data


def _end_of(path: Path) -> int:
    """The position at which the log ends."""
    try:
        return start_of(path) + path.stat().st_size
    except FileNotFoundError:
        return start_of(path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
