"""How a loop that stood still is told in the daemon's log."""

from __future__ import annotations

from perdure.log import get_logger
from perdure.wire.work import LoopBlocked

log = get_logger()


def log_blocked(blocked: LoopBlocked, **whose: object) -> bool:
    """One line; `whose` names the worker, none is the supervisor's own loop. True: it was told."""
    fields: dict[str, object] = {
        **whose,
        "lag_ms": blocked.lag_ms,
        "task": blocked.task or "none",
        "stack": blocked.stack,
    }
    if blocked.still:
        fields["still"] = True
    if blocked.left_out:
        fields["left_out"] = blocked.left_out
    log.warning("loop.blocked", **fields)
    return True
