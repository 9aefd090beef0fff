"""What the flight recorders of a killed run still say."""

from __future__ import annotations

from pathlib import Path

from perdure.daemon.worker.recorder import hash_boot_id, read_leftover


def executing_before(folder: Path, boot_id: str) -> set[tuple[int, int]] | None:
    """(id, attempt) of every job that was executing; None when no page of this boot is left to tell."""
    boot_hash = hash_boot_id(boot_id)
    pages = [page for path in folder.glob("*.page") if (page := read_leftover(path)) is not None]
    known = [page for page in pages if page.boot_hash == boot_hash]
    if not known:
        return None
    return {
        (slot.job_id, slot.attempt)
        for page in known
        for slot in page.executing
        if slot.job_id not in page.finished_unsent
    }


def remove_leftovers(folder: Path) -> None:
    """Recovery is on disk: the pages have served."""
    for pattern in ("*.page", "*.stacks"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
