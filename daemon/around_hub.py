"""What the hub sees of the supervisor (hub.Surroundings)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from perdure.store.models import ClaimedJob
from perdure.wire.peer import Peer

if TYPE_CHECKING:
    from perdure.daemon.ledger import Held
    from perdure.daemon.supervisor import Supervisor
    from perdure.daemon.worker_link import WorkerLink


class AroundHub:
    """Looks up in core, fleet and service what there is at the moment."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self.store = supervisor.store
        self.clock = supervisor.clock
        self.logs_dir = supervisor.settings.paths.logs_dir

    def send(self, peer: Peer, message: object) -> bool:
        """Tell a client something; one that is gone hears nothing."""
        clients = self._supervisor.service.clients
        return clients is not None and clients.send(peer, message)

    def worker(self, number: int) -> WorkerLink | None:
        """The worker of this number, if it is there."""
        return self._supervisor.fleet.links.get(number)

    def ready_workers(self) -> Iterator[WorkerLink]:
        """All that have said hello."""
        links = self._supervisor.fleet.links
        for number, state in self._supervisor.core.workers.items():
            if state.ready and number in links:
                yield links[number]

    def held(self) -> Iterable[tuple[int, Mapping[int, Held]]]:
        """What each worker holds, by id of the job."""
        return [(number, state.held) for number, state in self._supervisor.core.workers.items()]

    def claimed(self) -> Iterator[ClaimedJob]:
        """All jobs that are claimed, also those that no worker has yet."""
        core = self._supervisor.core
        for state in core.workers.values():
            yield from (held.job for held in state.held.values())
        for queue in (*core.ready.values(), core.isolation.suspects):
            yield from (held.job for held in queue)
