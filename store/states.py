"""The life of a job: every state and every allowed transition, in one place.

Drawn in docs/states.md and enforced by the CHECK constraints of migrations/. A dead job is no state of this table: its
row moves to `dead_letters`.
"""

from __future__ import annotations

from typing import Final, Literal

State = Literal["scheduled", "available", "running", "retryable", "parked", "completed", "cancelled"]

#: Waits for its `scheduled_at`.
SCHEDULED: Final = "scheduled"
#: Ready to be claimed, by priority and then in the order of arrival.
AVAILABLE: Final = "available"
#: Claimed under a lease; executing or about to.
RUNNING: Final = "running"
#: Failed or was interrupted, and waits for its next attempt at `scheduled_at`.
RETRYABLE: Final = "retryable"
#: Waits for something outside itself, named by `park_reason`; costs no attempt and no slot.
PARKED: Final = "parked"
#: Done. Kept for the retention time.
COMPLETED: Final = "completed"
#: Taken back before it finished. Kept for the retention time.
CANCELLED: Final = "cancelled"

STATES: Final[tuple[State, ...]] = (SCHEDULED, AVAILABLE, RUNNING, RETRYABLE, PARKED, COMPLETED, CANCELLED)
FINAL: Final[frozenset[State]] = frozenset({COMPLETED, CANCELLED})

#: verb -> (from, to). DEAD stands for the dead-letter table.
DEAD: Final = "dead"
TRANSITIONS: Final[dict[str, tuple[frozenset[str], str]]] = {
    "promote": (frozenset({SCHEDULED, RETRYABLE}), AVAILABLE),
    "claim": (frozenset({AVAILABLE}), RUNNING),
    "complete": (frozenset({RUNNING}), COMPLETED),
    "retry_later": (frozenset({RUNNING}), RETRYABLE),
    "postpone": (frozenset({RUNNING}), RETRYABLE),
    "interrupt": (frozenset({RUNNING}), AVAILABLE),
    "release": (frozenset({RUNNING}), AVAILABLE),
    "park": (frozenset({RUNNING}), PARKED),
    "unpark": (frozenset({PARKED}), AVAILABLE),
    "bury": (frozenset({RUNNING}), DEAD),
    "shed": (frozenset({AVAILABLE}), DEAD),
    "cancel": (frozenset({SCHEDULED, AVAILABLE, RETRYABLE, PARKED, RUNNING}), CANCELLED),
    "stop": (frozenset({RUNNING}), CANCELLED),
    "retry_now": (frozenset({SCHEDULED, RETRYABLE, COMPLETED, CANCELLED}), AVAILABLE),
    "replay": (frozenset({DEAD}), AVAILABLE),
}
