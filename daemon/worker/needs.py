"""Before a job begins: do the breakers of what it needs let it run?

The supervisor parks such jobs before it sends them, but a breaker may open while one is on its way or in line here.
"""

from __future__ import annotations

from perdure.daemon.worker.failure import failure
from perdure.daemon.worker.handlers import Handler
from perdure.daemon.worker.lane import Bench
from perdure.errors import BreakerOpen
from perdure.wire.work import Failed, JobRow


def refusal(bench: Bench, handler: Handler, row: JobRow) -> Failed | None:
    """The outcome of a job that must not begin now; None: it may. Either lane's thread."""
    for name in handler.needs:
        breaker = bench.view.state(name)
        if breaker.state == "closed" or (breaker.state == "half_open" and breaker.probe_job == row.id):
            continue
        left = max(0.0, (breaker.until_ns - bench.clock.monotonic_ns()) / 1e9) if breaker.until_ns else None
        return failure(row.id, BreakerOpen(name=name, seconds_left=left))
    return None
