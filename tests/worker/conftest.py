"""Nurseries with handlers loaded, each shared by all tests that need these; each test forks workers of its own.

A test file may say which modules its nursery loads (`MODULES`), and how its workers are configured (`WORKER`).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

import pytest

from tests.worker.rig import HANDLERS, Rig, Worker


@pytest.fixture(scope="session")
def rig_with(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Rig]]:
    """`rig_with(*modules)` gives a nursery that has loaded these; it is the same one each time."""
    with contextlib.ExitStack() as running:

        @functools.cache
        def start(*modules: str) -> Rig:
            loaded = running.enter_context(Rig(tmp_path_factory.mktemp("rig")))
            kinds = loaded.load(*modules)
            assert isinstance(kinds, list), kinds
            return loaded

        yield start


@pytest.fixture(scope="module")
def rig(request: pytest.FixtureRequest, rig_with: Callable[..., Rig]) -> Rig:
    """A nursery with the modules that the test file names, else with the sample handlers."""
    return rig_with(*getattr(request.module, "MODULES", (HANDLERS,)))


@pytest.fixture
def worker(request: pytest.FixtureRequest, rig: Rig) -> Iterator[Worker]:
    """A fresh worker, as the test file configures it."""
    fresh = rig.fork(**getattr(request.module, "WORKER", {}))
    yield fresh
    fresh.close()
