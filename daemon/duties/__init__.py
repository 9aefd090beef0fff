"""The daemon's maintenance duties, one a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.daemon.duties.checkpoint import Checkpoint
from perdure.daemon.duties.fullness import Fullness
from perdure.daemon.duties.limits import HardLimits
from perdure.daemon.duties.lookout import Lookout
from perdure.daemon.duties.orphans import Orphans
from perdure.daemon.duties.prune import Prune
from perdure.daemon.duties.stuck import Stuck
from perdure.daemon.duties.sweep import Sweep
from perdure.daemon.duties.tell import Tell
from perdure.daemon.duties.watchdog import Watchdog

if TYPE_CHECKING:
    from perdure.daemon.housekeeping import Duty
    from perdure.daemon.supervisor import Supervisor


def all_duties(supervisor: Supervisor) -> list[Duty]:
    """Every duty, with its settings."""
    settings = supervisor.settings
    duties: list[Duty] = [
        HardLimits(),
        Stuck(settings.workers.stuck_after_ms * 1_000_000),
        Prune(settings.store.retention_age_ms, settings.store.retention_count),
        Checkpoint(settings.store.checkpoint_interval_ms / 1000),
        Lookout(),
        Orphans(),
        Sweep(),
        Tell(),
    ]
    if supervisor.throttle is not None:
        duties.append(Fullness(supervisor.throttle))
    if supervisor.notifier.watchdog_interval_seconds is not None:
        duties.append(Watchdog(supervisor.notifier.watchdog_interval_seconds))
    return duties
