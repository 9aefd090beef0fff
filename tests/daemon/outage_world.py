"""A daemon whose jobs write into three real servers, and what must hold whichever of these goes away, and however.

`World.ride_out` is one outage, from the jobs that flow before it to the last check after it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perdure.client import Client
from perdure.wire.control import ListBreakers
from perdure.wire.data import BreakerInfo, JobSpec
from tests.daemon.e2e import await_rest, kill, query, running, workers_of
from tests.daemon.outage_handlers import JOURNAL
from tests.daemon.outage_services import Service, services
from tests.daemon.outages import CALL_SECONDS, OUTAGES, PARTIAL, Outage
from tests.support.bolt_server import BoltServer
from tests.support.daemon import Daemon
from tests.support.fault_proxy import PASS
from tests.support.wait import wait_until

HANDLERS = ("tests.daemon.outage_handlers",)
WORKERS = 2
#: What a busy machine may add to the time of a call, seconds.
SLACK_SECONDS = 1.5
#: Between two looks at whether all else goes well in a long outage, seconds.
LONGEST_PAUSE = 2.0
SETTINGS = f"""
[workers]
count = {WORKERS}
async_slots = 8
restart_backoff_base = "10ms"
[jobs]
backoff_base = "10ms"
backoff_cap = "100ms"
max_interruptions = 20
[breakers]
timeout = "{CALL_SECONDS * 1000:g}ms"
window = "3s"
minimum_volume = 5
break = "300ms"
break_cap = "1s"
probe_deadline = "3s"
ramp_start = 50
"""

# --- what came of one


@dataclass
class Figures:
    """An outage in figures. `charged`: attempts, all of them before the breaker opened or while it was closed."""

    service: str
    outage: str
    jobs: int = 0
    others: int = 0
    seconds: float = 0.0
    opened: int = 0
    parked: int = 0
    calls: int = 0
    failed: int = 0
    charged: int = 0
    most_attempts: int = 1
    longest: float = 0.0
    interrupted: int = 0

    HEAD = (
        "service   outage             jobs other  opened parked  calls failed charged attempts longest  killed seconds"
    )

    def __str__(self) -> str:
        return (
            f"{self.service:9} {self.outage:17} {self.jobs:5} {self.others:5} {self.opened:7} {self.parked:6}"
            f" {self.calls:6} {self.failed:6} {self.charged:7} {self.most_attempts:8} {self.longest:6.2f}s"
            f" {self.interrupted:7} {self.seconds:6.1f}s"
        )


# --- the world


class World:
    """The daemon, the servers, and the journal of all calls."""

    def __init__(self, daemon: Daemon, found: dict[str, Service | str], journal: Path) -> None:
        self.daemon = daemon
        self._found = found
        self._journal = journal
        self.figures: list[Figures] = []

    def service(self, name: str) -> Service:
        """One of the three; the test is skipped when it is not there."""
        one = self._found[name]
        if isinstance(one, str):
            pytest.skip(one)
        return one

    @property
    def there(self) -> list[Service]:
        """All that could be had."""
        return [one for one in self._found.values() if isinstance(one, Service)]

    # --- jobs

    def put(self, client: Client, service: Service, kinds: Sequence[str], count: int) -> list[int]:
        """So many jobs of these kinds, in turn."""
        args = json.dumps({"run": service.run})
        specs = [JobSpec(kinds[n % len(kinds)], args) for n in range(count)]
        return [one.id for one in client.enqueue_many_sync(specs)]

    def others(self, client: Client, away: Service | None, count: int = 20) -> dict[str, list[int]]:
        """Jobs that do not need the one that is away."""
        specs = [JobSpec("other.noop", '{"n": 1}') for _ in range(count)]
        placed = {"": [one.id for one in client.enqueue_many_sync(specs)]}
        for other in self.there:
            if other is not away:
                placed[other.name] = self.put(client, other, other.writers, 8)
        return placed

    def breaker(self, client: Client, name: str, events: int = 0) -> BreakerInfo:
        """One of the breakers."""
        infos: list[BreakerInfo] = client.request_sync(ListBreakers(events))
        return next(info for info in infos if info.name == name)

    def await_peace(self) -> None:
        """Wait until all breakers are closed and nobody waits or works."""
        with self.daemon.client() as client:

            def is_peace() -> bool:
                infos: list[BreakerInfo] = client.request_sync(ListBreakers(0))
                counts = client.status_sync().counts
                busy = any(counts.get(state) for state in ("available", "running", "scheduled", "retryable", "parked"))
                return not busy and all(info.state == "closed" and not info.ramp for info in infos)

            wait_until(is_peace, 30, "all breakers to be closed, and nobody to wait")
        await_rest(self.daemon, WORKERS)

    def warm_up(self) -> None:
        """Each handler once in each worker: drivers are imported, marks' tables made, the servers' caches filled."""
        with self.daemon.client() as client:
            for service in self.there:
                ids = self.put(client, service, service.kinds, 12)
                ends = self.ends(client, ids)
                assert ends == {"completed"}, [letter for one in ids if (letter := client.dead_get_sync(one))][:2]
        self.await_peace()

    def ends(self, client: Client, ids: list[int], timeout: float = 50) -> set[str]:
        """How they ended."""
        return {end.state if end.state != "dead" else f"dead: {end.error}" for end in client.wait_sync(ids, timeout)}

    # --- an outage

    def ride_out(
        self, name: str, outage: str, *, hold: float = 0.0, jobs: int = 24, how: Outage | None = None
    ) -> Figures:
        """Jobs before, during and after it, and all that must hold. `hold`: seconds that it lasts at least.

        `how`: another outage than the one of that name. One that is neither partial nor short must open the breaker.
        """
        service = self.service(name)
        figures = Figures(name, outage)
        self.await_peace()
        pids = self.pids()
        with self.daemon.client() as client:
            before = self.put(client, service, service.kinds, jobs)
            assert self.ends(client, before) == {"completed"}
            started = time.monotonic(), time.time()
            with (how or OUTAGES[outage])(service):
                is_seen = how is None and outage not in PARTIAL
                during, well = self._live_through(client, service, figures, jobs, hold, is_seen)
            after = self.put(client, service, service.kinds, jobs)
            mine = before + during + after
            assert self.ends(client, mine) == {"completed"}, self.daemon.log()[-3000:]
            figures.seconds = time.monotonic() - started[0]
        self.await_peace()
        self.judge(figures, service, mine, started[1])
        for other in self.there:
            if other is not service:
                self.each_once(other, well)
        assert self.pids() == pids, "a worker has died"
        self.no_slot_has_leaked(service)
        return self.keep(figures)

    def _live_through(
        self, client: Client, service: Service, figures: Figures, jobs: int, hold: float, is_seen: bool
    ) -> tuple[list[int], list[int]]:
        """While it lasts: jobs that need the service, and jobs that do not. Both ids."""
        until = time.monotonic() + hold
        during = self.put(client, service, service.kinds, jobs)
        well: list[int] = []
        while True:
            for ids in self.others(client, service).values():
                assert self.ends(client, ids, 20) == {"completed"}, "other jobs do not flow"
                well += ids
            if time.monotonic() >= until:
                break
            pause = min(until, time.monotonic() + LONGEST_PAUSE)
            wait_until(lambda pause=pause: time.monotonic() >= pause, LONGEST_PAUSE + 1)  # type: ignore[misc]
            during += self.put(client, service, service.kinds, 6)
        figures.others = len(well)

        def is_parked() -> bool:
            figures.parked = max(figures.parked, self.breaker(client, service.name).parked)
            return figures.parked >= jobs - 3  # all but a probe, and the last that are on their way

        if is_seen:
            wait_until(is_parked, 20, "the breaker to park what needs the service")
        return during, well

    def ride_out_kills(self, name: str, outage: str, rng: random.Random, *, jobs: int = 30) -> Figures:
        """The same with kill -9 of workers and of the daemon while it lasts."""
        service = self.service(name)
        figures = Figures(name, f"{outage}, kills")
        self.await_peace()
        with self.daemon.client() as client:
            mine = self.put(client, service, service.kinds, jobs)
            assert self.ends(client, mine) == {"completed"}
        started = time.monotonic(), time.time()
        with OUTAGES[outage](service):
            with self.daemon.client() as client:
                mine += self.put(client, service, service.kinds, jobs)
            self.kill_worker(rng)
            self.daemon.kill()
            wait_until(lambda: not self.daemon.processes(), 10, "everything below the daemon to end")
            self.daemon.start()
            with self.daemon.client() as client:
                mine += self.put(client, service, service.kinds, jobs)
                self.kill_worker(rng)
                well = self.others(client, service)
                for ids in well.values():
                    assert self.ends(client, ids, 20) == {"completed"}, "other jobs do not flow"
                    figures.others += len(ids)
        with self.daemon.client() as client:
            mine += self.put(client, service, service.kinds, jobs)
            self.kill_worker(rng)
            assert self.ends(client, mine) == {"completed"}, self.daemon.log()[-3000:]
        figures.seconds = time.monotonic() - started[0]
        self.await_peace()
        self.judge(figures, service, mine, started[1])
        for other in self.there:
            self.each_once(other, well.get(other.name, []))
        self.no_slot_has_leaked(service)
        return self.keep(figures)

    def kill_worker(self, rng: random.Random) -> None:
        """SIGKILL to one of them, whatever it does."""
        kill(rng.choice(wait_until(self.pids, 20, "a worker to kill")))

    def keep(self, figures: Figures) -> Figures:
        """For the table at the end."""
        self.figures.append(figures)
        print(f"\n{Figures.HEAD}\n{figures}")
        return figures

    # --- what must hold

    def pids(self) -> list[int]:
        """The workers' processes."""
        return sorted(worker.pid for worker in workers_of(self.daemon))

    def rows(self, ids: Sequence[int]) -> list[tuple[int, str, int, int, list[dict[str, Any]]]]:
        """id, state, attempt, interruptions and errors of these jobs."""
        found = query(
            self.daemon.folder,
            "SELECT id, state, attempt, interruptions, errors FROM jobs WHERE id IN (SELECT value FROM json_each(?))",
            json.dumps(list(ids)),
        )
        return [(*row[:4], msgspec.json.decode(row[4] or "[]")) for row in found]

    def judge(self, figures: Figures, service: Service, ids: list[int], since: float) -> None:
        """All completed, effects once, nothing charged that must not be, every call in time."""
        rows = self.rows(ids)
        assert Counter(row[1] for row in rows) == {"completed": len(ids)}
        self.each_once(service, ids)
        shut = self.shut_times(service.name, since)
        charged = [at for row in rows for at in charged_at(*row[2:])]
        inside = [(at, begin, end) for at in charged for begin, end in shut if begin < at < end]
        assert inside == [], "attempts were charged while the breaker was not closed"
        calls = self.calls_of(ids)
        assert all(one["took"] < CALL_SECONDS + SLACK_SECONDS for one in calls), max(calls, key=lambda one: one["took"])
        # Each job has the benefit of the doubt some times (daemon/doubts.py), more often than an outage here takes.
        assert charged == [], [row for row in rows if charged_at(*row[2:])][:2]
        figures.jobs, figures.calls = len(ids), len(calls)
        figures.failed = sum(bool(one["error"]) for one in calls)
        figures.charged, figures.opened = len(charged), len(shut)
        figures.most_attempts = max(row[2] - row[3] for row in rows)
        figures.interrupted = sum(row[3] for row in rows)
        figures.longest = max((one["took"] for one in calls), default=0.0)

    def each_once(self, service: Service, ids: Sequence[int]) -> None:
        """Each of these jobs that writes into the service has done it, once; and none has done it twice."""
        marks = ", ".join("?" * len(service.writers))
        sql = f"SELECT id FROM jobs WHERE kind IN ({marks}) AND state = 'completed'"
        writers = {row[0] for row in query(self.daemon.folder, sql, *service.writers)}
        effects = service.effects()
        wanted = writers.intersection(ids)
        assert {job_id: effects[job_id] for job_id in wanted if effects[job_id] != 1} == {}, "not once"
        assert {job_id: count for job_id, count in effects.items() if count != 1} == {}, "twice"

    def shut_times(self, name: str, since: float) -> list[tuple[float, float]]:
        """From when to when the breaker was not closed since then, epoch milliseconds."""
        with self.daemon.client() as client:
            events = sorted(self.breaker(client, name, 1000).events, key=lambda event: event.at)
        spans: list[tuple[float, float]] = []
        opened: float | None = None
        for event in events:
            if event.now == "closed":
                spans.append((0.0 if opened is None else opened, event.at))
                opened = None
            elif opened is None:
                opened = event.at if event.was == "closed" else 0.0
        if opened is not None:
            spans.append((opened, float("inf")))
        return [span for span in spans if span[1] > since * 1000]

    def calls_of(self, ids: Sequence[int]) -> list[dict[str, Any]]:
        """What the journal tells about the calls of these jobs."""
        wanted = set(ids)
        entries = (json.loads(line) for line in self._journal.read_text().splitlines())
        return [entry for entry in entries if entry["job"] in wanted]

    def no_slot_has_leaked(self, service: Service) -> None:
        """In each worker the whole pool can be had at the same time."""
        with self.daemon.client() as client:
            wanted, ids = set(self.pids()), list[int]()

            def filled() -> bool:
                specs = [JobSpec(service.fill_kind, json.dumps({"size": service.pool_max})) for _ in range(WORKERS)]
                placed = [one.id for one in client.enqueue_many_sync(specs)]
                ids.extend(placed)
                assert self.ends(client, placed) == {"completed"}, f"{service.name}: a slot of a pool has leaked"
                return {one["pid"] for one in self.calls_of(ids) if not one["error"]} >= wanted

            wait_until(filled, 30, "each worker to have had its whole pool")


