"""What `Context.for_test` hands out instead of a toolbox: the doubles of whoever writes the test."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from perdure.adapters.call import JobCall
from perdure.adapters.once import BlockingOnce, Once, Scope, make_mark
from perdure.errors import UnknownDependency


class Doubles:
    """The shape of JobTools. Each double is handed out as it is, for `ctx.NAME` and for `ctx.blocking.NAME`."""

    def __init__(self, job_id: int, **doubles: Any) -> None:
        self._job_id = job_id
        self._doubles = doubles
        #: Set by the context.
        self.desk: Any = None

    @property
    def postgres(self) -> Any:
        """The double for PostgreSQL. Raises UnknownDependency if there is none."""
        return self._double("postgres")

    @property
    def neo4j(self) -> Any:
        """The double for Neo4j. Raises UnknownDependency if there is none."""
        return self._double("neo4j")

    @property
    def qdrant(self) -> Any:
        """The double for Qdrant. Raises UnknownDependency if there is none."""
        return self._double("qdrant")

    @property
    def blocking(self) -> Any:
        """The same doubles, guards and marks for a synchronous handler."""
        blocking = _BlockingDoubles(self._job_id, **self._doubles)
        blocking.desk = self.desk
        return blocking

    def guard(self, name: str, *, fallback: Any = ..., **_options: Any) -> Callable[[Callable[..., Any]], Any]:
        """No breaker, no retry: call the function; `fallback` counts when it raises."""

        def wrap(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
            @wraps(function)
            async def guarded(*args: Any, **kwargs: Any) -> Any:
                try:
                    return await function(*args, **kwargs)
                except Exception as error:
                    value = _fall_back(fallback, error)
                    return await value if inspect.isawaitable(value) else value

            return guarded

        return wrap

    def once(self, key: str, scope: Scope = "job") -> Any:
        """A mark of a queue named "test"; its transactions come from the doubles."""
        return Once(make_mark("test", JobCall(self._job_id), key, scope), self)  # type: ignore[arg-type]  # the same shape

    def _double(self, name: str) -> Any:
        double = self._doubles.get(name)
        if double is None:
            raise UnknownDependency(f"this test has no {name}: Context.for_test({name}=…)")
        return double


class _BlockingDoubles(Doubles):
    """Without `await`."""

    def run(self, *argv: str, **options: Any) -> Any:
        """Really run a command."""
        return self.desk.run_blocking(argv, options)

    def port(self, timeout: float | None = None) -> Any:
        """There is no client in a test. Raises UsageError."""
        return self.desk.port_blocking(timeout)

    def guard(self, name: str, *, fallback: Any = ..., **_options: Any) -> Callable[[Callable[..., Any]], Any]:
        """Call the function; `fallback` counts when it raises."""

        def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
            @wraps(function)
            def guarded(*args: Any, **kwargs: Any) -> Any:
                try:
                    return function(*args, **kwargs)
                except Exception as error:
                    return _fall_back(fallback, error)

            return guarded

        return wrap

    def once(self, key: str, scope: Scope = "job") -> Any:
        """A mark of a queue named "test"."""
        return BlockingOnce(make_mark("test", JobCall(self._job_id), key, scope), self)  # type: ignore[arg-type]  # as above


def _fall_back(fallback: Any, error: Exception) -> Any:
    """To be called while `error` is handled."""
    if fallback is ...:
        raise error
    return fallback(error) if callable(fallback) else fallback
