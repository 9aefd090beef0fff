"""Jobs on their last life run alone: beside others they could take these along, or be blamed for them.

Pure, a part of the dispatch core.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from perdure.daemon.actions import Action, ForkIsolated, Send
from perdure.daemon.ledger import Held
from perdure.daemon.worker_state import WorkerState

#: Most jobs on their last life that wait here for the worker that runs them alone; more are parked meanwhile.
SUSPECTS = 16
SUSPECT_REASON = "alone:last life"
#: Looks that find nothing, after which none is parked: the first may come before a parking is on disk.
LOOKS = 2


class Isolation:
    """The suspects, and the worker that runs them one after the other; it is there only as long as there are any."""

    def __init__(self) -> None:
        self.suspects: deque[Held] = deque()
        #: So often is still to be looked whether suspects are parked for want of room (see SUSPECTS).
        self.looks = LOOKS
        self._asked = False

    def take(self, held: Held) -> bool:
        """Put a suspect in line. False: there is no room, it must be parked."""
        if len(self.suspects) >= SUSPECTS:
            self.looks = LOOKS
            return False
        self.suspects.append(held)
        return True

    def worker_missing(self) -> None:
        """The worker could not be forked, or has ended: ask again if it is still needed."""
        self._asked = False

    def next_action(self, workers: Collection[WorkerState], stopping: bool) -> Action | None:
        """What brings the first suspect on, if anything does now."""
        isolated = next((state for state in workers if state.isolated and not state.draining), None)
        if isolated is None:
            if self._asked or stopping:
                return None
            self._asked = True
            return ForkIsolated()
        if not isolated.ready or isolated.held:
            return None
        held = self.suspects.popleft()
        load = isolated.lanes[held.lane]
        load.count, load.backlog_ns = 1, held.estimate_ns
        isolated.held[held.job.id] = held
        return Send(isolated.id, [held.job])


def is_suspect(held: Held) -> bool:
    """Whether one more death of its worker would be the job's last."""
    return 0 < held.job.interruptions == held.job.max_interruptions - 1
