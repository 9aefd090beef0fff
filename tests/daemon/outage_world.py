"""A daemon whose jobs write into three real servers, and what must hold whichever of these goes away, and however.

`World.ride_out` is one outage, from the jobs that flow before it to the last check after it.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perdure.client import Client
from perdure.wire.control import ListBreakers
from perdure.wire.data import BreakerInfo, JobSpec
from tests.daemon.e2e import await_rest, query, running, workers_of
from tests.daemon.outage_handlers import JOURNAL
from tests.daemon.outage_services import Service, services
from tests.support.bolt_server import BoltServer
from tests.support.daemon import Daemon
from tests.support.fault_proxy import BLACK_HOLE, HALF_CLOSE, PASS, REFUSE, RESET, Fault, cut_after, latency
from tests.support.wait import wait_until

HANDLERS = ("tests.daemon.outage_handlers",)
WORKERS = 2
#: Of one call, seconds; and what a busy machine may add to it.
CALL_SECONDS, SLACK_SECONDS = 0.6, 1.5
#: Seconds that the breakers look back.
WINDOW_SECONDS = 3.0
#: Below this share of failed calls in the window a failure may be charged to its job.
TROUBLE_ONE_IN = 10
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
window = "{WINDOW_SECONDS:g}s"
minimum_volume = 5
break = "300ms"
break_cap = "1s"
probe_deadline = "3s"
ramp_start = 50
"""

Outage = Callable[[Service], AbstractContextManager[None]]


# --- the faults


def through_proxy(fault: Fault, *, drops: bool = False) -> Outage:
    """The way to the server is bad. `drops`: open connections are lost, too."""

    @contextlib.contextmanager
    def outage(service: Service) -> Iterator[None]:
        service.proxy.mode = fault
        if drops:
            service.proxy.drop_connections()
        try:
            yield
        finally:
            service.proxy.mode = PASS

    return outage


@contextlib.contextmanager
def killed(service: Service) -> Iterator[None]:
    """The server is killed, and started again on what it has on disk."""
    if not service.is_ours:
        pytest.skip(f"{service.name} is not ours to kill")
    service.kill()
    try:
        yield
    finally:
        service.start()


@contextlib.contextmanager
def locked_out(service: Service) -> Iterator[None]:
    """The password is another one for a while."""
    service.lock_out()
    try:
        yield
    finally:
        service.let_in()


def flapping(period: float) -> Outage:
    """Away and there again, each for so many seconds."""

    @contextlib.contextmanager
    def outage(service: Service) -> Iterator[None]:
        is_over = threading.Event()

        def flap() -> None:
            faults = [RESET, REFUSE, BLACK_HOLE, HALF_CLOSE]
            while not is_over.is_set():
                service.proxy.mode = faults[0]
                faults.append(faults.pop(0))
                is_over.wait(period)
                service.proxy.mode = PASS
                is_over.wait(period)

        thread = threading.Thread(target=flap, name="flapping")
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    return outage


#: All of them, by name. `cut`: some hundred small answers pass, a long one does not.
OUTAGES: dict[str, Outage] = {
    "refused": through_proxy(REFUSE, drops=True),
    "reset": through_proxy(RESET),
    "half-closed": through_proxy(HALF_CLOSE),
    "black-holed": through_proxy(BLACK_HOLE),
    "slow": through_proxy(latency(1.5 * CALL_SECONDS)),
    "cut": through_proxy(cut_after(20_000)),
    "killed": killed,
    "locked-out": locked_out,
    "flapping": flapping(0.3),
}
#: Those of which some calls end well, so that the breaker may stay closed.
PARTIAL = frozenset({"cut", "flapping"})


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

    HEAD = "service   outage        jobs other  opened parked  calls failed charged attempts longest  killed seconds"

    def __str__(self) -> str:
        return (
            f"{self.service:9} {self.outage:12} {self.jobs:5} {self.others:5} {self.opened:7} {self.parked:6}"
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
                assert self.ends(client, ids) == {"completed"}
        self.await_peace()

    def ends(self, client: Client, ids: list[int], timeout: float = 50) -> set[str]:
        """How they ended."""
        return {end.state if end.state != "dead" else f"dead: {end.error}" for end in client.wait_sync(ids, timeout)}

    # --- an outage

    def ride_out(self, name: str, outage: str, *, hold: float = 0.0, jobs: int = 30, how: Outage | None = None) -> Figures:
        """Jobs before, during and after it, and all that must hold. `hold`: seconds that it lasts at least.

        `how`: another outage than the one of that name.
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
                during, well = self._live_through(client, service, figures, jobs, hold, outage in PARTIAL)
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
        self.figures.append(figures)
        print(f"\n{Figures.HEAD}\n{figures}")
        return figures

    def _live_through(
        self, client: Client, service: Service, figures: Figures, jobs: int, hold: float, is_partial: bool
    ) -> tuple[list[int], list[int]]:
        """While it lasts: jobs that need the service, and jobs that do not. Both ids."""
        until = time.monotonic() + hold
        during = self.put(client, service, service.kinds, jobs)
        well: list[int] = []
        shows = not is_partial and hold == 0.0

        def is_over() -> bool:
            info = self.breaker(client, service.name)
            figures.parked = max(figures.parked, info.parked)
            # All but a probe, and the last that are on their way.
            return time.monotonic() >= until and (not shows or info.parked >= jobs - 3)

        while True:
            for ids in self.others(client, service).values():
                assert self.ends(client, ids, 20) == {"completed"}, "other jobs do not flow"
                well += ids
                figures.others += len(ids)
            if not shows and time.monotonic() < until:
                wait_until(lambda: is_over() or time.monotonic() > until - hold / 2, hold + 1, "half of its time")
                during += self.put(client, service, service.kinds, 6)
            wait_until(is_over, max(20.0, hold + 5), "the breaker to park what needs the service")
            return during, well

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
        if os.environ.get("DBG"):
            for row in rows:
                if row[2] > 1:
                    print([(e["attempt"], e["type"], e["message"][:150], e.get("cause")) for e in row[4]])
        # The rule of charging: fewer than a tenth of the window's calls had failed.
        ok = self.good_calls(service, since - WINDOW_SECONDS)
        assert len(charged) * (TROUBLE_ONE_IN - 1) <= ok, f"{len(charged)} attempts charged, {ok} calls went well"
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

    def good_calls(self, service: Service, since: float) -> int:
        """How many calls to it went well since then, whoever made them."""
        entries = [json.loads(line) for line in self._journal.read_text().splitlines()]
        mine = [one for one in entries if one["kind"] in (*service.kinds, service.fill_kind) and not one["error"]]
        return sum(3 * service.pool_max if one["call"] == "fill" else 1 for one in mine if one["at"] > since)

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
