"""What a handler is given."""

from __future__ import annotations

import logging

import pytest

from perdure.context import Context


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
