"""Transient or permanent."""

from __future__ import annotations

import asyncio

import pytest

from perdure.classify import is_passing, is_retryable
from perdure.errors import InvalidArguments, JobTimeout, NotData, Permanent, Retry


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Permanent("no"), False),
        (Retry(after=3), True),
        (InvalidArguments("x"), False),
        (NotData("x"), False),
        (JobTimeout(), True),
        (KeyError("x"), True),
        (ValueError("x"), True),
        (ConnectionResetError(), True),
        (asyncio.CancelledError(), True),
        (ExceptionGroup("all", [ValueError(), KeyError()]), True),
        (ExceptionGroup("one", [ValueError(), ExceptionGroup("in", [Permanent("no")])]), False),
    ],
    ids=repr,
)
def test_defaults(error: BaseException, expected: bool) -> None:
    """A job would be buried for what passes, or retried for what never can."""
    assert is_retryable(error) is expected


def test_the_handlers_lists_count_and_the_nearest_class_wins() -> None:
    """`permanent=(OSError,), transient=(ConnectionError,)` would depend on the order of the checks."""
    assert not is_retryable(FileNotFoundError(), (OSError,), (ConnectionError,))
    assert is_retryable(ConnectionResetError(), (OSError,), (ConnectionError,))
    assert not is_retryable(ConnectionResetError(), (ConnectionError,), (OSError,))
    assert is_retryable(InvalidArguments("x"), (), (InvalidArguments,))
    assert not is_retryable(ExceptionGroup("g", [ValueError()]), (ValueError,))
    assert not is_retryable(Permanent("no"), (), (Exception,))


class DeadlockDetectedError(Exception):
    __module__ = "asyncpg.exceptions"


class Derived(DeadlockDetectedError):
    pass


def test_adapters_repeat_only_what_is_known_to_pass() -> None:
    """An adapter would repeat a statement that is wrong, or give up on a deadlock."""
    assert is_passing(ConnectionRefusedError())
    assert is_passing(TimeoutError())
    assert is_passing(Derived())
    assert not is_passing(ValueError())
    assert not is_passing(asyncio.CancelledError())
