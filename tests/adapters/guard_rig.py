"""A guard with everything around it in the test's hands: clock, randomness, waits, and what is reported."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from perdure.adapters.guard import Guard
from perdure.adapters.verdict import Verdict
from perdure.adapters.view import BreakerView
from perdure.clock import Clock, ManualClock
from perdure.wire.dependencies import BreakerState, Policy
from perdure.wire.work import Observed

NAME = "billing"


class Refusal(Exception):
    """The service turns us away for good."""


class Conflict(Exception):
    """Somebody else won."""


class Gone(ConnectionError):
    """The service is not there."""


def classify(exc: BaseException) -> Verdict:
    """The verdicts of a made-up driver."""
    if isinstance(exc, (ConnectionError, TimeoutError)):
        return Verdict.UNAVAILABLE
    if isinstance(exc, Refusal):
        return Verdict.REFUSED
    return Verdict.CONTENDED if isinstance(exc, Conflict) else Verdict.CALLER


class Rig:
    """`clock` moves when the guard waits; `slept` are those waits in seconds; `told` is what was reported."""

    def __init__(self, clock: Clock | None = None, seed: int = 1, **policy: Any) -> None:
        self.manual = ManualClock(monotonic_ns=1_000_000_000_000)
        self.clock: Clock = clock or self.manual
        self.told: list[Observed] = []
        self.slept: list[float] = []
        self.view = BreakerView(self.told.append, self.clock)
        self.policy = Policy(**policy)
        self.guard = Guard(NAME, self.policy, self.view, classify, self.clock, random.Random(seed), sleep=self.sleep)

    async def sleep(self, seconds: float) -> None:
        """What the guard waits with: time passes at once."""
        self.slept.append(seconds)
        self.manual.advance(round(seconds * 1000))

    @property
    def now(self) -> float:
        """Seconds of the monotonic clock."""
        return self.clock.monotonic_ns() / 1e9

    def breaker(self, word: Any, probe_job: int = 0, seconds: float = 0.0) -> None:
        """The supervisor says so."""
        until_ns = self.clock.monotonic_ns() + int(seconds * 1e9) if seconds else 0
        self.view.update([BreakerState(NAME, word, until_ns, probe_job)])

    def totals(self) -> tuple[int, int]:
        """Good and failed calls that were reported, gathered ones included."""
        self.view.flush()
        return sum(one.ok for one in self.told), sum(one.failed for one in self.told)


async def forever() -> None:
    """A server that never answers."""
    await asyncio.Event().wait()


class Service:
    """Answers with what it was given, one after the other: exceptions are raised, the last one for ever."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    @property
    def tries(self) -> int:
        """How often it was called."""
        return len(self.calls)

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append((args, kwargs))
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer
