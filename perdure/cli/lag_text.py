"""What `perdure status` and `perdure doctor` say of loops that kept others waiting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from perdure.wire.control import Status

#: A lag that nobody would notice is not worth a line, milliseconds.
WORTH_MS: Final = 16.0


def lagging(status: Status) -> str | None:
    """Which loops stood still for longer than that in the last minute, and how long; None: all turned well."""
    loops = [("the daemon's own loop", status.loop_lag_ms_max, status.loop_lag_ms_p999)]
    loops += [(f"worker {one.id}", one.loop_lag_ms_max, one.loop_lag_ms_p999) for one in status.workers]
    found = [
        f"{name} {longest:,.0f} ms at most (99.9% under {p999:,.0f} ms)"
        for name, longest, p999 in loops
        if longest > WORTH_MS
    ]
    return f"{', '.join(found)} in the last minute" if found else None
