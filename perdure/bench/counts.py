"""What a drain costs, counted and not timed: noise of the machine does not move it, so a test can hold it.

`python -m perdure.bench.counts` prints the counts; with a path it writes them there, as the new ones to hold.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from perdure.bench.lockstep import BEGIN, END, JOBS, Counts

STRACE = ("strace", "--follow-forks", "--quiet=all", "-a0", "-s64")
#: Waiting for each other's locks, and for memory: how often depends on the machine.
UNCOUNTED: Final = frozenset(("futex", "mmap", "munmap", "mprotect", "madvise", "brk", "sched_yield"))

Counted = Mapping[str, float]

#: How far above its recorded value a count may be: the same code counts the same anywhere, another SQLite nearly so.
TOLERANCE: Final = {
    "commits per 1,000 jobs": 0.05,
    "statements per commit": 0.05,
    "messages per 1,000 jobs": 0.05,
    "bytes on the wire per job": 0.05,
    "pages written per 1,000 jobs": 0.1,
    "system calls per 1,000 jobs": 0.15,
    "syncs per 1,000 jobs": 0.1,
}


def count_messages(folder: Path) -> Counted:
    """What a supervisor says to SQLite and on its sockets while no-op jobs are drained, in lockstep."""
    counts = _run(folder)
    return {
        "commits per 1,000 jobs": counts.commits / JOBS * 1000,
        "statements per commit": counts.statements / counts.commits,
        "messages per 1,000 jobs": counts.messages / JOBS * 1000,
        "bytes on the wire per job": counts.bytes / JOBS,
        "pages written per 1,000 jobs": counts.pages / JOBS * 1000,
    }


def count_calls(folder: Path) -> Counted | None:
    """System calls of the same drain, both ends of its sockets included; None where strace does not work."""
    if not can_trace():
        return None
    log = folder / "calls"
    _run(folder, *STRACE, "-o", str(log))
    lines = log.read_text(errors="replace").splitlines()
    begin, end = (next(index for index, line in enumerate(lines) if mark in line) for mark in (BEGIN, END))
    # A call that goes on while others call has a second line, which begins with "<... name resumed>".
    names = [line.partition(" ")[2].lstrip().partition("(")[0] for line in lines[begin + 1 : end]]
    calls = [name for name in names if name.isidentifier() and name not in UNCOUNTED]
    syncs = sum(name in ("fdatasync", "fsync") for name in calls)
    return {
        "system calls per 1,000 jobs": len(calls) / JOBS * 1000,
        "syncs per 1,000 jobs": syncs / JOBS * 1000,
    }


def can_trace() -> bool:
    """Whether strace is there and may trace."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run([*STRACE, "-o", "/dev/null", "true"], capture_output=True, check=False).returncode == 0


def _run(folder: Path, *before: str) -> Counts:
    database = Path(tempfile.mkdtemp(dir=folder)) / "perdure.db"
    command = [*before, sys.executable, "-m", "perdure.bench.lockstep", str(database)]
    return msgspec.json.decode(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout, type=Counts)


def grown(counts: Counted, recorded: Counted) -> list[str]:
    """Those counts that are above what was recorded by more than their tolerance, each as a line for people."""
    return [
        f"{name}: {value:g} instead of {recorded[name]:g} (up to {TOLERANCE[name]:.0%} more is well)"
        for name, value in counts.items()
        if value > recorded[name] * (1 + TOLERANCE[name])
    ]


def count_all() -> dict[str, float]:
    """All counts that can be taken here."""
    counts: dict[str, float] = {}
    for count in (count_messages, count_calls):
        with tempfile.TemporaryDirectory(prefix="perdure-bench-") as folder:
            counts.update(count(Path(folder)) or {})
    return {name: round(value, 2) for name, value in counts.items()}


def main() -> None:
    """Print the counts, or write them to the file that is the argument."""
    text = msgspec.json.format(msgspec.json.encode(count_all()), indent=2).decode() + "\n"
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
