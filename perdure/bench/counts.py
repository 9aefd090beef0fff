"""What a drain costs, counted and not timed: noise of the machine does not move it, so a test can hold it.

`python -m perdure.bench.counts` prints the counts; with a path it writes them there, as the new ones to hold.
"""

from __future__ import annotations

import collections
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from perdure.bench.counted import Counts, create, read
from perdure.bench.daemon import Running, daemon
from perdure.bench.figure import Sizes
from perdure.bench.load import prepare, release

#: Jobs of the drain.
JOBS = 6_000
#: Rounds; the median counts.
ROUNDS = 3
#: Calls of the system that are counted where strace is: files and sockets, no waiting for locks.
CALLS = (
    "pread64",
    "pwrite64",
    "fdatasync",
    "fsync",
    "sendto",
    "sendmsg",
    "recvfrom",
    "recvmsg",
    "epoll_pwait",
    "fcntl",
)
STRACE = ("strace", "--follow-forks", "--seccomp-bpf", "--quiet=all", "-a0", "-s0", "-e", f"trace={','.join(CALLS)}")
SIZES = Sizes(workers=2)

Counted = Mapping[str, float]

#: How far above its recorded value a count may be. What depends on how many jobs a turn finds waiting moves a little
#: with the machine; what does not, hardly.
TOLERANCE: Final = {
    "commits per 1,000 jobs": 0.5,
    "statements per commit": 0.15,
    "messages per 1,000 jobs": 0.5,
    "bytes on the wire per job": 0.05,
    "system calls per 1,000 jobs": 0.3,
    "writes to files per 1,000 jobs": 0.2,
    "syncs per 1,000 jobs": 0.6,
}


def count_messages(folder: Path) -> Counted:
    """What the supervisor says to SQLite and on its sockets while no-op jobs are drained."""
    path = folder / "counts"
    create(path)
    command = (sys.executable, "-m", "perdure.bench.counted")
    rounds = []
    with daemon(folder, SIZES, command=command, environ={"BENCH_COUNTS": str(path)}) as running:
        for _ in range(ROUNDS):
            ids = prepare(running, "bench.noop", JOBS)
            before = read(path)
            release(running, ids)
            after = read(path)
            counts = Counts(*(new - old for old, new in zip(before, after, strict=True)))
            rounds.append(
                {
                    "commits per 1,000 jobs": counts.commits / JOBS * 1000,
                    "statements per commit": counts.statements / counts.commits,
                    "messages per 1,000 jobs": (counts.messages_sent + counts.messages_received) / JOBS * 1000,
                    "bytes on the wire per job": counts.bytes / JOBS,
                }
            )
    return _median(rounds)


def count_calls(folder: Path) -> Counted | None:
    """System calls of the supervisor, with all its threads; None where strace does not work."""
    if not can_trace():
        return None
    log = folder / "calls"
    rounds = []
    command = (*STRACE, "-o", str(log), sys.executable, "-m", "perdure")
    with daemon(folder, SIZES, command=command) as running:
        for _ in range(ROUNDS):
            ids = prepare(running, "bench.noop", JOBS)
            before = log.stat().st_size
            release(running, ids)
            with log.open("rb") as file:
                file.seek(before)
                rounds.append(_of_supervisor(running, file.read().decode().splitlines()))
    return _median(rounds)


def can_trace() -> bool:
    """Whether strace is there and may trace."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run([*STRACE, "-o", "/dev/null", "true"], capture_output=True, check=False).returncode == 0


def _of_supervisor(running: Running, lines: Iterable[str]) -> dict[str, float]:
    """The calls of the supervisor's threads. One that goes on while others call has a second line, with other words."""
    threads = set(os.listdir(f"/proc/{running.pid}/task"))
    found: collections.Counter[str] = collections.Counter()
    for line in lines:
        thread, _, rest = line.partition(" ")
        name = rest.lstrip().partition("(")[0]
        if thread in threads and name in CALLS:
            found[name] += 1
    return {
        "system calls per 1,000 jobs": sum(found.values()) / JOBS * 1000,
        "writes to files per 1,000 jobs": found["pwrite64"] / JOBS * 1000,
        "syncs per 1,000 jobs": (found["fdatasync"] + found["fsync"]) / JOBS * 1000,
    }


def _median(rounds: list[dict[str, float]]) -> Counted:
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


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
