"""The jobs that this process has declared, by kind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from perdure.errors import InvalidHandler

if TYPE_CHECKING:
    from perdure.job import Job


class Registry:
    """Kinds and their jobs."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job[..., Any]] = {}

    def add(self, job: Job[..., Any]) -> None:
        """Take a job in. Raises InvalidHandler if another place has declared its kind.

        The same place again is a module that is loaded anew; in `__main__` (a notebook, a prompt) the last one counts.
        """
        known = self._jobs.get(job.kind)
        if known is not None and known.place != job.place and not _retyped(known, job):
            raise InvalidHandler(f'the kind "{job.kind}" is declared twice: at {known.place} and at {job.place}')
        self._jobs[job.kind] = job

    def get(self, kind: str) -> Job[..., Any] | None:
        """The job of a kind, or None."""
        return self._jobs.get(kind)

    def __iter__(self) -> Iterator[Job[..., Any]]:
        return iter(list(self._jobs.values()))

    def __len__(self) -> int:
        return len(self._jobs)

    @contextmanager
    def isolated(self) -> Iterator[Registry]:
        """For tests: empty inside, and afterwards as it was before."""
        before, self._jobs = self._jobs, {}
        try:
            yield self
        finally:
            self._jobs = before


def _retyped(known: Job[..., Any], job: Job[..., Any]) -> bool:
    return known.spec.module == job.spec.module == "__main__"


#: The one of this process: what `@job` fills, and what a worker runs.
registry = Registry()
