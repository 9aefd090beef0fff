"""What a handler is given."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import AsyncIterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from perdure.context import Context
from perdure.errors import CommandFailed, UnknownDependency, UsageError


def test_a_context_for_unit_tests_needs_nothing() -> None:
    """Users could not test a handler without a daemon."""
    ctx = Context.for_test(args={"path": "a"}, attempt=2)
    assert (ctx.id, ctx.args, ctx.attempt, ctx.deadline, ctx.time_left(), ctx.cancelled) == (
        1, {"path": "a"}, 2, None, None, False,
    )  # fmt: skip


def test_the_deadline_cancels() -> None:
    """A long loop that looks at ctx.cancelled would run into the hard limit."""
    now = [10.0]
    ctx = Context(
        id=1,
        kind="k",
        queue="q",
        args={},
        attempt=1,
        max_attempts=5,
        log=Context.for_test().log,
        deadline=12.5,
        monotonic=lambda: now[0],
    )
    assert (ctx.time_left(), ctx.cancelled) == (2.5, False)
    now[0] = 13.0
    assert (ctx.time_left(), ctx.cancelled) == (0.0, True)
    assert Context.for_test(cancelled=True).cancelled


def test_log_lines_of_a_test_are_seen(caplog: pytest.LogCaptureFixture) -> None:
    """A user could not test what a handler logs."""
    with caplog.at_level(logging.INFO, "perdure.test"):
        Context.for_test().log.bind(path="a.md").info("split", passages=3)
    assert caplog.messages == ["split path='a.md' passages=3"]


def test_progress_is_a_number() -> None:
    """Bars would be drawn backwards, or a follower's JSON be no JSON."""
    ctx = Context.for_test()
    for amounts in ((0, 0), (3, 2), (0.5, None), (Decimal(1), Fraction(3, 2)), (2**60, 2**61)):
        ctx.progress(*amounts)
    assert len(ctx._with_desk().progressed) == 5  # type: ignore[attr-defined]
    wrong: list[Any] = [-1, -0.1, math.nan, math.inf, 10**400, "5", b"5", None, [1]]
    for amount in wrong:
        with pytest.raises(ValueError, match="progress: done must be a number, 0 or more"):
            ctx.progress(amount, 1)
        if amount is not None:
            with pytest.raises(ValueError, match="progress: total must be a number, 0 or more"):
                ctx.progress(1, amount)
    assert len(ctx._with_desk().progressed) == 5  # type: ignore[attr-defined]


class Rows:
    """A double for both lanes: what is asked is noted."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def fetch(self, query: str) -> list[int]:
        self.asked.append(query)
        return [1]

    @contextlib.asynccontextmanager
    async def once(self, mark: str) -> AsyncIterator[str]:
        yield mark


def test_doubles_stand_in_for_databases() -> None:
    """A handler that uses a database could not be tested without one."""
    rows = Rows()
    ctx = Context.for_test(postgres=rows)
    assert ctx.blocking.postgres.fetch("SELECT 1") == [1]
    assert ctx.postgres is rows
    with pytest.raises(UnknownDependency, match=r"for_test\(neo4j="):
        _ = ctx.neo4j


async def test_guards_and_marks_work_without_a_daemon() -> None:
    """Handlers with fallbacks and effects that happen once could not be tested."""
    ctx = Context.for_test(id=5, postgres=Rows())

    async def fail() -> int:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await ctx.guard("any")(fail)()
    assert await ctx.guard("any", fallback=7)(fail)() == 7
    assert await ctx.guard("any", fallback=str)(fail)() == "gone"
    assert ctx.blocking.guard("any", fallback=None)(lambda: 1 / 0)() is None
    async with ctx.once("charge").postgres() as mark:
        assert mark == "test:5.0:charge"


def test_a_context_without_a_worker_has_no_adapters() -> None:
    """An AttributeError on None would tell nobody what is missing."""
    with pytest.raises(UnknownDependency, match="for_test"):
        _ = Context(id=1, kind="k", queue="q", args={}, attempt=1, max_attempts=1, log=Context.for_test().log).postgres


async def test_a_block_with_the_same_key_inside_of_another_is_refused() -> None:
    """It would wait for the end of the block that it is in, until its time is over, again and again."""
    ctx = Context.for_test(postgres=Rows())
    async with ctx.once("charge").postgres():
        with pytest.raises(UsageError, match="a block with the key 'charge' is open already"):
            async with ctx.once("charge").postgres():
                pass
        async with ctx.once("refund").postgres():
            pass
    async with ctx.once("charge").postgres():
        pass


async def test_commands_are_really_run_in_tests(capsys: pytest.CaptureFixture[str]) -> None:
    """A unit test of a handler that runs a command would need a double for it, or a daemon."""
    ctx = Context.for_test()
    ended = await ctx.run("sh", "-c", "echo out; cat", input="in")
    assert (ended.returncode, ended.last_lines) == (0, "out\nin")
    assert capsys.readouterr().out == "out\nin\n"
    assert ctx.blocking.run("echo", "x", capture=True).stdout == b"x\n"
    with pytest.raises(CommandFailed):
        await ctx.run("false")
    with pytest.raises(UsageError, match="no client in a test"):
        await ctx.port()
    with pytest.raises(UsageError, match="no client in a test"):
        ctx.blocking.port()


def test_blocking_commands_are_run_in_tests() -> None:
    """The same for a synchronous handler."""
    assert Context.for_test().blocking.run("sh", "-c", "exit 3", check=False).returncode == 3


async def test_the_kind_shell_can_be_called() -> None:
    """The ready-made kind would be the only one that cannot be tried in a test."""
    from perdure.kinds.shell import shell

    assert await shell(Context.for_test(), ["echo", "hi"], cwd="/") == {"returncode": 0, "last_lines": "hi"}
    assert (shell.spec.max_attempts, shell.spec.timeout_ms) == (1, 0)
