"""Direct lines between jobs and clients."""

from __future__ import annotations

from perdure.adapters.port import Port


class Ports:
    """The ports of this worker's jobs."""

    async def open(self, job_id: int, timeout: float | None) -> Port:
        """See Context.port."""
        raise NotImplementedError
