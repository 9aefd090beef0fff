"""How the tests run: coroutines without a plugin, a hard time limit each, and a word about the machine at the start."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import inspect
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from types import FrameType
from typing import Any, TextIO

import pytest
from hypothesis import HealthCheck, settings

from tests.support.abilities import abilities, machine

#: Seconds that the set-up, the body and the tear-down of a test may take each; `@pytest.mark.limit(n)` sets another.
LIMIT_SECONDS = 60.0
#: Seconds after the limit until the whole run is ended: the body holds the GIL, or has taken SIGALRM for itself.
GRACE_SECONDS = 20.0
#: Seconds from the last test to the end of the process: more means that a test left a thread behind.
EXIT_SECONDS = 10.0

#: Where to write when everything hangs: a copy of the real stderr, see pytest_configure.
_stderr: TextIO = sys.__stderr__ or sys.stderr

# In a new clone the first draw of text builds Hypothesis's table of characters: slower than its health check allows.
settings.register_profile("perdure", parent=settings(), suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("perdure")


# A hundred daemons and their nurseries are started: without bytecode each would compile all of perdure again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_configure() -> None:
    """Keep the real stderr: pytest puts files in the place of the descriptors 1 and 2 while a test runs."""
    global _stderr
    _stderr = os.fdopen(os.dup(2), "w")


def pytest_report_header() -> list[str]:
    """What is used and what is not there, so that a green run says what it has tried."""
    there = [one.name for one in abilities() if not one.missing]
    lines = [f"machine: {machine()}", f"abilities: {', '.join(there) or 'none'}"]
    return lines + [f"not there: {one.name} ({one.missing})" for one in abilities() if one.missing]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """What shares a server or a daemon stays in one process, when the tests run in several."""
    from tests.support.sharing import Sharing

    return Sharing(config, log)


# --- coroutines


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Hypothesis calls the inner function itself, so a coroutine is wrapped there; and what takes long comes first."""
    if hasattr(config, "workerinput"):
        from tests.support.sharing import place

        items.sort(key=lambda item: place(item.nodeid))
    for item in items:
        handle = getattr(getattr(item, "obj", None), "hypothesis", None)
        if handle is not None and inspect.iscoroutinefunction(handle.inner_test):
            handle.inner_test = _blocking(handle.inner_test)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an `async def` test on a fresh loop."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in arguments}))
    return True


def _blocking(function: Callable[..., Any]) -> Callable[..., None]:
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(function(*args, **kwargs))

    return run


# --- the time limit


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """Limit the fixtures' set-up."""
    with _limited(item, "set-up"):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Limit the test itself."""
    with _limited(item, "test"):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """Limit the fixtures' tear-down."""
    with _limited(item, "tear-down"):
        return (yield)


@contextlib.contextmanager
def _limited(item: pytest.Item, phase: str) -> Iterator[None]:
    marker = item.get_closest_marker("limit")
    seconds = float(marker.args[0]) if marker else LIMIT_SECONDS
    faulthandler.dump_traceback_later(seconds + GRACE_SECONDS, exit=True, file=_stderr)
    previous = signal.signal(signal.SIGALRM, _on_alarm(item.nodeid, phase, seconds))
    # It rings again, in case the first exception was swallowed.
    signal.setitimer(signal.ITIMER_REAL, seconds, GRACE_SECONDS / 4)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        faulthandler.cancel_dump_traceback_later()


def _on_alarm(name: str, phase: str, seconds: float) -> Callable[[int, FrameType | None], None]:
    def ring(_signal: int, _frame: FrameType | None) -> None:
        print(f"\n{name}: the {phase} is over its limit of {seconds:g} s; all stacks:", file=_stderr, flush=True)
        faulthandler.dump_traceback(file=_stderr, all_threads=True)
        with contextlib.suppress(RuntimeError):  # no loop runs here
            for task in asyncio.all_tasks():
                task.print_stack(file=_stderr)
        pytest.fail(f"the {phase} is over its limit of {seconds:g} s (stacks on stderr)")

    return ring


def pytest_unconfigure() -> None:
    """A thread that a test left behind must not hang the run: show its stack, and end."""
    sys.stdout.flush()
    faulthandler.dump_traceback_later(EXIT_SECONDS, exit=True, file=_stderr)
