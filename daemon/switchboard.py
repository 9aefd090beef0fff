"""Brings clients and the ports of jobs together: it holds one end of a line until a client takes it, and no byte of
what is said there ever comes this way.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple

from perdure.errors import WrongState
from perdure.wire.control import PortView
from perdure.wire.envelope import WithDescriptors
from perdure.wire.work import PortTaken

if TYPE_CHECKING:
    from perdure.daemon.worker_link import WorkerLink


class _Offer(NamedTuple):
    """A client's end of a line, and the worker that has the job's end."""

    fd: int
    link: WorkerLink


class Switchboard:
    """At most one offer a job. A line that nobody has taken yet is silent until its job hangs up."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._offers: dict[int, _Offer] = {}
        #: Those who ask for a port that is not there yet, by job.
        self._waiting: dict[int, set[asyncio.Future[None]]] = {}
        #: Jobs whose port has gone to a client, with their workers.
        self._taken: dict[int, WorkerLink] = {}

    @property
    def offers(self) -> int:
        """How many ports wait for a client."""
        return len(self._offers)

    def offered(self, job_id: int, link: WorkerLink) -> None:
        """A job waits for a client; the descriptor came with the message that is being handled."""
        fds = link.take_fds()
        if not fds:
            return
        self._drop(job_id)
        self._forget_ended()
        self._taken.pop(job_id, None)
        self._offers[job_id] = _Offer(fds[0], link)
        # Nothing is said before a client is there, so what can be read is the end.
        self._loop.add_reader(fds[0], self._drop, job_id)
        for future in self._waiting.get(job_id, ()):
            if not future.done():
                future.set_result(None)

    async def attach(self, job_id: int, until_ended: Coroutine[Any, Any, None]) -> WithDescriptors:
        """The client's end of the job's port, once there is one. Raises WrongState: another client has it, or the job
        has ended, which is when `until_ended` returns."""
        ended = self._loop.create_task(until_ended)
        try:
            while (offer := self._take(job_id)) is None:
                if self._has_client(job_id):
                    raise WrongState(f"another client is at the port of job {job_id}; it takes one at a time")
                await self._offer_or_end(job_id, ended)
        finally:
            ended.cancel()
        return offer

    def close(self) -> None:
        """Nobody will come any more."""
        for job_id in list(self._offers):
            self._drop(job_id)

    def _take(self, job_id: int) -> WithDescriptors | None:
        offer = self._offers.pop(job_id, None)
        if offer is None:
            return None
        self._loop.remove_reader(offer.fd)
        self._taken[job_id] = offer.link
        offer.link.send(PortTaken(job_id))
        return WithDescriptors(PortView(job_id), [offer.fd])

    async def _offer_or_end(self, job_id: int, ended: asyncio.Task[None]) -> None:
        future: asyncio.Future[None] = self._loop.create_future()
        waiting = self._waiting.setdefault(job_id, set())
        waiting.add(future)
        try:
            await asyncio.wait({future, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.discard(future)
            if not waiting:
                self._waiting.pop(job_id, None)
        if ended.done() and not future.done():
            ended.result()
            raise WrongState(f"job {job_id} has ended without offering a port; see `perdure show {job_id}`")

    def _has_client(self, job_id: int) -> bool:
        link = self._taken.get(job_id)
        return link is not None and _executes(link, job_id)

    def _forget_ended(self) -> None:
        for job_id in [job_id for job_id, link in self._taken.items() if not _executes(link, job_id)]:
            del self._taken[job_id]

    def _drop(self, job_id: int) -> None:
        """The job has hung up, or waits anew."""
        offer = self._offers.pop(job_id, None)
        if offer is not None:
            self._loop.remove_reader(offer.fd)
            os.close(offer.fd)


def _executes(link: WorkerLink, job_id: int) -> bool:
    """Whether the worker lives and is at the job."""
    return not link.ended.is_set() and any(slot.job_id == job_id for slot in link.page.executing())
