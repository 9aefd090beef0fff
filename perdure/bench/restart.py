"""A daemon that was killed comes back to a long queue."""

from __future__ import annotations

import asyncio
import shutil
import statistics
import time
from pathlib import Path

from perdure.bench.daemon import START_SECONDS, Running, daemon
from perdure.bench.figure import Figure, Sizes, figure, spread
from perdure.bench.fill import fill_running, recover_alone
from perdure.errors import PerdureError

#: What a worker is sent ahead at first.
CLAIM = 256


def restart(folder: Path, sizes: Sizes) -> list[Figure]:
    """--many jobs queued, 1,000 were running at a kill -9: from the end of the handlers' import to the first job.

    The limit is the store by itself: open the file, put back what ran, claim.
    """
    template = folder / "template.db"
    fill_running(template, sizes.many, sizes.running, "bench.marked")
    taken, whole, alone = [], [], []
    for number in range(sizes.rounds):
        place = folder / str(number)
        place.mkdir()
        shutil.copyfile(template, place / "alone.db")
        alone.append(asyncio.run(recover_alone(place / "alone.db", CLAIM)) * 1000)
        (place / "alone.db").unlink()
        shutil.copyfile(template, place / "perdure.db")
        after_import, from_start = _start(place, sizes)
        taken.append(after_import)
        whole.append(from_start)
        shutil.rmtree(place)
    details = f"{sizes.many:,} queued, {sizes.running:,} running; {sizes.rounds} starts: {spread(taken)} ms; from the "
    details += f"start of the process: {spread(whole)} ms"
    limit_is = "the store alone: open, put back what ran, claim"
    return [figure("restart", statistics.median(taken), "ms", statistics.median(alone), limit_is, details, sizes)]


def _start(folder: Path, sizes: Sizes) -> tuple[float, float]:
    """Milliseconds to the first job, from the import of its handler and from the start of the process."""
    marks = folder / "marks"
    marks.touch()
    environ = {"BENCH_MARKS": str(marks)}
    started = time.monotonic_ns()
    handlers = "perdure.bench.marked_handlers"
    with daemon(folder, sizes, handlers=handlers, environ=environ, ready=False) as running:
        began = _await_mark(running, marks)
    imported = max(at for word, at in _marks(marks) if word == "imported" and at < began)
    return (began - imported) / 1e6, (began - started) / 1e6


def _await_mark(running: Running, marks: Path) -> int:
    """When the first job began."""
    deadline = time.monotonic() + START_SECONDS
    while not (began := [at for word, at in _marks(marks) if word == "began"]):
        if running.process.poll() is not None or time.monotonic() > deadline:
            raise PerdureError("no job began after the restart; the daemon's messages are above")
        time.sleep(0.01)
    return min(began)


def _marks(path: Path) -> list[tuple[str, int]]:
    lines = path.read_text("ascii").splitlines()
    return [(word, int(at)) for word, at in (line.split() for line in lines)]
