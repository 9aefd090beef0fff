"""A nursery with the sample handlers loaded, shared by all tests here; each test forks workers of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.worker.rig import Rig, Worker


@pytest.fixture(scope="session")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A loaded nursery."""
    with Rig(tmp_path_factory.mktemp("rig")) as loaded:
        kinds = loaded.load()
        assert isinstance(kinds, list), kinds
        yield loaded


@pytest.fixture
def worker(rig: Rig) -> Iterator[Worker]:
    """A fresh worker."""
    fresh = rig.fork()
    yield fresh
    fresh.close()
