"""What was shown already, when a story is told again: after a restart of the daemon it begins anew. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

#: A story is not longer than the daemon's STORY_BYTES; of what was shown, so much is enough to find its place.
_MOST_CHARS = 512 * 1024


class Overlap(Generic[T]):
    """Lines (or values) that were shown, and where a story that is told again goes on with new ones."""

    def __init__(self) -> None:
        self._shown: deque[T] = deque()
        self._chars = 0
        #: What the story is expected to repeat; None: it has not been looked for yet.
        self._expected: deque[T] | None = deque()

    def restarted(self) -> None:
        """From here on a story is told again."""
        self._expected = None

    def earlier(self, items: Sequence[T]) -> Sequence[T]:
        """A piece of a story: those of `items` that are new."""
        if self._expected is None:
            self._expected = self._find(items)
        known = 0
        while known < len(items) and self._expected and self._expected[0] == items[known]:
            self._expected.popleft()
            known += 1
        if known < len(items):
            self._expected.clear()
        return self.live(items[known:])

    def live(self, items: Sequence[T]) -> Sequence[T]:
        """Something that happens now: all of it is new."""
        self._shown.extend(items)
        self._chars += sum(len(str(item)) for item in items)
        while self._chars > _MOST_CHARS and len(self._shown) > 1:
            self._chars -= len(str(self._shown.popleft()))
        return items

    def _find(self, items: Sequence[T]) -> deque[T]:
        """What was shown, from the place where `items` stand, or begin to: the first such place is the longest."""
        shown = list(self._shown)
        for start, item in enumerate(shown):
            if item == items[0]:
                length = min(len(items), len(shown) - start)
                if shown[start : start + length] == list(items[:length]):
                    return deque(shown[start:])
        return deque()
