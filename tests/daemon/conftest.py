"""What the tests with a daemon of their own file share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from perdure.client import Client
from tests.daemon.e2e import await_rest
from tests.support.daemon import Daemon


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    """A client of an idle daemon, which must be idle again afterwards. `daemon` is the test file's own, two workers."""
    await_rest(daemon)
    with daemon.client() as one:
        yield one
    await_rest(daemon)
