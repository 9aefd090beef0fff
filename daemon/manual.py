"""What may be asked of a breaker by hand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from perdure.duration import MAX_DURATION_MS
from perdure.errors import InvalidOption, UnknownDependency
from perdure.names import check_range, clip
from perdure.wire.control import CloseBreaker, OpenBreaker

#: A reason is a sentence, not a report.
REASON_CHARS: Final = 500
#: A user's name, with a host's.
WHO_CHARS: Final = 200


def check_by_hand(request: OpenBreaker | CloseBreaker, known: Iterable[str]) -> None:
    """Raises UnknownDependency, InvalidOption."""
    if isinstance(request, OpenBreaker) and request.for_ms is not None:
        check_range("for", request.for_ms, 1, MAX_DURATION_MS, " ms")
    names = list(known)
    if request.name not in names:
        there = f"there are {', '.join(names)}" if names else "none is configured"
        raise UnknownDependency(
            f"no breaker named {clip(request.name)}: {there}. Configure [postgres], [neo4j] or [qdrant], or declare "
            "another dependency with [dependencies.NAME]"
        )
    for what, text, most in (("reason", request.reason, REASON_CHARS), ("who", request.who, WHO_CHARS)):
        if len(text) > most or not text.isprintable():
            raise InvalidOption(f"{what}: {clip(text)} is not a line of up to {most} printable characters")
