"""What became of each id in a request over several."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from perdure.wire.data import ErrorData, Verdict


class Problem(NamedTuple):
    """Why an id was left as it is: the name of a class in perdure.errors, and a message for people."""

    type: str
    message: str


def verdicts(
    ids: Sequence[int],
    done: Collection[int],
    found: Mapping[int, str],
    why_not: Callable[[int, str | None], Problem],
) -> list[Verdict]:
    """One verdict an id, in order. `found` is the state of the ids that were not done; an id without one is unknown."""
    return [Verdict(one) if one in done else _refusal(one, why_not(one, found.get(one))) for one in ids]


def _refusal(job_id: int, problem: Problem) -> Verdict:
    return Verdict(job_id, ErrorData(problem.type, problem.message, False))
