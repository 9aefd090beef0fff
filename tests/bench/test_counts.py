"""What a drain costs, counted: the guard against a hot path that grows."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from perdure.bench import counts

RECORDED = Path(__file__).parents[2] / "benchmarks" / "counts.json"
ADVICE = "a drain costs more than it did. If that is meant, record it: make bench-counts"


@pytest.fixture(scope="module")
def recorded() -> dict[str, float]:
    """The counts that are in the repository."""
    return msgspec.json.decode(RECORDED.read_bytes(), type=dict[str, float])


def test_what_the_supervisor_says_does_not_grow(tmp_path: Path, recorded: dict[str, float]) -> None:
    """Another statement in each commit, a message for each job, a field nobody reads: found months later, by feel."""
    assert counts.grown(counts.count_messages(tmp_path), recorded) == [], ADVICE


def test_what_the_supervisor_asks_of_the_system_does_not_grow(tmp_path: Path, recorded: dict[str, float]) -> None:
    """An index more, and each job writes another page; or a sync too many."""
    counted = counts.count_calls(tmp_path)
    if counted is None:
        pytest.skip("strace is not installed, or may not trace here")
    assert counts.grown(counted, recorded) == [], ADVICE


def test_growth_is_told_by_name(recorded: dict[str, float]) -> None:
    """A number that is too large says nothing about what to look at."""
    name = "statements per commit"
    (line,) = counts.grown({**recorded, name: recorded[name] * 2}, recorded)
    assert line.startswith(f"{name}: ")
    assert counts.grown(recorded, recorded) == []


def test_each_count_has_a_tolerance_and_a_record(recorded: dict[str, float]) -> None:
    """A count that is neither held nor recorded."""
    assert recorded.keys() == counts.TOLERANCE.keys()