def charged_at(attempt: int, interruptions: int, errors: list[dict[str, Any]]) -> list[int]:
    """When the charged failures of a job were, epoch milliseconds: those after which its number of attempts grew."""
    numbers = [*(error["attempt"] for error in errors[1:]), attempt]
    found = [
        error["at"]
        for error, following in zip(errors, numbers, strict=False)
        if following > error["attempt"] and error["type"] != "JobInterrupted"
    ]
    assert len(found) == attempt - interruptions - 1 or len(errors) >= 20, (attempt, interruptions, errors)
    return found


@contextlib.contextmanager
def outage_world(folder: Path, bolt: BoltServer | str) -> Iterator[World]:
    """All of it, warm; at the end the daemon must stop well."""
    folder.mkdir(parents=True, exist_ok=True)
    journal = folder / "journal"
    journal.touch()
    os.environ[JOURNAL] = str(journal)
    try:
        with services(folder, bolt) as found:
            sections = "".join(one.settings for one in found.values() if isinstance(one, Service))
            with running(folder, SETTINGS + sections, handlers=HANDLERS) as daemon:
                world = World(daemon, found, journal)
                world.warm_up()
                yield world
                for one in world.there:
                    one.proxy.mode = PASS
    finally:
        del os.environ[JOURNAL]
