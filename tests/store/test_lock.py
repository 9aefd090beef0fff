"""The right to write."""

from __future__ import annotations

import os
from pathlib import Path

from perdure.store.lock import WriterLock


async def test_a_copy_of_the_descriptor_does_not_keep_the_lock(tmp_path: Path) -> None:
    """A child that another thread starts just then has one until it executes: the next command would be refused."""
    database = str(tmp_path / "perdure.db")
    lock = await WriterLock.acquire(database, "cli", 0)
    assert lock._descriptor is not None
    copy = os.dup(lock._descriptor)
    try:
        lock.release()
        (await WriterLock.acquire(database, "cli", 0)).release()
    finally:
        os.close(copy)
