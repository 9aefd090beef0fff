"""Answers the requests of clients: the same code for the control socket and for a command alone on the file."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from perdure.clock import Clock
from perdure.config.settings import Settings
from perdure.daemon.enqueuing import Enqueuing
from perdure.daemon.explain import MOST_AHEAD, Facts, explain_dead, explain_job
from perdure.daemon.files import FileIntake, brings_files
from perdure.daemon.joblog import read_piece
from perdure.daemon.manual import check_by_hand
from perdure.daemon.pressure import show_limits
from perdure.daemon.results import blob_of, result_of
from perdure.daemon.spool import Spool
from perdure.errors import InvalidOption, NotFound, WrongState
from perdure.store.contract import Store
from perdure.store.intake import check_queue_name
from perdure.store.models import NewBatch
from perdure.store.states import AVAILABLE, COMPLETED, FINAL
from perdure.wire import control
from perdure.wire.data import (
    BreakerInfo,
    DeadFilter,
    Enqueued,
    Explanation,
    JobFilter,
    JobView,
    KindSpec,
    Verdict,
)
from perdure.wire.envelope import WithDescriptors
from perdure.wire.faults import to_data
from perdure.wire.peer import Peer

#: Requests that change the store and then tell the engine.
CHANGES = frozenset(
    {
        control.CancelJobs,
        control.RetryJobs,
        control.ReplayDead,
        control.DiscardDead,
        control.PauseQueue,
        control.ResumeQueue,
        control.OpenBreaker,
        control.CloseBreaker,
    }
)
#: A job that is on its way between worker and store is looked for again.
CANCEL_TRIES = 5


class Clients(Protocol):
    """Those who ask over the control socket: what there is of them besides their requests (wire.server.Server)."""

    def send(self, peer: Peer, message: object) -> bool:
        """Tell one of them something; False: it is gone."""
        ...

    def take_fds(self, peer: Peer) -> list[int]:
        """The descriptors that came with its request, now the caller's; only before the verb first waits."""
        ...


class Engine(Protocol):
    """What differs between a running daemon and a command that works on the file."""

    def place(self, batch: NewBatch, patience_ms: int | None) -> Awaitable[list[Enqueued]]:
        """Commit a batch of new jobs; done when they are on disk. Raises QueueFull, after `patience_ms` where a full
        queue lets producers wait (None: as configured); cancel it to wait no more."""
        ...

    async def placed(self) -> None:
        """Return when the new jobs of all batches so far are on disk, or refused, but for those that wait for room."""
        ...

    def queues_filled(self, names: Iterable[str]) -> None:
        """These queues got available jobs."""
        ...

    def queue_paused(self, name: str, paused: bool) -> None:
        """A queue was paused or resumed."""
        ...

    def jobs_ended(self, ids: Iterable[int]) -> None:
        """These jobs were cancelled, without a turn."""
        ...

    def jobs_revived(self, ids: Iterable[int]) -> None:
        """These jobs are available again, by request."""
        ...

    def follow(self, request: control.Subscribe, peer: Peer | None) -> Awaitable[control.Subscribed]:
        """Tell a client of jobs from now on. Raises NotFound, InvalidOption."""
        ...

    def unfollow(self, subscription: int, peer: Peer | None) -> None:
        """Tell it no more. One that has ended is no mistake."""
        ...

    async def cancel_claimed(self, ids: Collection[int], who: str) -> Mapping[int, Verdict]:
        """Cancel claimed jobs, and tell those that run to end: what became of each, when that is decided."""
        ...

    async def in_transit(self, ids: Collection[int]) -> Collection[int]:
        """Those of `ids` that may have been on their way between worker and store; returns once they have arrived."""
        ...

    async def wait(self, ids: Sequence[int]) -> None:
        """Return when each of these is completed, cancelled or dead."""
        ...

    async def attach(self, job_id: int) -> WithDescriptors:
        """The client's end of a job's port, when there is one. Raises WrongState."""
        ...

    async def breakers(self, events: int) -> list[BreakerInfo]:
        """Every breaker, by name, each with its last `events` changes."""
        ...

    async def open_breaker(self, name: str, who: str, reason: str, for_ms: int | None) -> None:
        """Open a breaker that the configuration knows; done when it is on disk. `for_ms` None: until it is closed."""
        ...

    async def close_breaker(self, name: str, who: str, reason: str) -> None:
        """Close a breaker that the configuration knows; done when it is on disk."""
        ...

    async def facts(self, job: JobView) -> Facts:
        """What there is to know about a job besides its row."""
        ...

    async def status(self) -> control.Status:
        """The state of the daemon."""
        ...

    async def reload(self) -> list[KindSpec]:
        """Load the handlers anew."""
        ...


