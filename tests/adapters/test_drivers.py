"""What is imported when: nothing before it is needed, everything before the fork."""

from __future__ import annotations

import subprocess
import sys

import pytest

from perdure.adapters.drivers import preload

DRIVERS = {"postgres": "asyncpg", "neo4j": "neo4j", "qdrant": "qdrant_client"}

_SCRIPT = """
import importlib, sys, threading
from perdure.adapters.drivers import preload
importlib.import_module("perdure.adapters." + sys.argv[1])
early = sys.argv[2] in sys.modules
preload("perdure.adapters." + sys.argv[1])
print(early, sys.argv[2] in sys.modules, "tenacity" in sys.modules, threading.active_count())
"""


def python(*arguments: str) -> str:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(("adapter", "driver"), DRIVERS.items())
def test_the_nursery_takes_in_a_driver_without_a_thread(adapter: str, driver: str) -> None:
    """Each worker would import it again on its loop; or a fork would leave a lock held for ever."""
    assert python("-c", _SCRIPT, adapter, driver) == "False True True 1"


def test_a_driver_that_is_missing_is_told_before_any_job_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deploy that forgets an extra would send every job that needs it to the dead letters."""
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(ImportError, match=r"\[qdrant\] is configured, but qdrant_client is not installed: pip install"):
        preload("perdure.adapters.qdrant")
    preload("some.module")


def test_names_of_ready_made_kinds_cost_nothing() -> None:
    """`perdure enqueue` would load drivers to check the configuration."""
    script = "import sys, perdure.kinds; print([m for m in sys.modules if m.split('.')[0] in sys.argv[1:]])"
    assert python("-c", script, *DRIVERS.values(), "httpx", "msgspec") == "[]"
