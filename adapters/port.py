"""A direct line between a handler and a client."""

from __future__ import annotations


class Port:
    """A connected stream."""

    def close(self) -> None:
        """Hang up."""
