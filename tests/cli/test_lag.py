"""What is said of loops that kept others waiting: which, how long, and nothing when all is well."""

from __future__ import annotations

import json

from perdure.cli.lag_text import lagging
from perdure.wire import control
from tests.cli.conftest import Cli, FakeQueue


def status(own_ms: float, worker_ms: float) -> control.Status:
    """Of a daemon whose own loop and whose worker's loop were so late."""
    worker = control.WorkerView(3, 6, "ready", loop_lag_ms_max=worker_ms, loop_lag_ms_p999=worker_ms / 2)
    return control.Status(
        "1", 5, "running", 9.0, "q", "full", {}, 0, [worker], loop_lag_ms_max=own_ms, loop_lag_ms_p999=1.0
    )


def test_loops_that_turn_are_not_worth_a_line(cli: Cli, queue: FakeQueue) -> None:
    """A line that is always there is not read when it matters; for programs the figures are always there."""
    queue.answers[control.GetStatus] = status(3.0, 15.9)
    assert "loop lag" not in cli("status").out
    found = json.loads(cli("status", "--json").out)
    assert (found["loop_lag_ms_max"], found["loop_lag_ms_p999"]) == (3.0, 1.0)
    assert found["workers"][0]["loop_lag_ms_max"] == 15.9
    queue.answers[control.GetStatus] = status(0.0, 0.0)
    assert json.loads(cli("status", "--json").out)["workers"][0]["loop_lag_ms_max"] == 0.0


def test_a_loop_that_stood_still_is_named(cli: Cli, queue: FakeQueue) -> None:
    """Which worker it was is where the search begins."""
    queue.answers[control.GetStatus] = status(3.0, 101.3)
    assert "worker 3 101 ms at most (99.9% under 51 ms) in the last minute" in cli("status").out
    both = lagging(status(20.0, 101.3))
    assert both is not None
    assert both.startswith("the daemon's own loop 20 ms at most (99.9% under 1 ms), worker 3 101 ms")
