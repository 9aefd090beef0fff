"""A coroutine that is begun at once, and waited for later, by a task that has other things to do."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any, Final, cast

_NOTHING: Final = object()


class Stepping:
    """Begin with `first_step`, then await this for the rest, if there is any."""

    __slots__ = ("_waited", "cr_await")

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        #: The coroutine; of this name, so that whoever looks for stacks finds the way into it.
        self.cr_await = coroutine
        self._waited: object = _NOTHING

    def first_step(self) -> None:
        """Run to the first wait. Raises StopIteration with the result if there is none, and what the coroutine does."""
        self._waited = self.cr_await.send(None)

    # --- what `await` needs

    def __await__(self) -> Generator[Any, Any, Any]:
        return cast("Generator[Any, Any, Any]", self)  # it has what Python asks of it

    def __iter__(self) -> Stepping:
        return self

    def __next__(self) -> object:
        waited = self._waited
        if waited is not _NOTHING:
            self._waited = _NOTHING
            return waited
        return self.cr_await.send(None)

    def throw(self, *error: Any) -> object:
        """Raise something where the coroutine waits: a cancellation."""
        return self.cr_await.throw(*error)

    def close(self) -> None:
        """End the coroutine where it waits."""
        self.cr_await.close()
