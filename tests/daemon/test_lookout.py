"""The lookout: nothing that waits is forgotten."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from perdure.daemon.duties.lookout import Lookout
from perdure.daemon.isolation import LOOKS, SUSPECTS, Isolation
from perdure.daemon.ledger import Held


async def test_a_suspect_that_is_parked_during_a_look_is_looked_for_again() -> None:
    """It would stay parked until the daemon is started again: the look says that there was none."""
    isolation, suspect = Isolation(), cast("Held", object())
    asked = []

    async def unpark(reasons: list[str], limit: int, now: int) -> tuple[int, list[str]]:
        asked.append(reasons)
        if len(asked) == 1:
            for _ in range(SUSPECTS + 1):
                isolation.take(suspect)
            isolation.suspects.clear()
        return 0, []

    async def nothing(*_: object) -> list[str]:
        return []

    supervisor: Any = SimpleNamespace(
        core=SimpleNamespace(
            isolation=isolation,
            judge=SimpleNamespace(kinds_parked=set()),
            kinds={},
            queues=SimpleNamespace(unblock_all=lambda: None),
        ),
        store=SimpleNamespace(unpark=unpark, available_queues=nothing),
        breakers=SimpleNamespace(settled_needs=nothing, look=nothing),
        engine=SimpleNamespace(queues_filled=lambda names: None),
        clock=SimpleNamespace(now_ms=lambda: 0),
    )
    for _ in range(LOOKS + 3):
        await Lookout()._look(supervisor)
    assert len(asked) == 1 + LOOKS
