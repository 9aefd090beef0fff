"""A real daemon whose jobs need a service that comes and goes; between the two a proxy with faults."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from perdure.client import Client
from perdure.wire.control import CloseBreaker, Explain, ListBreakers, OpenBreaker
from perdure.wire.data import BreakerInfo, JobSpec
from tests.daemon.e2e import await_executing, await_rest, query, running, workers_of
from tests.daemon.outage_handlers import LINE_PORT
from tests.support.daemon import Daemon
from tests.support.fault_proxy import BLACK_HOLE, PASS, REFUSE, RESET, FaultProxy
from tests.support.line_server import LineServer
from tests.support.wait import wait_until

HANDLERS = ("tests.daemon.outage_handlers",)
WORKERS = 4
UNFINISHED = ("available", "running", "scheduled", "retryable", "parked")
SETTINGS = f"""
[workers]
count = {WORKERS}
restart_backoff_base = "10ms"
[jobs]
backoff_base = "10ms"
backoff_cap = "100ms"
[breakers]
timeout = "400ms"
window = "3s"
minimum_volume = 5
break = "300ms"
break_cap = "1s"
probe_deadline = "3s"
ramp_start = 1000
[dependencies.line]
"""


@pytest.fixture(scope="module")
def server() -> Iterator[LineServer]:
    """The service."""
    with LineServer() as one:
        yield one


@pytest.fixture(scope="module")
def proxy(server: LineServer) -> Iterator[FaultProxy]:
    """What the jobs reach it through."""
    with FaultProxy("127.0.0.1", server.port) as one:
        yield one


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, proxy: FaultProxy) -> Iterator[Daemon]:
    """Four workers."""
    os.environ[LINE_PORT] = str(proxy.port)
    try:
        with running(tmp_path_factory.mktemp("breakers"), SETTINGS, handlers=HANDLERS) as one:
            yield one
    finally:
        del os.environ[LINE_PORT]


@pytest.fixture
def client(daemon: Daemon, proxy: FaultProxy, server: LineServer) -> Iterator[Client]:
    """A client; everything is well before and after."""
    proxy.mode = PASS
    server.answering.set()
    with daemon.client() as one:
        one.request_sync(CloseBreaker("line", "test"))
        server.calls.clear()
        server.most_at_once = 0
        yield one
        proxy.mode = PASS
        server.answering.set()
    with daemon.client() as one:
        one.request_sync(CloseBreaker("line", "test"))
        wait_until(lambda: at_peace(one), 30, "nothing to wait any more")
    await_rest(daemon, WORKERS)


def at_peace(client: Client) -> bool:
    """Whether no job of former tests is left that could disturb the next one."""
    counts = client.status_sync().counts
    return breaker(client).ramp == 0 and not any(counts.get(state) for state in UNFINISHED)


def breaker(client: Client, events: int = 0) -> BreakerInfo:
    """The only breaker there is."""
    infos: list[BreakerInfo] = client.request_sync(ListBreakers(events))
    assert [info.name for info in infos] == ["line"]
    return infos[0]


def await_state(client: Client, *states: str) -> BreakerInfo:
    """Wait until the breaker is in one of these states."""
    return wait_until(
        lambda: info if (info := breaker(client)).state in states else None, 20, f"the breaker to be {states}"
    )


def put(client: Client, kind: str, count: int) -> list[int]:
    """So many jobs."""
    specs = [JobSpec(kind, f'{{"n": {n}}}') for n in range(count)]
    return [one.id for one in client.enqueue_many_sync(specs)]


def ends(client: Client, ids: list[int], timeout: float = 40) -> set[str]:
    """How they ended."""
    return {end.state for end in client.wait_sync(ids, timeout)}


def charged(daemon: Daemon, ids: list[int]) -> int:
    """The most attempts that one of them has used: no more than the one that ended well."""
    found = query(daemon.folder, f"SELECT max(attempt) FROM jobs WHERE id IN ({','.join(map(str, ids))})")
    return int(found[0][0])


def test_jobs_of_a_service_that_is_away_park_uncharged_and_end_when_it_is_back(
    daemon: Daemon, client: Client, proxy: FaultProxy
) -> None:
    """A dead dependency would burn the attempts of all jobs, and they would be dead letters when it comes back."""
    proxy.mode = REFUSE
    jobs = put(client, "line.call", 200)
    await_state(client, "open", "half_open")
    wait_until(lambda: breaker(client).parked >= 195, 20, "nearly all to be parked")
    assert ends(client, put(client, "other.noop", 200)) == {"completed"}
    assert breaker(client).parked >= 195
    proxy.mode = PASS
    assert ends(client, jobs) == {"completed"}
    assert charged(daemon, jobs) == 1
    assert breaker(client).state == "closed"


@pytest.mark.parametrize("kind", ["line.call.midway", "line.call.sync"])
def test_a_job_that_meets_the_open_breaker_in_mid_run_is_parked_uncharged(
    daemon: Daemon, client: Client, proxy: FaultProxy, kind: str
) -> None:
    """Only jobs that declare their needs would be spared."""
    proxy.mode = REFUSE
    jobs = put(client, kind, 40)
    await_state(client, "open", "half_open")
    wait_until(lambda: breaker(client).parked >= 35, 20, "nearly all to be parked")
    proxy.mode = PASS
    assert ends(client, jobs) == {"completed"}
    assert charged(daemon, jobs) == 1


def test_t19_a_service_that_is_away_for_a_moment_costs_nobody_anything(
    daemon: Daemon, client: Client, proxy: FaultProxy
) -> None:
    """A tenth of a second without the service would show in the jobs' attempts, or leave some of them behind."""
    accepted = proxy.connections.accepted
    proxy.mode = RESET
    jobs = put(client, "line.call", 100)
    wait_until(lambda: proxy.connections.accepted > accepted, 5, "some job to meet the fault")
    proxy.mode = PASS
    assert ends(client, jobs) == {"completed"}
    assert charged(daemon, jobs) == 1


