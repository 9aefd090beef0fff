"""The limits of queues: [queues] for all of them, [queues.NAME] for one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Struct

from perdure.config.parse import Reader
from perdure.config.rules import NAME, Choice, Duration, Whole

if TYPE_CHECKING:
    from perdure.config.settings import Settings

_SECOND, _DAY = 1_000, 86_400_000

#: What becomes of new jobs when a queue is full.
REJECT: Final = "reject"
BLOCK: Final = "block"
SHED: Final = "shed"


class QueueSettings(Struct, frozen=True):
    """[queues], and what [queues.NAME] may set for one queue. `max_depth` 0 and `max_age_ms` 0: no such limit."""

    max_depth: Annotated[int, Whole(0, 100_000_000)] = 0
    max_age_ms: Annotated[int, Duration(maximum_ms=365 * _DAY)] = 0
    when_full: Annotated[str, Choice((REJECT, BLOCK, SHED))] = REJECT
    patience_ms: Annotated[int, Duration(maximum_ms=_DAY)] = 10 * _SECOND

    @property
    def limited(self) -> bool:
        """Whether it can be full at all."""
        return bool(self.max_depth or self.max_age_ms)


class QueueLimits:
    """The limits of every queue, by name."""

    def __init__(self, defaults: QueueSettings, overrides: Mapping[str, Mapping[str, object]]) -> None:
        self._defaults = defaults
        self._named = {name: msgspec.structs.replace(defaults, **table) for name, table in overrides.items()}

    @property
    def any(self) -> bool:
        """Whether there is a limit anywhere."""
        return self._defaults.limited or any(True for _ in self.named())

    def of(self, name: str) -> QueueSettings | None:
        """The limits of a queue; None: it has none."""
        found = self._named.get(name, self._defaults)
        return found if found.limited else None

    def named(self) -> Iterator[str]:
        """The queues that have a section of their own and a limit."""
        return (name for name, found in self._named.items() if found.limited)

    @property
    def longest_patience_ms(self) -> int:
        """How long an enqueue may wait that does not say so itself."""
        waiting = [one for one in (self._defaults, *self._named.values()) if one.limited and one.when_full == BLOCK]
        return max((one.patience_ms for one in waiting), default=0)


def check_queues(settings: Settings, reader: Reader) -> None:
    """Note sections for names that no queue can have, and sections that say what to do at a limit that is not set."""
    limits = settings.queue_limits()
    for name, table in settings.queue_overrides.items():
        if not NAME.fullmatch(name):
            message = "must be a name of 1 to 128 letters, digits, and . _ : - that begins with a letter or digit"
            reader.blame("queues", name, None, message)
        elif table and limits.of(name) is None and not {"max_depth", "max_age_ms"} & table.keys():
            reader.blame("queues", name, None, "does nothing without a limit: set max_depth or max_age in it")
