"""What the dispatch core asks about dependencies: a job whose dependency is away does not run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

BREAKER_REASON = "breaker:"
NEEDS_REASON = "needs:"


class Gate(Protocol):
    """The breakers, as the core sees them."""

    def parks(self, needs: Sequence[str], job_id: int) -> str | None:
        """Why a job with these needs cannot run now, as a park reason; None: it can.

        Asked when the job is about to be placed: the first one that asks may be made the probe of a half-open breaker.
        """
        ...

    def knows(self, name: str) -> bool:
        """Whether the configuration has this dependency."""
        ...

    def is_closed(self, name: str) -> bool:
        """Whether calls to it are let through."""
        ...

    def in_trouble(self, name: str) -> bool:
        """Whether so many calls to it have failed of late that no job is to blame for one more."""
        ...

    def ended(self, ids: Iterable[int]) -> None:
        """These jobs are in nobody's hands any more: one that was a probe has given its verdict, or never will."""
        ...


class NoBreakers:
    """A gate that is always open: for a core without dependencies."""

    def parks(self, needs: Sequence[str], job_id: int) -> str | None:
        """Nothing is kept."""
        return None

    def knows(self, name: str) -> bool:
        """No dependency is known."""
        return False

    def is_closed(self, name: str) -> bool:
        """There is nothing that could open."""
        return True

    def in_trouble(self, name: str) -> bool:
        """Nothing is."""
        return False

    def ended(self, ids: Iterable[int]) -> None:
        """There are no probes."""
