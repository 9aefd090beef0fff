"""The few calls of the system that keep the family of processes together, or look at it."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36

_libc = ctypes.CDLL(None, use_errno=True)
#: Calls keep the GIL.
_libc_held = ctypes.PyDLL(None, use_errno=True)


def _prctl(option: int, value: int | bytes) -> None:
    """Call prctl(2). Raises OSError."""
    argument = ctypes.c_char_p(value) if isinstance(value, bytes) else ctypes.c_ulong(value)
    zero = ctypes.c_ulong(0)
    if _libc.prctl(ctypes.c_int(option), argument, zero, zero, zero) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "prctl")


def become_subreaper() -> None:
    """Make this process the parent of every descendant that loses its own. Raises OSError."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def bare_fork() -> int:
    """fork(2) without what Python renews in a child, which takes longer than the fork: 0 in the child, else its pid.

    For a child that does nothing but fork again or end, of a process that has one thread. Raises OSError.
    """
    pid: int = _libc_held.fork()
    if pid < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "fork")
    return pid


def die_with(parent_pid: int, sig: signal.Signals = signal.SIGKILL) -> bool:
    """Have the kernel send `sig` to this process when its parent ends; False: the parent has ended already.

    Call it when the parent is final: a change of parents between this call and the end of the old one would fire it.
    The parent is looked at again afterwards, because it may have ended just before the call. Raises OSError.
    """
    _prctl(_PR_SET_PDEATHSIG, int(sig))
    return os.getppid() == parent_pid


def set_process_name(name: str) -> None:
    """Show `name` (cut to 15 bytes by the kernel) in `ps` and `top`. Raises OSError."""
    _prctl(_PR_SET_NAME, name.encode())


def resident_bytes(pid: int) -> int:
    """Memory that a process has in RAM, shared pages included. Raises OSError, also when it has ended."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()