def test_t20_dropped_packets_end_within_the_time_limit_and_open_the_breaker(
    daemon: Daemon, client: Client, proxy: FaultProxy
) -> None:
    """Nothing refuses a call that nobody answers: it would hold its slot for ever."""
    proxy.mode = BLACK_HOLE
    jobs = put(client, "line.call", 100)
    opened = await_state(client, "open", "half_open")
    assert "CallTooLong" in (opened.last_error or ""), opened
    wait_until(lambda: breaker(client).parked >= 95, 20, "nearly all to be parked")
    assert ends(client, put(client, "other.noop", 100)) == {"completed"}
    proxy.mode = PASS
    proxy.drop_connections()
    assert ends(client, jobs) == {"completed"}
    assert charged(daemon, jobs) == 1


def test_t21_exactly_one_probe_in_all_processes_and_it_expires(
    daemon: Daemon, client: Client, proxy: FaultProxy, server: LineServer
) -> None:
    """A service that has just come back would be flooded; or one lost probe would keep it shut for ever."""
    proxy.mode = REFUSE
    jobs = put(client, "line.call", 60) + put(client, "line.call.midway", 60)
    await_state(client, "open", "half_open")
    # Between two probes: calls that were admitted before the breaker opened are over.
    wait_until(lambda: breaker(client).parked == 120, 20, "all to be parked")
    server.answering.clear()
    server.calls.clear()
    server.most_at_once = 0
    proxy.mode = PASS
    # The probe is under way and gets no answer; at the end of its time the next break begins.
    wait_until(lambda: len(server.calls) >= 3, 30, "three probes, one after the other")
    events = [(event.was, event.now) for event in breaker(client, 20).events]
    assert ("half_open", "open") in events
    assert server.most_at_once == 1
    assert ends(client, put(client, "other.noop", 50)) == {"completed"}
    server.answering.set()
    assert ends(client, jobs) == {"completed"}
    assert charged(daemon, jobs) == 1


def test_t21_twenty_callers_in_four_processes_make_one_probe(
    daemon: Daemon, client: Client, server: LineServer
) -> None:
    """All that run, and ask in the moment in which the breaker is half open, would be let through."""
    client.request_sync(OpenBreaker("line", "test", "hold it"))
    jobs = put(client, "line.hammer", 20)
    await_executing(daemon, *jobs)
    assert all(len(worker.executing) >= 1 for worker in workers_of(daemon)), workers_of(daemon)
    assert len(workers_of(daemon)) == WORKERS
    server.answering.clear()
    client.request_sync(OpenBreaker("line", "test", "let it be tried", 50))
    since = time.time() * 1000

    def half_open() -> int:
        return sum(event.now == "half_open" and event.at >= since - 50 for event in breaker(client, 50).events)

    # Each gets no answer, so the next break begins; all twenty ask all the time.
    wait_until(lambda: len(server.calls) >= 3, 20, "three probes, one after the other")
    assert await_state(client, "open").state == "open"
    assert server.most_at_once == 1
    assert len(server.calls) <= half_open()
    server.answering.set()
    assert ends(client, jobs) == {"completed"}
    # The probe that went well was one of the twenty: nobody called twice after that.
    assert len(server.calls) <= half_open() - 1 + len(jobs)


