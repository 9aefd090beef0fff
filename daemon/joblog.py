"""Where the output of jobs is, and reading it. Workers write it (daemon/worker/output.py)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from perdure.wire.control import LogPiece

#: Jobs whose logs share a folder, so that none grows to millions of files.
JOBS_PER_FOLDER = 10_000
#: Most bytes of a log in one answer.
PIECE_BYTES = 64 * 1024


def log_path(logs_dir: Path, job_id: int) -> Path:
    """The file that a job's output goes to; what was rotated out of it is beside it, with `.1` at the end."""
    return logs_dir / str(job_id // JOBS_PER_FOLDER) / f"{job_id}.log"


def read_piece(logs_dir: Path, job_id: int, offset: int, finished: bool) -> LogPiece:
    """Up to PIECE_BYTES of a job's output from `offset` (bytes over the rotated and the present file together)."""
    path = log_path(logs_dir, job_id)
    older = _read(path.with_name(path.name + ".1"))
    data = older + _read(path)
    offset = max(0, min(offset, len(data)))
    piece = data[offset : offset + PIECE_BYTES]
    more = offset + len(piece) < len(data)
    if more and b"\n" in piece:
        piece = piece[: piece.rindex(b"\n") + 1]
    return LogPiece(offset, offset + len(piece), piece.decode("utf-8", "replace"), finished and not more)


def remove_logs(logs_dir: Path, ids: Iterable[int]) -> None:
    """Delete the output of jobs that were pruned."""
    for job_id in ids:
        path = log_path(logs_dir, job_id)
        for name in (path, path.with_name(path.name + ".1")):
            # A log that cannot be removed must not keep the queue from being pruned.
            with contextlib.suppress(OSError):
                name.unlink()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
