"""The Python client of the daemon."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias, TypeVar

from perdure import asks
from perdure.adapters.port import BlockingPort, Port
from perdure.asks import Ask, JobLike
from perdure.connections import LoopConnections, ThreadConnections
from perdure.errors import PerdureError
from perdure.options import Patience, path_text, seconds
from perdure.payload import Source, prepare, prepare_beside, result_file, result_value, result_value_beside
from perdure.wire import control
from perdure.wire.data import DeadFilter, DeadView, Enqueued, JobFilter, JobSpec, JobView, KindSpec, QueueView, Verdict
from perdure.wire.streams import TOPICS, Entry, Skipped, Topic

T = TypeVar("T")

#: One id or several.
Ids: TypeAlias = int | Iterable[int]

#: One name or several.
Names: TypeAlias = str | Iterable[str]

#: Jobs in one request, unless the configuration says otherwise: the default of limits.batch.
BATCH_JOBS: Final = 10_000

# `list` is a method here, and hides the type of that name from annotations.
_List: TypeAlias = list


class Client:
    """Talks to the daemon over its control socket; connects when first used, and again when the daemon was restarted.

    The socket: `socket_path`, else $PERDURE_SOCKET, else what the configuration says (`config`: path of a perdure.toml;
    default: as the command line finds it). `timeout`: seconds for each request, None for no limit.

    Each method is there twice, `get` for coroutines and `get_sync` for all other code. One client serves any number of
    threads and event loops, also after a fork. All raise DaemonUnreachable (nobody listens), CallTimeout, Forbidden.
    """

    def __init__(
        self,
        socket_path: str | os.PathLike[str] | None = None,
        config: str | os.PathLike[str] | None = None,
        timeout: float | None = 30.0,
    ) -> None:
        self.timeout = seconds("timeout", timeout)
        self.batch_jobs = BATCH_JOBS
        #: How full the queue was after the last enqueue that was acknowledged: 0.0 (empty, or no limit) to 1.0 (full).
        #: Of several queues the fullest.
        self.pressure = 0.0
        chosen = socket_path or (None if config else os.environ.get("PERDURE_SOCKET"))
        self.socket_path = path_text("socket_path", chosen) if chosen else self._configured(config)
        self._loops = LoopConnections(self.socket_path)
        self._threads = ThreadConnections(self.socket_path)

    def __repr__(self) -> str:
        return f"<Client of {self.socket_path}>"

    # --- jobs

    async def enqueue(
        self,
        kind: str | JobSpec,
        args: Mapping[str, Any] | None = None,
        *,
        strict: bool = False,
        blob: Source | None = None,
        spool: bool = False,
        patience: Patience = None,
        **options: Any,
    ) -> Enqueued:
        """Put one job into the queue; returns when it is on disk. `options` are those of JobOptions.

        Instead of kind, arguments and options, a JobSpec may say all of that.

        `blob` is the job's payload (`ctx.blob()`): bytes, which are copied into the spool, or the path of a file, which
        must stay as it is until the job has ended. `spool=True`: that file is copied, too, and may go then.

        A full queue may shed the job (`shed` in the result), refuse it (QueueFull), or let this wait for room for as
        long as the configuration says, or for `patience` (seconds, text such as "10m", or a timedelta; 0: not at all),
        which comes on top of the client's timeout. Whoever cancels the wait has enqueued nothing.

        If the job's `unique` key is taken, the result names the job that has it and says `duplicate`; with `strict`
        that raises Duplicate. Raises NotData, InvalidArguments, InvalidOption, QueueFull. When the connection ends
        before the answer, ChannelClosed is raised and the job is never sent twice: whether it was taken is not known.
        """
        spec = asks.one_job(kind, args, options)
        with closing(prepare(blob, spool) if blob is None else await prepare_beside(blob, spool)) as file:
            file.put_into(spec)
            ask = asks.enqueue([spec], strict, file.fds, patience)
            return (await self._put(ask, file.seconds()))[0]

    def enqueue_sync(
        self,
        kind: str | JobSpec,
        args: Mapping[str, Any] | None = None,
        *,
        strict: bool = False,
        blob: Source | None = None,
        spool: bool = False,
        patience: Patience = None,
        **options: Any,
    ) -> Enqueued:
        """`enqueue` for code without an event loop."""
        spec = asks.one_job(kind, args, options)
        with closing(prepare(blob, spool)) as file:
            file.put_into(spec)
            ask = asks.enqueue([spec], strict, file.fds, patience)
            return self._put_sync(ask, file.seconds())[0]

    async def enqueue_many(
        self, jobs: Iterable[JobLike], *, strict: bool = False, patience: Patience = None
    ) -> _List[Enqueued]:
        """Put several jobs into the queue: all or none of them, up to the daemon's limits.batch (10,000).

        More are sent in several requests, each of them all or none, and each with its own `patience` where the queue is
        full; the error of a later one says how many jobs the earlier ones have put in.
        """
        done: list[Enqueued] = []
        for chunk in self._chunks(jobs):
            try:
                done += await self._put(asks.enqueue(chunk, strict, patience=patience))
            except PerdureError as error:
                if not done:
                    raise
                raise _after(len(done), error) from error
        return done

    def enqueue_many_sync(
        self, jobs: Iterable[JobLike], *, strict: bool = False, patience: Patience = None
    ) -> _List[Enqueued]:
        """`enqueue_many` for code without an event loop."""
        done: list[Enqueued] = []
        for chunk in self._chunks(jobs):
            try:
                done += self._put_sync(asks.enqueue(chunk, strict, patience=patience))
            except PerdureError as error:
                if not done:
                    raise
                raise _after(len(done), error) from error
        return done

    async def get(self, job_id: int) -> JobView | None:
        """One job; None if there is none, or it is dead (`dead_get`) or pruned."""
        return await self._ask(asks.get(job_id))

    def get_sync(self, job_id: int) -> JobView | None:
        """`get` for code without an event loop."""
        return self._ask_sync(asks.get(job_id))

    async def list(self, which: JobFilter | None = None) -> _List[JobView]:
        """A page of jobs, newest first."""
        return await self._ask(asks.list_jobs(which))

    def list_sync(self, which: JobFilter | None = None) -> _List[JobView]:
        """`list` for code without an event loop."""
        return self._ask_sync(asks.list_jobs(which))

    async def wait(self, ids: Ids, timeout: float | None = None) -> _List[control.JobEnd]:
        """How these jobs ended, once all have. Raises CallTimeout after `timeout` seconds (None: no limit)."""
        return await self._loops.ask(asks.wait(ids), seconds("timeout", timeout))  # type: ignore[no-any-return]

    def wait_sync(self, ids: Ids, timeout: float | None = None) -> _List[control.JobEnd]:
        """`wait` for code without an event loop."""
        return self._threads.ask(asks.wait(ids), seconds("timeout", timeout))  # type: ignore[no-any-return]

    async def result(self, job_id: int) -> Any:
        """What a completed job has returned: data, bytes, or None. Large bytes are better read from `result_file`.

        Raises NotFound, WrongState (it has not completed).
        """
        view, fds = await self._loops.ask_with_fds(asks.result(job_id), self.timeout)
        return await result_value_beside(view, fds) if fds else result_value(view, fds)

    def result_sync(self, job_id: int) -> Any:
        """`result` for code without an event loop."""
        return result_value(*self._threads.ask_with_fds(asks.result(job_id), self.timeout))

    async def result_file(self, job_id: int) -> BinaryIO:
        """The result of a completed job as a file, open for reading: the bytes, or the JSON text of data.

        It is the file in the spool itself, and can be mapped. Raises NotFound, WrongState.
        """
        return result_file(*await self._loops.ask_with_fds(asks.result(job_id), self.timeout))

    def result_file_sync(self, job_id: int) -> BinaryIO:
        """`result_file` for code without an event loop."""
        return result_file(*self._threads.ask_with_fds(asks.result(job_id), self.timeout))

    async def attach(self, job_id: int, timeout: float | None = None) -> Port:
        """A direct line to a running job, once it has opened its port (`ctx.port()`); close it.

        Raises CallTimeout after `timeout` seconds (None: no limit), NotFound, WrongState (it has ended, or another
        client is there).
        """
        _, fds = await self._loops.ask_with_fds(asks.attach(job_id), seconds("timeout", timeout))
        return Port(socket.socket(fileno=fds[0]))

    def attach_sync(self, job_id: int, timeout: float | None = None) -> BlockingPort:
        """`attach` for code without an event loop."""
        _, fds = self._threads.ask_with_fds(asks.attach(job_id), seconds("timeout", timeout))
        return BlockingPort(socket.socket(fileno=fds[0]))

    async def cancel(self, ids: Ids) -> _List[Verdict]:
        """Take back jobs that wait, stop those that run: `workers.cancel_grace` at most, else the worker is killed.

        Verdict errors: NotFound, WrongState (it had ended, or completed all the same), CallTimeout (it has not ended).
        """
        return await self._ask(asks.cancel(ids))

    def cancel_sync(self, ids: Ids) -> _List[Verdict]:
        """`cancel` for code without an event loop."""
        return self._ask_sync(asks.cancel(ids))

    async def retry(self, ids: Ids) -> _List[Verdict]:
        """Make jobs available now: scheduled, retryable, cancelled and completed ones."""
        return await self._ask(asks.retry(ids))

    def retry_sync(self, ids: Ids) -> _List[Verdict]:
        """`retry` for code without an event loop."""
        return self._ask_sync(asks.retry(ids))

    async def log(self, job_id: int, offset: int = 0) -> control.LogPiece:
        """A piece of a job's output, from `offset`: bytes of all that it ever wrote, also of what was rotated away."""
        return await self._ask(asks.read_log(job_id, offset))

    def log_sync(self, job_id: int, offset: int = 0) -> control.LogPiece:
        """`log` for code without an event loop."""
        return self._ask_sync(asks.read_log(job_id, offset))

    # --- following

    def follow(
        self, ids: Ids = (), *, queues: Names = (), everything: bool = False, topics: Iterable[Topic] = TOPICS
    ) -> AsyncIterator[Entry | Skipped]:
        """What happens to jobs, as it happens: `async for entry in client.follow(job.id)`. See docs/channels.md.

        Follow jobs by id, all jobs of queues, or everything. An entry is a StateChange, Progress, LogText or Emitted
        (perdure.wire.streams), or Skipped: so much was left out, because this loop was slower than the jobs.
        `topics`: "state", "progress", "log", "emit". With ids, what was there before comes first, and it ends when all
        of them have ended. It goes on whatever the client's timeout is. Raises NotFound, InvalidOption, Refused;
        ChannelClosed or DaemonStopping when the connection ends: then follow again.
        """
        return self._loops.news(asks.follow(ids, queues, everything, topics), self.timeout)

    def follow_sync(
        self, ids: Ids = (), *, queues: Names = (), everything: bool = False, topics: Iterable[Topic] = TOPICS
    ) -> Iterator[Entry | Skipped]:
        """`follow` for code without an event loop, on a connection of its own."""
        return self._threads.news(asks.follow(ids, queues, everything, topics), self.timeout)

    # --- dead letters

    async def dead_list(self, which: DeadFilter | None = None) -> _List[DeadView]:
        """A page of dead letters, newest death first."""
        return await self._ask(asks.dead_list(which))

    def dead_list_sync(self, which: DeadFilter | None = None) -> _List[DeadView]:
        """`dead_list` for code without an event loop."""
        return self._ask_sync(asks.dead_list(which))

    async def dead_get(self, job_id: int) -> DeadView | None:
        """One dead letter with its whole story."""
        return await self._ask(asks.dead_get(job_id))

    def dead_get_sync(self, job_id: int) -> DeadView | None:
        """`dead_get` for code without an event loop."""
        return self._ask_sync(asks.dead_get(job_id))

    async def replay(self, ids: Ids, set_args: dict[str, Any] | None = None) -> _List[Verdict]:
        """Give dead jobs another life; `set_args` are merged into their arguments."""
        return await self._ask(asks.replay(ids, set_args))

    def replay_sync(self, ids: Ids, set_args: dict[str, Any] | None = None) -> _List[Verdict]:
        """`replay` for code without an event loop."""
        return self._ask_sync(asks.replay(ids, set_args))

    async def discard(self, ids: Ids) -> _List[Verdict]:
        """Decide that dead letters need nothing more."""
        return await self._ask(asks.discard(ids))

    def discard_sync(self, ids: Ids) -> _List[Verdict]:
        """`discard` for code without an event loop."""
        return self._ask_sync(asks.discard(ids))

    # --- queues and the daemon

    async def queues(self) -> _List[QueueView]:
        """All queues that have jobs or a setting."""
        return await self._ask(asks.queues())

    def queues_sync(self) -> _List[QueueView]:
        """`queues` for code without an event loop."""
        return self._ask_sync(asks.queues())

    async def pause(self, queue: str) -> None:
        """Claim nothing more from this queue; what runs goes on."""
        await self._ask(asks.pause(queue))

    def pause_sync(self, queue: str) -> None:
        """`pause` for code without an event loop."""
        self._ask_sync(asks.pause(queue))

    async def resume(self, queue: str) -> None:
        """Claim from this queue again."""
        await self._ask(asks.resume(queue))

    def resume_sync(self, queue: str) -> None:
        """`resume` for code without an event loop."""
        self._ask_sync(asks.resume(queue))

    async def kinds(self) -> _List[KindSpec]:
        """What the handlers loaded last declare."""
        return await self._ask(asks.kinds())

    def kinds_sync(self) -> _List[KindSpec]:
        """`kinds` for code without an event loop."""
        return self._ask_sync(asks.kinds())

    async def status(self) -> control.Status:
        """What the daemon does, and how it is."""
        return await self._ask(asks.status())

    def status_sync(self) -> control.Status:
        """`status` for code without an event loop."""
        return self._ask_sync(asks.status())

    async def reload(self) -> _List[KindSpec]:
        """Load the handlers anew."""
        return await self._ask(asks.reload())

    def reload_sync(self) -> _List[KindSpec]:
        """`reload` for code without an event loop."""
        return self._ask_sync(asks.reload())

    async def request(self, request: control.Request) -> Any:
        """Any request of perdure.wire.control. Never sent twice."""
        return await self._ask(asks.raw(request))

    def request_sync(self, request: control.Request) -> Any:
        """`request` for code without an event loop."""
        return self._ask_sync(asks.raw(request))

    # --- connections

    async def aclose(self) -> None:
        """Close the connection of this event loop. The client can be used again."""
        self._loops.close()

    def close(self) -> None:
        """Close the connection of this thread (that of the `_sync` methods). The client can be used again."""
        self._threads.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _ask(self, ask: Ask[T]) -> T:
        answer: T = await self._loops.ask(ask, self.timeout)
        return answer

    def _ask_sync(self, ask: Ask[T]) -> T:
        answer: T = self._threads.ask(ask, self.timeout)
        return answer

    async def _put(self, ask: Ask[_List[Enqueued]], extra_s: float = 0.0) -> _List[Enqueued]:
        return self._taken(await self._loops.ask(ask, self._seconds(ask, extra_s)))

    def _put_sync(self, ask: Ask[_List[Enqueued]], extra_s: float = 0.0) -> _List[Enqueued]:
        return self._taken(self._threads.ask(ask, self._seconds(ask, extra_s)))

    def _seconds(self, ask: Ask[Any], extra_s: float) -> float | None:
        """How long an enqueue may take: what it waits for room comes on top."""
        patience_ms = getattr(ask.request, "patience_ms", None) or 0
        return None if self.timeout is None else self.timeout + extra_s + patience_ms / 1000

    def _taken(self, placed: _List[Enqueued]) -> _List[Enqueued]:
        if placed:
            self.pressure = max(one.pressure for one in placed)
        return placed

    def _chunks(self, jobs: Iterable[JobLike]) -> _List[_List[JobSpec]]:
        """All jobs, checked before the first request is sent, in pieces that the daemon accepts."""
        specs = asks.several_jobs(jobs)
        return [specs[start : start + self.batch_jobs] for start in range(0, len(specs), self.batch_jobs)]

    def _configured(self, config: str | os.PathLike[str] | None) -> str:
        from perdure.config.settings import find_config, load_settings

        explicit = None if config is None else Path(path_text("config", config))
        settings = load_settings(find_config(explicit, os.environ, Path.cwd()), os.environ)
        self.batch_jobs = settings.limits.batch
        return str(settings.paths.socket)


_default: Client | None = None


def default_client() -> Client:
    """The client that `handler.enqueue()` uses; made from the environment and the configuration when first needed."""
    global _default
    if _default is None:
        _default = Client()
    return _default


def set_default_client(client: Client | None) -> None:
    """Let `handler.enqueue()` use this client from now on; None: make a new one when needed."""
    global _default
    _default = client


def _after(taken: int, error: PerdureError) -> PerdureError:
    """The error of a later request of several; it tells what the earlier ones did."""
    return type(error)(f"{error} (the first {taken:,} jobs of this call are in the queue, in earlier requests)")
