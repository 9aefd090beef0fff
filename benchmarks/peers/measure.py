"""The workloads. Each figure is measured in the same way for every peer, by what its handlers leave behind."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from benchmarks.peers import processes
from benchmarks.peers.catalog import Peer
from benchmarks.peers.trial import Trial, TrialError

#: How long the rest of a drain that took too long may go on.
REST_S = 10.0
#: A drain in which no job ends for so long is over; what has not run then was left behind.
STALL_S = 3.0
#: The most seconds for: preparing a backlog, draining it, one-by-one enqueue, latency, both together, recovery.
PREPARE_S, DRAIN_S, ENQUEUE_S, LATENCY_S, BOTH_S, RECOVERY_S = 8.0, 15.0, 1.5, 4.0, 8.0, 30.0
SAMPLES = 100
KILL_JOBS = 400
KILL_WORK_S = 0.02
#: For peers that never look for the jobs of a lost worker: the rest of the backlog is done by then.
NO_RECOVERY_S = 10.0
#: After the kill one more job is enqueued each second, as in a queue that is in use: some recover only then.
NUDGES, NUDGE_S = 100, 1.0


@dataclass
class Figure:
    """One measured value. `durable`: whether an acknowledged job is fsynced; `durability`: by what setting."""

    benchmark: str
    peer: str
    version: str
    server: str
    settings: str
    durability: str
    durable: bool
    value: float | None
    unit: str
    details: str = ""


class Speed:
    """Drain, latency, both together and one-by-one enqueue of one peer at one durability."""

    def __init__(self, peer: Peer, interpreter: str, durable: bool, scale: float) -> None:
        self.peer, self.interpreter, self.durable, self.scale = peer, interpreter, durable, scale
        self.trial: Trial

    def run(self) -> Iterator[Figure]:
        """One workload after the other. Raises TrialError."""
        environ = {"PEER_WORK_S": "0"}
        with Trial(self.peer, self.interpreter, self.durable, 1_000_000, environ) as trial:
            self.trial = trial
            jobs = max(200, int(trial.info["jobs"] * self.scale))
            drained = yield from self._drain(jobs)
            if drained:
                yield from self._latency(jobs)
                yield from self._both(jobs + SAMPLES, max(100, jobs // 2))
            yield self._enqueue()

    def _drain(self, jobs: int) -> Generator[Figure, None, bool]:
        """Returns whether nothing runs any more at last."""
        trial = self.trial
        if trial.info["daemon"]:
            trial.start_workers()
            trial.order("hold")
        prepared = trial.order("enqueue_many", first=0, count=jobs, most_s=PREPARE_S)
        jobs = prepared["count"]
        steps = "one by one" if trial.info["batch"] == 1 else f"{trial.info['batch']:,} a call"
        yield self.figure("enqueue, many", jobs / prepared["seconds"], "jobs/s", f"{jobs:,} jobs, {steps}")
        if not trial.info["daemon"]:
            trial.start_workers()
        began = trial.begin()
        cpu = processes.cpu_seconds()
        ended = trial.runs.await_ended(0, jobs, DRAIN_S, STALL_S)
        cpu = processes.cpu_seconds() - cpu
        seconds = trial.runs.last_begin(0, jobs) - began
        details = f"{ended:,} of {jobs:,} jobs, {trial.runs.processes()} worker processes"
        yield self.figure("drain", ended / seconds, "jobs/s", details)
        yield self.figure("CPU", cpu / max(ended, 1) * 1_000, "s/1,000 jobs", "all processes, during the drain")
        # Too slow for its number of jobs: the rest has to be gone before anything else is measured. Or left behind.
        ended = trial.runs.await_ended(0, jobs, REST_S, STALL_S)
        return ended == jobs or trial.runs.await_ended(0, jobs, STALL_S) == ended

    def _latency(self, first: int) -> Iterator[Figure]:
        taken = sorted(self.trial.order("latency", first=first, count=SAMPLES, most_s=LATENCY_S)["samples"])
        details = f"{len(taken)} jobs, one at a time"
        median = statistics.median(taken) if taken else None
        p99 = taken[min(len(taken) - 1, int(len(taken) * 0.99))] if taken else None
        yield self.figure("latency, median", median, "ms", details)
        yield self.figure("latency, p99", p99, "ms", details)

    def _both(self, first: int, jobs: int) -> Iterator[Figure]:
        made = self.trial.order("enqueue_many", first=first, count=jobs, most_s=BOTH_S)
        ended = self.trial.runs.await_ended(first, made["count"], BOTH_S, STALL_S)
        seconds = self.trial.runs.last_begin(first, made["count"]) - made["began"]
        yield self.figure("both", ended / seconds, "jobs/s", f"{ended:,} of {made['count']:,} jobs, one producer")

    def _enqueue(self) -> Figure:
        if self.trial.info["daemon"]:
            self.trial.order("hold")
        else:
            self.trial.stop_workers()
        done = self.trial.order("enqueue", first=0, count=1_000_000, most_s=ENQUEUE_S)
        return self.figure("enqueue, one by one", done["count"] / done["seconds"], "jobs/s", f"{done['count']:,} jobs")

    def figure(self, benchmark: str, value: float | None, unit: str, details: str = "") -> Figure:
        """A line about this peer."""
        return make_figure(self.peer, self.trial, self.durable, benchmark, value, unit, details)


def make_figure(
    peer: Peer, trial: Trial, durable: bool, benchmark: str, value: float | None, unit: str, details: str
) -> Figure:
    """A line with what is known of the peer."""
    settings = trial.info["recovery" if benchmark.startswith("kill") else "settings"]
    server = trial.server.description if trial.server else ""
    label = peer.durable if durable else peer.fast
    return Figure(benchmark, peer.name, trial.info["version"], server, settings, label, durable, value, unit, details)


def kill(peer: Peer, interpreter: str, scale: float) -> Iterator[Figure]:
    """SIGKILL to all workers, and to the server, when half of the jobs have begun. Raises TrialError."""
    environ = {"PEER_WORK_S": str(KILL_WORK_S), "PEER_RECOVERING": "1"}
    jobs = max(200, int(KILL_JOBS * min(1.0, scale)))
    with Trial(peer, interpreter, True, jobs + NUDGES, environ) as trial:
        if trial.info["daemon"]:
            trial.start_workers()
            trial.order("hold")
        jobs = trial.order("enqueue_many", first=0, count=jobs, most_s=PREPARE_S)["count"]
        if not trial.info["daemon"]:
            trial.start_workers()
        trial.begin()
        deadline = time.monotonic() + DRAIN_S
        while trial.runs.begun(0, jobs) < jobs // 2 and time.monotonic() < deadline:
            time.sleep(0.002)
        trial.kill_workers()
        killed, begun = time.monotonic(), trial.runs.begun(0, jobs)
        done = trial.runs.ended(0, jobs)
        if trial.server is not None:
            trial.server.restart()
        trial.start_workers()
        ended = _recover(trial, jobs)
        begun_twice, ended_twice = trial.runs.twice(0, jobs)
        seconds = trial.runs.last_begin(0, jobs) - killed
        details = f"{peer.killed} killed after {begun:,} of {jobs:,} had begun, {begun - done} of them running"
        yield make_figure(peer, trial, True, "kill, not run", jobs - ended, "jobs", details)
        yield make_figure(peer, trial, True, "kill, begun twice", begun_twice, "jobs", details)
        yield make_figure(peer, trial, True, "kill, ended twice", ended_twice, "jobs", details)
        yield make_figure(peer, trial, True, "kill, last job began", seconds, "s", "after the kill")


def _recover(trial: Trial, jobs: int) -> int:
    """Wait until all have ended, and see to it that the queue is in use meanwhile. Returns how many have."""
    wait_s = RECOVERY_S if trial.info["recovers"] else NO_RECOVERY_S
    deadline, ended = time.monotonic() + wait_s, 0
    for index in range(jobs, jobs + NUDGES):
        ended = trial.runs.await_ended(0, jobs, NUDGE_S)
        if ended == jobs or time.monotonic() > deadline:
            break
        with contextlib.suppress(TrialError):  # its connection may still be that to the dead server
            trial.order("nudge", index=index)
    return ended
