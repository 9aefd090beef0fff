"""Deliver a job more than once, as a queue must when a worker dies between an effect and its acknowledgement.

Handlers under test take `step` and call `die(ctx, step, "here")` at the places where a worker may be killed. Every
delivery is a real worker process, forked by a real nursery.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from perdure import Context
from perdure.wire.dependencies import Dependencies
from perdure.wire.work import Failed
from tests.worker.rig import Rig, Worker, job_row


def die(ctx: Context, step: str, here: str) -> None:
    """In a handler: end this worker by SIGKILL, if this is the step and the first attempt."""
    if step == here and ctx.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)


class Twice:
    """Workers with these dependencies, and jobs that each are delivered twice, with the same id."""

    def __init__(self, folder: Path, dependencies: Dependencies, *modules: str, store_id: str = "twice") -> None:
        self._rig = Rig(folder)
        self._config: dict[str, Any] = {"dependencies": dependencies, "store_id": store_id}
        self._ids = itertools.count(1)
        loaded = self._rig.load(*modules)
        assert isinstance(loaded, list), loaded

    def __enter__(self) -> Twice:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rig.close()

    def one_after_the_other(self, kind: str, args: Mapping[str, Any]) -> list[Any]:
        """The outcome was lost on its way: the job runs to its end twice, in two workers. Both results."""
        job_id = next(self._ids)
        return [self._finish(self._fork(), job_id, kind, args, attempt) for attempt in (1, 2)]

    def killed(self, kind: str, args: Mapping[str, Any], step: str) -> Any:
        """The first worker is killed at `step`; the result of the second delivery."""
        job_id = next(self._ids)
        first = self._fork()
        first.run(job_row(job_id, kind, {**args, "step": step}))
        assert first.wait_exit() == -signal.SIGKILL, first.report()
        first.drain_messages()
        assert first.known() == set(), "the outcome was told before the kill"
        return self._finish(self._fork(), job_id, kind, {**args, "step": step}, 2)

    def at_once(self, kind: str, args: Mapping[str, Any]) -> list[Any]:
        """A worker that was taken for dead goes on beside its successor. Both results, perhaps of a third delivery."""
        job_id = next(self._ids)
        workers = [self._fork(), self._fork()]
        for attempt, worker in enumerate(workers, 1):
            worker.run(job_row(job_id, kind, args, attempt=attempt))
        for worker in workers:
            worker.wait_for(job_id)
        return [
            worker.results[job_id] if job_id in worker.results else self._again(worker, job_id, kind, args)
            for worker in workers
        ]

    def _again(self, worker: Worker, job_id: int, kind: str, args: Mapping[str, Any]) -> Any:
        failed: Failed = worker.failed[job_id]
        assert failed.retryable, failed
        return self._finish(self._fork(), job_id, kind, args, 3)

    def _fork(self) -> Worker:
        return self._rig.fork(**self._config)

    def _finish(self, worker: Worker, job_id: int, kind: str, args: Mapping[str, Any], attempt: int) -> Any:
        worker.run(job_row(job_id, kind, args, attempt=attempt))
        worker.wait_for(job_id, timeout=30.0)
        assert job_id in worker.results, worker.report()
        return worker.results[job_id]
