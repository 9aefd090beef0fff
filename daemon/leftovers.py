"""What the flight recorders of a killed run still say."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from perdure.daemon.worker.recorder import hash_boot_id, read_leftover


class Before(NamedTuple):
    """(id, attempt) of every job that was executing; `unwanted` are those of them that were being cancelled."""

    executing: set[tuple[int, int]]
    unwanted: set[tuple[int, int]]


def executing_before(folder: Path, boot_id: str) -> Before | None:
    """What was executing; None when no page of this boot is left to tell."""
    boot_hash = hash_boot_id(boot_id)
    pages = [page for path in folder.glob("*.page") if (page := read_leftover(path)) is not None]
    known = [page for page in pages if page.boot_hash == boot_hash]
    if not known:
        return None
    slots = [slot for page in known for slot in page.executing if slot.job_id not in page.finished_unsent]
    executing = {(slot.job_id, slot.attempt) for slot in slots}
    return Before(executing, {(slot.job_id, slot.attempt) for slot in slots if slot.unwanted})


def remove_leftovers(folder: Path) -> None:
    """Recovery is on disk: the pages have served."""
    for pattern in ("*.page", "*.stacks"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
