"""Run a command that ends when another process ends, however that comes about: the kernel sees to it.

python -P leash.py PID SIGNAL COMMAND [ARGUMENT…]
"""

from __future__ import annotations

import os
import signal
import sys

from perdure.daemon.process_control import die_with


def leash(command: list[str], sig: signal.Signals = signal.SIGKILL) -> list[str]:
    """The command on a leash that this process holds: it gets `sig` when we end."""
    # By its path, so that it does not matter from which folder it is started.
    return [sys.executable, "-P", __file__, str(os.getpid()), str(int(sig)), *command]


if __name__ == "__main__":
    holder, number, *rest = sys.argv[1:]
    if not die_with(int(holder), signal.Signals(int(number))):
        sys.exit(1)
    os.execvp(rest[0], rest)  # noqa: S606  # the same process goes on as the command; the kernel keeps the leash