def test_t21_the_calls_of_one_probe_job_are_one_probe(client: Client, proxy: FaultProxy, server: LineServer) -> None:
    """A job that calls five times at once would be five probes."""
    proxy.mode = REFUSE
    put(client, "line.call", 10)
    await_state(client, "open", "half_open")
    jobs = put(client, "line.slow", 5)
    client.request_sync(OpenBreaker("line", "test", "hold it"))
    wait_until(lambda: breaker(client).parked == 15, 20, "all to be parked")
    server.calls.clear()
    server.most_at_once = 0
    server.answering.clear()
    proxy.mode = PASS
    client.request_sync(OpenBreaker("line", "test", "let it be tried", 50))
    wait_until(lambda: len(server.calls) >= 1, 20, "the probe")
    await_state(client, "open")
    assert server.most_at_once == 1
    server.answering.set()
    assert ends(client, jobs) == {"completed"}


def test_a_breaker_opened_by_hand_outlasts_a_kill_and_says_why(daemon: Daemon, client: Client) -> None:
    """A service that an administrator has taken out would be called again after a crash."""
    client.request_sync(OpenBreaker("line", "ada", "maintenance until noon"))
    job = put(client, "line.call", 1)[0]
    wait_until(lambda: breaker(client).parked == 1, 20, "the job to be parked")
    daemon.kill()
    wait_until(lambda: not daemon.processes(), 20, "its workers to end")
    daemon.start()
    with daemon.client() as again:
        info = breaker(again, 5)
        assert (info.state, info.reason, info.changed_by) == ("open", "maintenance until noon", "ada")
        told = again.request_sync(Explain(job))
        assert (told.because, told.name) == ("breaker", "line")
        assert "line" in told.text
        again.request_sync(CloseBreaker("line", "ada", "done"))
        assert ends(again, [job]) == {"completed"}


def test_a_fallback_is_given_while_the_breaker_is_open(client: Client) -> None:
    """A page that could live with yesterday's figure would fail, or wait, instead."""
    client.request_sync(OpenBreaker("line", "test"))
    end = client.wait_sync(put(client, "line.fallback", 1), 20)[0]
    assert (end.state, end.result) == ("completed", '"nobody answers"')


def test_a_breaker_closes_again_though_nobody_waits_for_it(client: Client, proxy: FaultProxy) -> None:
    """Where all callers have a fallback no job is parked, so none could be the probe: they would fall back for ever."""
    proxy.mode = REFUSE
    wait_until(lambda: put(client, "line.fallback", 50) and breaker(client).state == "half_open", 20, "half open")
    assert breaker(client).parked == 0
    proxy.mode = PASS

    def answered() -> bool:
        return client.wait_sync(put(client, "line.fallback", 1), 20)[0].result == '"0"'

    wait_until(answered, 20, "a call to be made again")
    assert await_state(client, "closed").reason.startswith("the probe")


@pytest.mark.limit(150)
@pytest.mark.parametrize("total", [25_000, pytest.param(100_000, marks=pytest.mark.outages_long)])
def test_t24_many_thousand_parked_jobs_are_released_with_a_ramp(daemon: Daemon, client: Client, total: int) -> None:
    """Whoever has just come back would be flooded with all that has waited; or some of it would stay parked."""
    client.request_sync(OpenBreaker("line", "test"))
    chunk = 5_000
    first = last = 0
    for _ in range(total // chunk):
        ids = put(client, "line.idle", chunk)
        first, last = first or ids[0], ids[-1]
    wait_until(lambda: breaker(client).parked == total, 60, "all to be parked")
    client.request_sync(CloseBreaker("line", "test"))
    rates: list[float] = []

    def drained() -> bool:
        info = breaker(client)
        if info.ramp and (not rates or rates[-1] != info.ramp):
            rates.append(info.ramp)
        return info.parked == 0

    wait_until(drained, 60, "the backlog to be released")
    assert rates[0] == 1000
    assert rates == sorted(rates)
    assert len(rates) >= 5
    span = "id BETWEEN ? AND ? AND kind = 'line.idle'"
    done = f"SELECT count(*), max(attempt) FROM jobs WHERE state = 'completed' AND {span}"
    wait_until(lambda: query(daemon.folder, done, first, last)[0][0] == total, 30, "all to be completed")
    assert query(daemon.folder, done, first, last)[0][1] == 1
