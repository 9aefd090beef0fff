"""Payloads and results that are files."""

from __future__ import annotations

import io
from typing import BinaryIO

import msgspec

from perdure.errors import UsageError
from perdure.wire.data import Blob
from perdure.wire.work import JobRow


class Spool:
    """The folder of this queue's files, and their largest size in bytes."""

    def __init__(self, folder: str, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes


class Payload:
    """The payload of a job that runs."""

    def __init__(self, spool: Spool, blob_json: str) -> None:
        self.blob = msgspec.json.decode(blob_json, type=Blob)

    def view(self) -> memoryview:
        """Its content."""
        return memoryview(b"")

    def close(self) -> None:
        """Give it back."""


class ResultFile:
    """A result that a handler writes into a file."""

    def __init__(self, spool: Spool, row: JobRow) -> None:
        self.file: BinaryIO = io.BytesIO()

    def close(self) -> None:
        """Remove it, unless it became a result."""


def no_payload(job_id: int) -> UsageError:
    """The error for a job that has none."""
    return UsageError(f"job {job_id} has no payload")
