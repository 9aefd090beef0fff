"""Ends what commands left running when nobody was there to end them: their worker, or the whole daemon, was killed.

What a job's command has started carries the job in its environment (worker/commands.py). Only jobs that were being
executed at that moment count: a server that an earlier command has started, and that was meant to stay, stays. All of
this reads /proc and waits: call it in a thread.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from perdure.adapters import kin
from perdure.daemon.worker.commands import ATTEMPT_MARK, JOB_MARK, OWNER_MARK

#: How long what was killed may take to be gone, seconds.
GONE_SECONDS: Final = 2.0
#: How long all of it may take, seconds: /proc can hang on a process that hangs, and jobs wait for this.
LOOK_SECONDS: Final = 5.0
#: Between two looks, seconds; and how often to look again for a process that is just about to become a command.
_PAUSE_SECONDS: Final = 0.01
_LOOKS_FOR_UNBORN: Final = 5
#: How workers are called (worker/main.py), with their number; the kernel keeps this much of a name.
_WORKER_NAME: Final = "perdure-w"
_NAME_BYTES: Final = 15

Jobs = Collection[tuple[int, int]]


def end_strays_of_worker(owner: str, jobs: Jobs, family: Collection[int]) -> list[str]:
    """End the commands of a worker that has died, while it executed these jobs (id, attempt). What was ended, in words.

    Called in the supervisor, which has taken in the orphans. `family`: the pids of its own processes.
    """
    looks_left, own = _LOOKS_FOR_UNBORN, os.getpid()
    name = f"{_WORKER_NAME}{owner.rpartition('/')[2]}"[:_NAME_BYTES]

    def find() -> list[kin.Process]:
        nonlocal looks_left
        there = list(kin.everybody())
        orphans = (one for one in there if one.parent == own and one.pid not in family)
        # Between fork and exec it has the name and the environment of its worker, then for a moment none.
        unborn = any(one.name == name or not one.environ for one in orphans)
        looks_left = looks_left - 1 if unborn else 0
        return _marked(there, lambda mark: mark == owner, jobs)

    return _end(find, lambda: looks_left > 0)


def queue_mark(store_id: str, db: Path) -> str:
    """What the owner marks of a queue's commands begin with. Raises OSError.

    A copy of the queue's file has the same id, but it is another file: a daemon that is started on the copy, to try
    something, must not end the commands of the one that runs on the original.
    """
    found = db.stat()
    return f"{store_id}.{found.st_dev:x}.{found.st_ino:x}"


def end_strays_of_earlier_runs(queue: str, jobs: Jobs | None) -> list[str]:
    """End the commands of this queue's runs that were killed, while they executed these jobs; None: nobody knows which.

    `queue`: its mark. To be called before the first worker is forked.
    """
    prefix = f"{queue}/"
    return _end(lambda: _marked(list(kin.everybody()), lambda mark: mark.startswith(prefix), jobs), lambda: False)


def _marked(there: Collection[kin.Process], is_owner: Callable[[str], bool], jobs: Jobs | None) -> list[kin.Process]:
    """Those with such a mark, and who is in a session with them: it may have cleaned its environment."""
    own = _own_line()
    sessions = {one.session for one in there if _belongs(one, is_owner, jobs)} - {0, os.getsid(0)}
    return [one for one in there if one.session in sessions and one.pid not in own]


def _belongs(one: kin.Process, is_owner: Callable[[str], bool], jobs: Jobs | None) -> bool:
    if OWNER_MARK.encode() not in one.environ:
        return False
    owner = one.variable(OWNER_MARK.encode())
    if owner is None or not is_owner(owner):
        return False
    if jobs is None:
        return True
    job, attempt = one.variable(JOB_MARK.encode()), one.variable(ATTEMPT_MARK.encode())
    return any(job == str(job_id) and attempt == str(number) for job_id, number in jobs)


def _own_line() -> set[int]:
    """This process and those it descends from: a job may start a daemon."""
    line: set[int] = set()
    pid = os.getpid()
    while pid > 1 and pid not in line:
        line.add(pid)
        found = kin.look(pid)
        pid = 0 if found is None else found.parent
    return line


def _end(find: Callable[[], list[kin.Process]], look_again: Callable[[], bool]) -> list[str]:
    """Kill what is found until nothing is; who was found, in words."""
    ended: dict[int, str] = {}
    deadline = time.monotonic() + GONE_SECONDS
    while True:
        found = find()
        ended |= {one.pid: str(one) for one in found if one.pid not in ended}
        kin.send(found, signal.SIGKILL)
        if (not found and not look_again()) or time.monotonic() > deadline:
            return list(ended.values())
        time.sleep(_PAUSE_SECONDS)
