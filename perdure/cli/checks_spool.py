"""The check of the spool: payloads and results that are files. It reads only."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from perdure.cli.checks import FAIL, OK, WARN, Finding
from perdure.cli.text import plural, size

if TYPE_CHECKING:
    from perdure.config.settings import Settings

#: As many names are given as examples.
_EXAMPLES = 3


def spool(settings: Settings) -> Finding:
    """Whether the files of the queue are there, and whether there are others."""
    from perdure.daemon.spool import ORPHAN_SECONDS, look, total_bytes
    from perdure.store.files import needed_files

    folder, db = settings.paths.spool_dir, str(settings.paths.db)
    # Old ones first: what comes into the folder after that is not taken for an orphan.
    old = look(folder, ORPHAN_SECONDS)
    needed = needed_files(db) if os.path.isfile(db) and os.path.getsize(db) else set()
    there = look(folder, 0.0).whole
    # Looked at last: what a prune has removed meanwhile is not missed.
    missing = needed - set(there)
    if missing:
        missing &= needed_files(db)
    if missing:
        text = f"{plural(len(missing), 'file')} of jobs are missing in {folder}: {_some(missing)}"
        return Finding("spool", FAIL, text, "bring them back from a backup; their jobs die with PayloadGone otherwise")
    orphans = {name for name in old.whole if name not in needed} | set(old.partial)
    if orphans:
        text = f"{plural(len(orphans), 'file')} in {folder} belong to no job: {_some(orphans)}"
        return Finding(
            "spool", WARN, text, "the daemon removes them within the hour; without it, so does its next start"
        )
    return Finding("spool", OK, f"{plural(len(there), 'file')}, {size(total_bytes(folder))}")


def _some(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:_EXAMPLES])
    return f"{shown}, …" if len(names) > _EXAMPLES else shown
