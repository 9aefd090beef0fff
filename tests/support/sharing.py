"""Which tests stay together when they run in several processes, and which of them come first."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling

#: These need databases, of which each process would start its own.
WITH_DATABASES = ("tests/adapters/", "tests/examples/", "tests/outages/", "tests/daemon/test_e2e_outages.py")
#: What takes long comes first, and what is quick last: so no process waits long for the last file of another.
LONG_FIRST = ("databases", "tests/crash/", "tests/daemon/test_e2e", "tests/systemd/", "tests/outside/", "tests/worker/")


class Sharing(LoadScopeScheduling):
    """Gives a process whole files, and all that needs databases to one.

    With xdist's own `--dist loadgroup` the groups are lost in silence under pytest 9.2 (pytest-xdist issue 1386), and
    its order begins with the files that have most tests, which are the quick ones.
    """

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        self.config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)


def group(nodeid: str) -> str:
    """The name of what the test shares."""
    return "databases" if nodeid.startswith(WITH_DATABASES) else nodeid.split("::", 1)[0]


def place(nodeid: str) -> int:
    """Where its group comes, from 0."""
    name = group(nodeid)
    return next((number for number, long in enumerate(LONG_FIRST) if name.startswith(long)), len(LONG_FIRST))
