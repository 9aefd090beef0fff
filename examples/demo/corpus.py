"""The files that the demo ingests, and their jobs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ABORTS = "perdure_demo_aborts.py"
NOT_TEXT = "perdure_demo_not_text.py"
GRAPH_KIND = "graphrag.imports"
#: One job of each of these for every file, in this order.
KINDS = ("graphrag.vectors", GRAPH_KIND, "graphrag.text")


@dataclass(frozen=True)
class Corpus:
    """Source files below `root`: `paths` are relative to it. `bad` is a folder with one more, which is not text."""

    root: Path
    paths: list[str]
    bad: Path

    def files(self) -> Iterator[tuple[str, Path]]:
        """(path as the jobs name it, file) of each document, the bad one too."""
        yield NOT_TEXT, self.bad / NOT_TEXT
        for path in self.paths:
            yield path, self.root / path

    def jobs(self) -> Iterator[dict[str, Any]]:
        """Arguments of one job a file; the bad one comes after a third of the others."""
        jobs = [{"root": str(self.root), "path": path} for path in self.paths]
        jobs.insert(len(jobs) // 3, {"root": str(self.bad), "path": NOT_TEXT})
        yield from jobs

    def write_jobs(self, kind: str, folder: Path) -> Path:
        """The jobs of one kind as a file for `perdure enqueue KIND --from FILE`."""
        file = folder / f"{kind}.jsonl"
        file.write_text("".join(f"{json.dumps(arguments)}\n" for arguments in self.jobs()))
        return file


def gather(folder: Path) -> Corpus:
    """Every .py file below DEMO_DIR; else of the running Python's standard library, without its own tests."""
    chosen = os.environ.get("DEMO_DIR")
    root = Path(chosen or Path(os.__file__).parent).resolve()
    left_out = {"site-packages"} if chosen else {"site-packages", "test"}
    found = sorted(path.relative_to(root) for path in root.rglob("*.py") if path.is_file())
    bad = folder / "bad"
    bad.mkdir()
    (bad / NOT_TEXT).write_bytes(bytes(range(256)) * 4)
    return Corpus(root, [str(path) for path in found if not left_out.intersection(path.parts)], bad)
