"""The drain on a disk that is slower."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from perdure.bench.daemon import daemon
from perdure.bench.drain import one_drain
from perdure.bench.figure import Figure, Sizes, Skipped, figure, spread

#: How much longer each fsync and fdatasync takes.
DELAY_US = 2_000
#: seccomp: only these two calls stop for the tracer, all others run as ever.
STRACE = (
    "strace", "--follow-forks", "--seccomp-bpf", "--quiet=all", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e",
    f"inject=fsync,fdatasync:delay_exit={DELAY_US}",
)  # fmt: skip


def slow_disk(folder: Path, sizes: Sizes) -> list[Figure]:
    """The same drain as `drain`, each fsync 2 ms slower (strace holds it back); the limit: the same without that."""
    delay = _check(folder)
    rates = {}
    for name, command in (("fast", ()), ("slow", STRACE)):
        place = folder / name
        place.mkdir()
        with daemon(place, sizes, command=(*command, sys.executable, "-m", "perdure")) as running:
            drains = [one_drain(running, "bench.noop", sizes.jobs) for _ in range(sizes.rounds)]
        rates[name] = [sizes.jobs / seconds for seconds, _, _ in drains]
    details = f"strace --seccomp-bpf delays fsync and fdatasync: one takes {delay:.2f} ms then; {sizes.jobs:,} jobs a "
    details += f"round: {spread(rates['slow'])}"
    value, limit = statistics.median(rates["slow"]), statistics.median(rates["fast"])
    return [figure("slow-disk", value, "jobs/s", limit, "the same drain, syncs as they are", details, sizes)]


def _check(folder: Path) -> float:
    """Milliseconds of a delayed sync. Raises Skipped where they cannot be delayed."""
    if shutil.which("strace") is None:
        raise Skipped("strace is not installed, and it is what delays the fsyncs")
    code = f"from perdure.bench.slow_disk import print_sync; print_sync({str(folder)!r})"
    done = subprocess.run([*STRACE, sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Skipped(f"strace does not work here: {reason}")
    milliseconds = float(done.stdout)
    if milliseconds < DELAY_US / 1000:
        raise Skipped(f"strace did not delay anything: an fdatasync took {milliseconds:.2f} ms")
    return milliseconds


def print_sync(folder: str) -> None:
    """Print the median time of an fdatasync in this folder, in milliseconds."""
    from perdure.bench.machine import fdatasync_ms

    sys.stdout.write(f"{statistics.median(fdatasync_ms(Path(folder), 20))}\n")
