"""Whose fault an exception is, as the supervisor is told."""

from __future__ import annotations

import pytest

from perdure.daemon.worker.failure import failure
from perdure.errors import BreakerOpen, NoAnswer, Permanent, PoolExhausted, Retry


def marked(name: str = "postgres", kind: type[Exception] = OSError) -> Exception:
    """An exception as it leaves a guard."""
    error = kind("lost")
    error.perdure_dependency = name  # type: ignore[attr-defined]
    return error


def raised(outer: BaseException, inner: BaseException, *, cause: bool = False, hide: bool = False) -> BaseException:
    """`outer`, raised while `inner` was handled."""
    try:
        try:
            raise inner
        except BaseException as error:
            if cause or hide:
                raise outer from (error if cause else None)
            raise outer  # noqa: B904 - an implicit context is what some tests are about
    except BaseException as error:
        return error


def told(error: BaseException, permanent: tuple[type[BaseException], ...] = ()) -> tuple[str | None, bool, bool]:
    failed = failure(1, error, permanent)
    return failed.dependency, failed.refused, failed.retryable


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("own"), (None, False, True)),
        (marked(), ("postgres", False, True)),
        (BreakerOpen(name="neo4j"), ("neo4j", True, True)),
        (raised(ValueError(), marked()), ("postgres", False, True)),
        (raised(ValueError(), marked(), cause=True), ("postgres", False, True)),
        (raised(ValueError(), marked(), hide=True), (None, False, True)),
        (raised(ValueError(), BreakerOpen(name="neo4j")), ("neo4j", True, True)),
        (raised(Retry(after=1), BreakerOpen(name="neo4j"), cause=True), ("neo4j", True, True)),
        (raised(BreakerOpen(name="neo4j"), marked()), ("neo4j", True, True)),
        (Permanent("no"), (None, False, False)),
        (raised(Permanent("no"), marked(), cause=True), (None, False, False)),
        (raised(Permanent("no"), BreakerOpen(name="neo4j")), (None, False, False)),
    ],
)
def test_a_failure_is_blamed_on_the_dependency_that_caused_it(
    error: BaseException, expected: tuple[str | None, bool, bool]
) -> None:
    """A dead database would burn the attempts of its jobs; or a job's own defect would be forgiven for ever."""
    assert told(error) == expected


def test_a_group_is_a_dependencys_fault_when_each_member_is() -> None:
    """One own defect among lost connections would be forgiven; or a TaskGroup would hide an outage."""
    assert told(ExceptionGroup("", [marked("a"), marked("b")])) == ("a", False, True)
    assert told(ExceptionGroup("", [BreakerOpen(name="a"), BreakerOpen(name="b")])) == ("a", True, True)
    assert told(ExceptionGroup("", [BreakerOpen(name="a"), marked("b")])) == ("a", False, True)
    assert told(ExceptionGroup("", [marked("a"), ValueError()])) == (None, False, True)
    assert told(raised(ValueError(), ExceptionGroup("", [ExceptionGroup("", [marked("a")])]))) == ("a", False, True)
    assert told(ExceptionGroup("", [marked("a"), Permanent()])) == (None, False, False)


def test_an_absent_dependency_is_no_reason_to_give_up() -> None:
    """`permanent=(OSError,)`, meant for missing files, would bury the jobs of an outage."""
    assert told(NoAnswer("refused"), (OSError,))[2]
    assert told(BreakerOpen(name="a"), (Exception,)) == ("a", True, True)
    assert not told(NoAnswer("refused"), (NoAnswer,))[2]
    assert not told(FileNotFoundError(), (OSError,))[2]


def test_a_pool_that_is_used_up_is_told_apart() -> None:
    """The supervisor would charge the job for what its neighbours do."""
    busy = marked(kind=PoolExhausted)
    busy.perdure_busy = True  # type: ignore[attr-defined]
    assert failure(1, raised(ValueError(), busy)).busy
    assert failure(1, ExceptionGroup("all", [busy, busy])).busy
    assert not failure(1, ExceptionGroup("one", [busy, marked()])).busy
    assert not failure(1, marked()).busy


def test_a_ring_of_causes_ends() -> None:
    """The worker would hang while it describes an error."""
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert told(first) == (None, False, True)


class _Odd(Exception):
    perdure_dependency = 7


def test_a_mark_that_is_no_name_does_not_count() -> None:
    """The supervisor would get a message that it cannot read."""
    assert told(_Odd()) == (None, False, True)


def test_a_wish_that_cannot_be_read_is_told() -> None:
    """A typo in `after` would burn all attempts in seconds, and nobody would see why."""
    failed = failure(1, Retry(after="10 minits"))
    assert (failed.retryable, failed.retry_after_ms) == (True, None)
    assert "after='10 minits' is not a duration" in failed.error.message