class Service:
    """One verb a request. Errors are perdure.errors; they cross the socket as data."""

    def __init__(self, store: Store, settings: Settings, clock: Clock, engine: Engine) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._engine = engine
        self._enqueuing = Enqueuing(settings, clock, engine)
        self.spool = Spool(settings.paths.spool_dir, settings.limits.blob_bytes)
        self._files = FileIntake(self.spool, self._enqueuing.enqueue, self._enqueuing.check, self._left_files)
        #: Set while the control socket is open.
        self.clients: Clients | None = None
        self._changes: set[asyncio.Future[Any]] = set()
        self._verbs: dict[type, Callable[[Any], Awaitable[Any]]] = {
            control.EnqueueAlike: self._enqueuing.enqueue_alike,
            control.GetJob: self._get,
            control.ListJobs: self._list,
            control.WaitJobs: self._wait,
            control.CancelJobs: self._cancel,
            control.RetryJobs: self._retry,
            control.ReadLog: self._read_log,
            control.AttachPort: self._attach,
            control.GetResult: lambda request: result_of(self._store, self.spool, request.id),
            control.ListDead: self._list_dead,
            control.GetDead: self._get_dead,
            control.ReplayDead: self._replay,
            control.DiscardDead: self._discard,
            control.ListQueues: self._queues,
            control.PauseQueue: self._pause,
            control.ResumeQueue: self._resume,
            control.ListKinds: self._kinds,
            control.ListBreakers: self._breakers,
            control.OpenBreaker: self._open_breaker,
            control.CloseBreaker: self._close_breaker,
            control.Explain: self._explain,
            control.GetStatus: lambda _: self._engine.status(),
            control.Reload: lambda _: self._engine.reload(),
            control.Ping: _pong,
        }
        #: Verbs that need to know who asks; None is a command that works on the file.
        self._personal_verbs: dict[type, Callable[[Any, Peer | None], Awaitable[Any]]] = {
            control.Subscribe: self._engine.follow,
            control.Unsubscribe: self._unsubscribe,
        }

    def kinds_loaded(self, kinds: Sequence[KindSpec]) -> None:
        """Check arguments against these from now on."""
        self._enqueuing.kinds_loaded(kinds)

    def handle(self, request: Any, peer: Peer | None = None) -> Awaitable[Any]:
        """The answer to a request of `peer`, to be awaited. Raises InvalidOption."""
        if type(request) is control.Enqueue:
            return self._enqueue_from(request, peer)  # most requests are this one
        ids = getattr(request, "ids", ())
        if len(ids) > self._settings.limits.batch:
            raise InvalidOption(
                f"{len(ids)} ids in one request; the most is {self._settings.limits.batch} (limits.batch)"
            )
        verb = self._verbs.get(type(request))
        answer = verb(request) if verb is not None else self._personal_verbs[type(request)](request, peer)
        if type(request) not in CHANGES:
            return answer
        # A client that goes away must not come between the change on disk and what the engine is told of it.
        change = asyncio.ensure_future(answer)
        self._changes.add(change)
        change.add_done_callback(self._changed)
        return asyncio.shield(change)

    def _changed(self, change: asyncio.Future[Any]) -> None:
        self._changes.discard(change)
        if not change.cancelled():
            change.exception()  # the client that asked has it, or is gone

    def _enqueue_from(self, request: control.Enqueue, peer: Peer | None) -> Awaitable[list[Enqueued]]:
        if not brings_files(request.jobs):
            return self._enqueuing.enqueue(request)
        fds = [] if peer is None or self.clients is None else self.clients.take_fds(peer)
        return self._files.take(request, fds)

    async def _left_files(self, names: Collection[str]) -> list[str]:
        """Those of these files that nobody needs, once all new jobs are in the queue or refused."""
        await self._engine.placed()
        return await self._store.unneeded_files(names)

    async def _get(self, request: control.GetJob) -> Any:
        return await self._store.get(request.id)

    async def _list(self, request: control.ListJobs) -> Any:
        which: JobFilter = request.filter
        which.limit = max(1, min(which.limit, self._settings.limits.list))
        return await self._store.list(which)

    async def _wait(self, request: control.WaitJobs) -> list[control.JobEnd]:
        ends = []
        for job_id in request.ids:
            await self._engine.wait([job_id])
            ends.append(await self._end(job_id))
        return ends

    async def _end(self, job_id: int) -> control.JobEnd:
        job = await self._store.get(job_id)
        if job is not None:
            return control.JobEnd(job_id, job.state, job.result, blob=blob_of(job.result_blob))
        letter = await self._store.get_dead(job_id)
        if letter is None:
            raise _no_job(job_id)
        return control.JobEnd(job_id, "dead", None, last_error(letter.errors))

    async def _cancel(self, request: control.CancelJobs) -> list[Verdict]:
        verdicts: dict[int, Verdict] = {}
        left: Collection[int] = request.ids
        for _ in range(CANCEL_TRIES):
            decided = await self._engine.cancel_claimed(left, request.who)
            verdicts |= decided
            rest = [job_id for job_id in left if job_id not in decided]
            found = await self._store.cancel(rest, self._clock.now_ms())
            verdicts |= {verdict.id: verdict for verdict in found}
            self._engine.jobs_ended(verdict.id for verdict in found if verdict.error is None)
            left = await self._engine.in_transit([verdict.id for verdict in found if verdict.error is not None])
            if not left:
                break
        return [verdicts[job_id] for job_id in request.ids]

    async def _retry(self, request: control.RetryJobs) -> list[Verdict]:
        results = await self._store.result_files(request.ids)
        verdicts, filled = await self._store.retry(request.ids, self._clock.now_ms())
        self._engine.jobs_revived(verdict.id for verdict in verdicts if verdict.error is None)
        self._engine.queues_filled(filled)
        await self.spool.remove(await self._store.unneeded_files(results))
        return verdicts

    async def _read_log(self, request: control.ReadLog) -> control.LogPiece:
        job = await self._store.get(request.id)
        if job is None and await self._store.get_dead(request.id) is None:
            raise _no_job(request.id)
        finished = job is None or job.state in FINAL
        return await asyncio.to_thread(read_piece, self._settings.paths.logs_dir, request, finished)

    async def _attach(self, request: control.AttachPort) -> WithDescriptors:
        job = await self._store.get(request.id)
        if job is None and await self._store.get_dead(request.id) is None:
            raise _no_job(request.id)
        state = "dead" if job is None else job.state
        if job is None or job.state in FINAL:
            raise WrongState(f"job {request.id} is {state}: only one that runs has a port")
        return await self._engine.attach(request.id)

    async def _list_dead(self, request: control.ListDead) -> Any:
        which: DeadFilter = request.filter
        which.limit = max(1, min(which.limit, self._settings.limits.list))
        return await self._store.list_dead(which)

    async def _get_dead(self, request: control.GetDead) -> Any:
        return await self._store.get_dead(request.id)

    async def _replay(self, request: control.ReplayDead) -> list[Verdict]:
        if request.set_args is not None:
            self._enqueuing.intake.check_object(request.set_args)
        refused = await self._unfit(request) if request.set_args is not None else {}
        ids = [job_id for job_id in request.ids if job_id not in refused]
        verdicts, filled = await self._store.replay(ids, request.set_args, request.who, self._clock.now_ms())
        self._engine.jobs_revived(verdict.id for verdict in verdicts if verdict.error is None)
        self._engine.queues_filled(filled)
        by_id = {verdict.id: verdict for verdict in verdicts} | refused
        return [by_id[job_id] for job_id in request.ids]

    async def _unfit(self, request: control.ReplayDead) -> dict[int, Verdict]:
        """Letters whose edited arguments would not fit their handler."""
        refused = {}
        for job_id in request.ids:
            letter = await self._store.get_dead(job_id)
            if letter is not None:
                try:
                    self._enqueuing.intake.check_edit(letter.kind, letter.last_args, request.set_args or "{}")
                except Exception as error:
                    refused[job_id] = Verdict(job_id, to_data(error, with_traceback=False))
        return refused

    async def _discard(self, request: control.DiscardDead) -> list[Verdict]:
        return await self._store.discard(request.ids, request.who, self._clock.now_ms())

    async def _queues(self, request: control.ListQueues) -> Any:
        views, limits = await self._store.queues(), self._settings.queue_limits()
        if not limits.any:
            return views
        by_age = {view.name: 0 for view in views if (found := limits.of(view.name)) and found.max_age_ms}
        oldest = await self._store.depths(by_age) if by_age else {}
        return show_limits(views, limits, oldest, self._clock.now_ms())

    async def _pause(self, request: control.PauseQueue) -> None:
        check_queue_name(request.queue)
        await self._store.pause(request.queue, request.who or "someone", self._clock.now_ms())
        self._engine.queue_paused(request.queue, True)

    async def _resume(self, request: control.ResumeQueue) -> None:
        check_queue_name(request.queue)
        await self._store.resume(request.queue)
        self._engine.queue_paused(request.queue, False)

    async def _breakers(self, request: control.ListBreakers) -> list[BreakerInfo]:
        return await self._engine.breakers(max(0, min(request.events, self._settings.limits.list)))

    async def _open_breaker(self, request: control.OpenBreaker) -> None:
        check_by_hand(request, self._settings.dependencies().policies)
        who, reason = request.who or "someone", request.reason or "opened by hand"
        await self._engine.open_breaker(request.name, who, reason, request.for_ms)

    async def _close_breaker(self, request: control.CloseBreaker) -> None:
        check_by_hand(request, self._settings.dependencies().policies)
        who, reason = request.who or "someone", request.reason or "closed by hand"
        await self._engine.close_breaker(request.name, who, reason)

    async def _explain(self, request: control.Explain) -> Explanation:
        job = await self._store.get(request.id)
        if job is None:
            letter = await self._store.get_dead(request.id)
            if letter is None:
                raise _no_job(request.id)
            return explain_dead(letter, self._clock.now_ms())
        ahead = await self._store.ahead(job.id, MOST_AHEAD) if job.state == AVAILABLE else 0
        paused = job.queue in await self._store.paused_queues()
        facts = await self._engine.facts(job)
        return explain_job(job, facts, ahead=ahead, paused=paused, now=self._clock.now_ms())

    async def _unsubscribe(self, request: control.Unsubscribe, peer: Peer | None) -> None:
        self._engine.unfollow(request.subscription, peer)

    async def _kinds(self, request: control.ListKinds) -> list[KindSpec]:
        return await self._store.kinds()


def _pong(_request: control.Ping) -> asyncio.Future[None]:
    """At once, and without a task: it is what a round trip is measured with."""
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    answer.set_result(None)
    return answer


def _no_job(job_id: int) -> NotFound:
    return NotFound(f"no job {job_id}; it never was, or it finished and was pruned. `perdure jobs` lists what there is")


def last_error(errors_json: str | None) -> str | None:
    """`Type: message` of the last attempt that went wrong."""
    errors = msgspec.json.decode(errors_json) if errors_json else []
    if not errors:
        return None
    message = errors[-1].get("message")
    return f"{errors[-1].get('type')}: {message}" if message else str(errors[-1].get("type"))


def completed_well(end: control.JobEnd) -> bool:
    """Whether a job that was waited for did what it should."""
    return end.state == COMPLETED
