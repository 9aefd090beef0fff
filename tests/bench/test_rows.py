"""Each row of the benchmarks, with hardly anything to do: what it measures is not looked at, only that it does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from perdure.bench import (
    beside,
    cli_process,
    command,
    daemon,
    drain,
    enqueue,
    guard,
    kill,
    latency,
    machine,
    payload,
    plots,
    rest,
    rows,
    slow_disk,
    steady,
    wire,
)
from perdure.bench.daemon import Running
from perdure.bench.figure import Figure, Sizes, Skipped
from perdure.bench.goals import GOALS
from perdure.bench.load import QUEUE
from perdure.errors import PerdureError
from perdure.wire.control import ResumeQueue

TINY = (
    "--jobs=512", "--rounds=1", "--workers=1", "--samples=10", "--calls=64", "--seconds=0.2", "--idle-seconds=0.2",
    "--backlog=600", "--many=600", "--running=8", "--queues=4", "--payload-bytes=1048576", "--processes=3", "--kills=1",
)  # fmt: skip

#: The keys that each line begins with; whoever reads them may rely on these.
KEYS = ["benchmark", "value", "unit", "limit", "ratio", "goal"]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What no option says is small too."""
    for module, name, value in (
        (machine, "LOOP_STEPS", 1_000),
        (machine, "SYNCS", 5),
        (machine, "COMMITS", 5),
        (beside, "PAIRS", 1),
        (guard, "ROUNDS", 1),
        (guard, "ROUND_CALLS", 100),
        (payload, "PLOT_SIZES", (1_000,)),
        (payload, "ROW_SIZES", (("payload-1KB", 1_000), ("payload-10MB", payload.SPOOL_FROM))),
        (plots, "WORKERS", (1,)),
        (plots, "BATCHES", (10,)),
        (rest, "STILL_SECONDS", 0.01),
        (wire, "ROUNDS", 1),
        (wire, "SAMPLES", 10),
        (wire, "EVENTS", 100),
        (wire, "CALLS", 64),
        (wire, "VALUES", 100),
        (wire, "SLOW_VALUES", 3),
        (wire, "PORT_BYTES", 1 << 20),
    ):
        monkeypatch.setattr(module, name, value)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One daemon for all rows that need nothing special of theirs: starting one is most of a tiny measurement."""
    with daemon.daemon(tmp_path_factory.mktemp("shared"), Sizes(workers=1)) as running:
        yield running


@pytest.fixture
def with_shared(shared: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that asks for a daemon gets the shared one, unless it asks for more than that."""

    @contextlib.contextmanager
    def lend(folder: Path, sizes: Sizes, **options: Any) -> Iterator[Running]:
        if options or any(folder.iterdir()):
            with daemon.daemon(folder, sizes, **options) as own:
                yield own
        else:
            shared.caller.request(ResumeQueue(QUEUE))
            yield shared

    modules = (beside, cli_process, drain, enqueue, kill, latency, payload, plots, rest, slow_disk, steady, wire)
    for module in modules:
        monkeypatch.setattr(module, "daemon", lend)


def run(*arguments: str) -> Result:
    """`perdure bench` with these arguments."""
    return CliRunner().invoke(command.bench, [*TINY, *arguments])


def lines(result: Result) -> list[dict[str, Any]]:
    """What stands on stdout, each line an object."""
    return [msgspec.json.decode(line) for line in result.stdout.splitlines()]


@pytest.mark.usefixtures("with_shared")
@pytest.mark.parametrize("name", rows.ROWS)
def test_each_row_can_be_measured(name: str) -> None:
    """A benchmark that fails when it is needed, or prints something that programs cannot read."""
    result = run(name, "--json")
    assert result.exit_code == 0, result.stderr
    if "left out" in result.stderr:
        pytest.skip(result.stderr.splitlines()[-1])
    measured = lines(result)
    assert measured
    for line in measured:
        assert list(line)[:6] == KEYS
        assert line["value"] >= 0 or name == "guard"  # a difference of two times, of so few calls
        assert line["limit"] > 0 or name == "idle"  # a bare loop may have done nothing at all in so short a time
        assert line["goal"] or line["at"] is not None
        assert all(line[key] for key in ("details", "limit_is", "machine", "durability"))


@pytest.mark.usefixtures("with_shared")
def test_the_table_is_for_people() -> None:
    """The table lacks a figure, its verdict, or what it means."""
    result = run("enqueue-one", "guard")
    assert result.exit_code == 0, result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()[:3]] == ["benchmark", "enqueue-one", "guard"]
    assert "met" in result.stdout or "missed" in result.stdout
    assert "raw SQLite, the same insert, a commit each" in " ".join(result.stdout.split())
    assert "ns a step" in result.stdout


def test_all_rows_are_listed() -> None:
    """A row that nobody can find."""
    listed = run("--list").stdout
    assert [line.split()[0] for line in listed.splitlines()] == list(rows.ROWS)
    assert all(len(line.split()) > 5 for line in listed.splitlines())


@pytest.mark.parametrize(
    "arguments",
    [("drian",), ("--jobs=0",), ("--rounds=0",), ("--durability=off",), ("--dir=/nowhere",), ("--seconds=x",)],
)
def test_bad_input_is_refused(arguments: tuple[str, ...]) -> None:
    """A mistake on the command line is measured for minutes."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Error" in result.stderr


def test_a_row_that_fails_does_not_take_the_others_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """After twenty minutes the last row fails, and all figures are gone; or nobody is told that it failed."""

    def fail(*_: object) -> list[Figure]:
        raise PerdureError("the daemon has died")

    def skip(*_: object) -> list[Figure]:
        raise Skipped("there is no strace")

    monkeypatch.setitem(rows.ROWS, "drain", rows.Row(fail))
    monkeypatch.setitem(rows.ROWS, "slow-disk", rows.Row(skip))
    result = run("drain", "slow-disk", "guard", "--json")
    assert result.exit_code == 1
    assert [line["benchmark"] for line in lines(result)] == ["guard"]
    assert "drain: the daemon has died" in result.stderr
    assert "slow-disk: left out: there is no strace" in result.stderr


def test_a_goal_with_two_parts_needs_both() -> None:
    """A slow machine's drain is called good for its ratio, or a fast one's for its rate."""
    goal = GOALS["drain"]
    assert goal.text("jobs/s") == ">= 100,000 jobs/s and >= 0.7 x limit"
    assert goal.met(100_000, 100_000 / 0.7)
    assert not goal.met(100_000, 150_000)
    assert not goal.met(99_999, 99_999)


def test_a_goal_may_depend_on_the_disk() -> None:
    """The latency's goal leaves out what the disk takes."""
    goal = GOALS["latency"]
    assert goal.text("ms") == "<= 0.5 ms + 2 x limit"
    assert goal.met(0.7, 0.1)
    assert not goal.met(0.71, 0.1)


def test_a_lag_of_the_goal_itself_is_too_long() -> None:
    """16 ms is what the loop must stay below."""
    assert GOALS["lag"].met(15.9, 1)
    assert not GOALS["lag"].met(16.0, 1)
