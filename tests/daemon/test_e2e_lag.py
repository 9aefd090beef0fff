"""A handler that blocks its worker's loop is named, in a real daemon; and nothing is said of one that is quiet."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest

from perdure.client import Client
from tests.daemon import e2e_handlers
from tests.daemon.e2e import await_rest, end_of, running, workers_of
from tests.support.daemon import Daemon
from tests.support.wait import wait_until


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon in which nothing goes on."""
    with running(tmp_path_factory.mktemp("lag")) as one:
        await_rest(one)
        yield one


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    """A client of it."""
    with daemon.client() as one:
        yield one


def line_of(function: object, text: str) -> int:
    """The number of the line in a function that holds `text`."""
    lines, first = inspect.getsourcelines(inspect.unwrap(function))  # type: ignore[arg-type]
    return first + next(number for number, line in enumerate(lines) if text in line)


def test_nothing_is_said_of_loops_that_turn(daemon: Daemon, client: Client) -> None:
    """Warnings that come without a cause are not read when there is one."""
    ids = [client.enqueue_sync(kind).id for kind in ("noop", "anoop") * 5]
    ids += [client.enqueue_sync(kind, {"seconds": 0.2}).id for kind in ("nap", "awork")]
    for job_id in ids:
        end_of(client, job_id)
    assert daemon.events("loop.blocked") == []


def test_a_handler_that_blocks_the_loop_is_named_with_its_line(daemon: Daemon, client: Client) -> None:
    """Whose jobs are slow would have to be found by trial: each worker has many handlers, and blames none."""
    job = client.enqueue_sync("block_loop", {"seconds": 0.1})
    end_of(client, job.id)
    (found,) = wait_until(lambda: daemon.events("loop.blocked"), 10, "the warning")
    line = line_of(e2e_handlers.block_loop, "time.sleep")
    assert found["level"] == "warning"
    assert found["task"] == f"job {job.id} block_loop attempt 1"
    assert found["stack"].startswith(f"{e2e_handlers.__file__}:{line} in block_loop < ")
    assert 80 <= found["lag_ms"] < 1000
    assert found["worker"] in {worker.id for worker in workers_of(daemon)}


def test_the_figures_of_a_worker_that_was_blocked_are_shown(daemon: Daemon, client: Client) -> None:
    """`status` and `doctor` are where one looks first."""
    end_of(client, client.enqueue_sync("block_loop", {"seconds": 0.15}).id)

    def worst() -> float:
        return max(worker.loop_lag_ms_max for worker in workers_of(daemon))

    wait_until(lambda: worst() >= 130, 10, "the figures to reach the supervisor")
    assert any(16 < worker.loop_lag_ms_p999 <= worker.loop_lag_ms_max for worker in workers_of(daemon))
    assert "ms at most" in daemon.command("status").stdout
    loops = next(line for line in daemon.command("doctor", "--json").stdout.splitlines() if '"loops"' in line)
    assert '"warn"' in loops
    assert "loop.blocked" in loops
