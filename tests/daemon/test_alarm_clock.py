"""An alarm that one thread sets for another."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from perdure.daemon.alarm_clock import AlarmClock

MS = 1_000_000
MINUTE = 60_000 * MS


@pytest.fixture
def alarm() -> Iterator[AlarmClock]:
    """One that is not set."""
    made = AlarmClock()
    yield made
    made.close()


def test_it_rings_when_it_is_time_and_once(alarm: AlarmClock) -> None:
    """A watcher would be woken too early and look in vain, or would never sleep again."""
    began = time.monotonic_ns()
    alarm.set(30 * MS)
    assert alarm.wait(MINUTE)
    assert time.monotonic_ns() - began >= 30 * MS
    assert not alarm.wait(MS)


def test_a_thread_that_waits_already_hears_it(alarm: AlarmClock) -> None:
    """Who sleeps for ten seconds would be woken after ten seconds."""
    heard: list[bool] = []
    waiter = threading.Thread(target=lambda: heard.append(alarm.wait(MINUTE)))
    waiter.start()
    alarm.set(MS)
    waiter.join()
    assert heard == [True]


def test_the_last_word_counts(alarm: AlarmClock) -> None:
    """Each piece of work would ring once more."""
    alarm.set(1)
    alarm.set(MINUTE)
    assert not alarm.wait(MS)


def test_it_leaves_no_descriptor_behind() -> None:
    """Each loop that is measured would leak one, and children would inherit it."""
    alarm = AlarmClock()
    assert not os.get_inheritable(alarm._fd)
    alarm.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(alarm._fd)
