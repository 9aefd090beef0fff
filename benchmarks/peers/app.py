"""What every peer's module offers, and where it finds its server. Only the standard library is used here."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from pathlib import Path

#: Jobs in a call of those that take many.
BATCH = 100


def place() -> Path:
    """The folder of this trial."""
    return Path(os.environ["PEER_FOLDER"])


def url() -> str:
    """Of the server, for peers that have one."""
    return os.environ["PEER_URL"]


def durable() -> bool:
    """Whether an acknowledged job is to survive a power cut."""
    return os.environ["PEER_DURABLE"] == "1"


def recovering() -> bool:
    """Whether this is the workload that kills: what a peer offers for lost workers is then set to seconds."""
    return os.environ.get("PEER_RECOVERING") == "1"


def tool(name: str) -> str:
    """A program of this virtual environment."""
    return str(Path(sys.executable).parent / name)


class App(ABC):
    """One peer. `enqueue` and `enqueue_many` may be coroutines; they return when the jobs are acknowledged."""

    #: The package whose version is shown.
    package = ""
    #: Jobs of a drain at scale 1: some seconds' worth.
    jobs = 10_000
    #: Jobs in one call of `enqueue_many`; 1: it has no such call.
    batch = BATCH
    #: What stands in the table: settings that differ from the defaults, for throughput; and those for recovery.
    settings = ""
    recovery = ""
    #: Whether jobs of a killed worker are found at all, by whatever means.
    recovers = True
    #: Whether producers talk to a daemon that runs the workers: then these are started before anything is enqueued.
    daemon = False

    def setup(self) -> Awaitable[None] | None:
        """Connect; make tables."""
        return None

    @abstractmethod
    def workers(self) -> list[list[str]]:
        """The commands that start two worker processes."""

    @abstractmethod
    def enqueue(self, index: int) -> Awaitable[object] | None:
        """One job."""

    def enqueue_many(self, first: int, count: int) -> Awaitable[object] | None:
        """`count` jobs in one call, numbered from `first`: up to `batch`, so that one is all that it must do."""
        return self.enqueue(first)

    def ready(self) -> Awaitable[None] | None:
        """For a daemon: wait until its workers are up."""
        return None

    def hold(self) -> Awaitable[None] | None:
        """For a daemon: begin no jobs until `release`."""
        return None

    def release(self) -> Awaitable[None] | None:
        """The opposite of `hold`."""
        return None
