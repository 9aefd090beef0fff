"""Wakes a thread at a time that another thread sets. Setting it wakes nobody: the kernel keeps the time (timerfd).

`threading.Event` would wake the thread at once, to let it find out that there is nothing to do yet: on a loop that has
just begun to work that is a second thread which wants the GIL, and 100 µs and more before the loop has it back.
"""

from __future__ import annotations

import ctypes
import os
import select
import time
from typing import Final

#: Python's os module has these from 3.13 on. PyDLL: with the GIL, as neither call waits for anything.
_libc = ctypes.PyDLL(None, use_errno=True)
_SECOND_NS: Final = 1_000_000_000


class _Times(ctypes.Structure):
    """struct itimerspec: when again (never), and when, as seconds and nanoseconds."""

    _fields_ = (
        ("again_s", ctypes.c_long),
        ("again_ns", ctypes.c_long),
        ("first_s", ctypes.c_long),
        ("first_ns", ctypes.c_long),
    )


class AlarmClock:
    """Set by any thread, waited for by one."""

    def __init__(self) -> None:
        # TFD_NONBLOCK and TFD_CLOEXEC are the same numbers as those of open().
        self._fd = _libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"timerfd_create: {os.strerror(number)}")
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    def set(self, in_ns: int) -> None:
        """Ring once, `in_ns` nanoseconds (1 or more) from now, instead of when it was set to before."""
        _libc.timerfd_settime(self._fd, 0, ctypes.byref(_Times(0, 0, in_ns // _SECOND_NS, in_ns % _SECOND_NS)), None)

    def wait(self, timeout_ns: int) -> bool:
        """Until it rings, but no longer than `timeout_ns`: whether it has rung."""
        if not self._poll.poll(timeout_ns / 1e6):
            return False
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return False  # set anew in between
        return True

    def close(self) -> None:
        """Give the descriptor back. Nobody may be waiting."""
        os.close(self._fd)
