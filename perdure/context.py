"""What a handler is given about the job that it runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol


class JobLog(Protocol):
    """A logger with structlog's shape: an event's name, then fields. Its lines go into the job's own log."""

    def debug(self, event: str, /, **fields: Any) -> Any:
        """Something for whoever hunts a bug."""

    def info(self, event: str, /, **fields: Any) -> Any:
        """Something worth reading later."""

    def warning(self, event: str, /, **fields: Any) -> Any:
        """Something odd that did not stop the job."""

    def error(self, event: str, /, **fields: Any) -> Any:
        """Something that went wrong."""

    def exception(self, event: str, /, **fields: Any) -> Any:
        """Something that went wrong, with the exception that is being handled."""

    def bind(self, **fields: Any) -> JobLog:
        """A logger that adds these fields to each line."""
        ...


def _never() -> bool:
    return False


class Context:
    """The job as its handler sees it.

    `id`, `kind`, `queue`, `args` (as enqueued), `attempt` (1 for the first), `max_attempts`; `deadline` is a moment of
    time.monotonic() in seconds, or None for no limit; `log` writes into the job's log (`perdure logs ID`).
    """

    __slots__ = (
        "_is_cancelled",
        "_monotonic",
        "args",
        "attempt",
        "deadline",
        "id",
        "kind",
        "log",
        "max_attempts",
        "queue",
    )

    def __init__(
        self,
        *,
        id: int,
        kind: str,
        queue: str,
        args: Mapping[str, Any],
        attempt: int,
        max_attempts: int,
        log: JobLog,
        deadline: float | None = None,
        is_cancelled: Callable[[], bool] = _never,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.id = id
        self.kind = kind
        self.queue = queue
        self.args = args
        self.attempt = attempt
        self.max_attempts = max_attempts
        self.deadline = deadline
        self.log = log
        self._is_cancelled = is_cancelled
        self._monotonic = monotonic

    @property
    def cancelled(self) -> bool:
        """Whether the job should stop early: cancelled, or its time is up. Long loops look at it now and then."""
        return self._is_cancelled() or (self.deadline is not None and self._monotonic() >= self.deadline)

    def time_left(self) -> float | None:
        """Seconds until the deadline, never below 0.0; None without a deadline."""
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - self._monotonic())

    @classmethod
    def for_test(
        cls,
        *,
        id: int = 1,
        kind: str = "test",
        queue: str = "default",
        args: Mapping[str, Any] | None = None,
        attempt: int = 1,
        max_attempts: int = 5,
        time_left: float | None = None,
        cancelled: bool = False,
        log: JobLog | None = None,
    ) -> Context:
        """A context for unit tests of handlers; `time_left` in seconds sets the deadline from now.

        Log lines go to Python's logger "perdure.test", unless `log` is given.
        """
        return cls(
            id=id,
            kind=kind,
            queue=queue,
            args=dict(args or {}),
            attempt=attempt,
            max_attempts=max_attempts,
            deadline=None if time_left is None else time.monotonic() + time_left,
            log=log or _StandardLog(logging.getLogger("perdure.test")),
            is_cancelled=lambda: cancelled,
        )

    def __repr__(self) -> str:
        return f"<Context job {self.id} {self.kind}, attempt {self.attempt} of {self.max_attempts}>"


class _StandardLog:
    """The shape of JobLog over the standard library, so that tests need nothing and caplog sees the lines."""

    def __init__(self, logger: logging.Logger, fields: dict[str, Any] | None = None) -> None:
        self._logger = logger
        self._fields = fields or {}

    def _write(self, level: int, event: str, fields: dict[str, Any], *, trace: bool = False) -> None:
        pairs = "".join(f" {name}={value!r}" for name, value in {**self._fields, **fields}.items())
        self._logger.log(level, "%s%s", event, pairs, exc_info=trace)

    def debug(self, event: str, /, **fields: Any) -> None:
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: Any) -> None:
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: Any) -> None:
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: Any) -> None:
        self._write(logging.ERROR, event, fields)

    def exception(self, event: str, /, **fields: Any) -> None:
        self._write(logging.ERROR, event, fields, trace=True)

    def bind(self, **fields: Any) -> _StandardLog:
        return _StandardLog(self._logger, {**self._fields, **fields})
