"""`perdure enqueue` as a whole process, as shell loops run it."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from perdure.bench.daemon import daemon
from perdure.bench.figure import Figure, Sizes, figure, spread
from perdure.errors import PerdureError

#: Drivers, web and terminal parts: none of them is needed to put a job in.
FORBIDDEN = frozenset(
    ("asyncpg", "neo4j", "qdrant_client", "httpx", "starlette", "uvicorn", "textual", "rich", "asyncio", "uvloop")
)


def cli(folder: Path, sizes: Sizes) -> list[Figure]:
    """`perdure enqueue` with two arguments, from start to exit, durable; the limit is `python -c pass`, in turns."""
    ours, bare = [], []
    with daemon(folder, sizes) as running:
        config = str(running.folder / "perdure.toml")
        command = [sys.executable, "-m", "perdure", "enqueue", "--config", config, "bench.noop", "user:=1", "name=x"]
        _seconds(command)
        for _ in range(sizes.processes):
            ours.append(_seconds(command) * 1000)
            bare.append(_seconds([sys.executable, "-c", "pass"]) * 1000)
        imported = _imported(command)
    if found := FORBIDDEN & imported:
        raise PerdureError(f"`perdure enqueue` imports {', '.join(sorted(found))}, which it has no use for")
    details = f"{sizes.processes} of each, median (least to most): {spread(ours)} ms; no driver, web or terminal part "
    details += f"among the {len(imported)} top-level modules that it imports"
    value, limit = statistics.median(ours), statistics.median(bare)
    return [figure("cli", value, "ms", limit, "`python -c pass`, the whole process", details, sizes)]


def _seconds(command: Sequence[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def _imported(command: Sequence[str]) -> set[str]:
    """The top-level names of all modules that a command imports."""
    timed = [command[0], "-X", "importtime", *command[1:]]
    done = subprocess.run(timed, check=True, capture_output=True, text=True)
    lines = (line for line in done.stderr.splitlines() if line.startswith("import time:"))
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}
