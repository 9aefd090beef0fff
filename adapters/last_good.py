"""The last good answers of a dependency, for the time when it gives none."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, Final

#: Answers that are kept for each guard; the one that was not used for the longest time goes first.
MOST_KEPT: Final = 256


class LastGood:
    """A small memory with forgetting. Each worker process has its own."""

    def __init__(self, most: int = MOST_KEPT) -> None:
        self._most = most
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, key: Hashable, value: Any) -> None:
        """Remember this answer, and forget the oldest one if there are too many."""
        self._kept[key] = value
        self._kept.move_to_end(key)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def find(self, key: Hashable) -> tuple[bool, Any]:
        """Whether there is an answer, and the answer."""
        if key not in self._kept:
            return False, None
        self._kept.move_to_end(key)
        return True, self._kept[key]
