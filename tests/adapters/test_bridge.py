"""The bridge from synchronous handlers to the loop: values, exceptions and interruptions come through."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from types import FrameType

import pytest
import uvloop

from perdure.adapters.bridge import Bridge
from perdure.errors import JobTimeout, UsageError
from tests.support.wait import wait_until


@pytest.fixture
def bridge() -> Iterator[Bridge]:
    """A bridge to a loop in a second thread, as in a worker."""
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield Bridge(loop)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    left = asyncio.all_tasks(loop)
    loop.close()
    assert not left, "a task was left on the loop"


@pytest.fixture
def ring() -> Iterator[Callable[[], None]]:
    """`ring()` raises JobTimeout in the main thread, once, as the soft time limit does.

    Like that one it sends its signal again and again: one that comes just before a wait does not end it.
    """
    is_due = False
    pokers: list[threading.Thread] = []

    def on_signal(_signal: int, _frame: FrameType | None) -> None:
        nonlocal is_due
        if is_due:
            is_due = False
            raise JobTimeout

    def poke() -> bool:
        if is_due:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)
        return not is_due

    def start() -> None:
        nonlocal is_due
        is_due = True
        pokers.append(threading.Thread(target=wait_until, args=(poke,)))
        pokers[-1].start()

    previous = signal.signal(signal.SIGUSR2, on_signal)
    yield start
    for poker in pokers:
        poker.join()
    signal.signal(signal.SIGUSR2, previous)


class Visited:
    """An asynchronous context manager that writes down what happens to it."""

    def __init__(self, *, swallows: bool = False) -> None:
        self.events: list[str] = []
        self.tasks: set[object] = set()
        self.swallows = swallows
        self.entering = threading.Event()
        self.may_enter = True

    async def __aenter__(self) -> str:
        self.tasks.add(asyncio.current_task())
        self.entering.set()
        try:
            if not self.may_enter:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.events.append("entering was cancelled")
            raise
        self.events.append("entered")
        return "value"

    async def __aexit__(self, kind: type[BaseException] | None, _exc: BaseException | None, _tb: object) -> bool:
        self.tasks.add(asyncio.current_task())
        self.events.append("left" if kind is None else f"left with {kind.__name__}")
        return self.swallows


def test_values_and_exceptions_come_through(bridge: Bridge) -> None:
    """A synchronous handler would get something else than an asynchronous one."""

    async def divide(one: int, *, by: int) -> float:
        assert asyncio.get_running_loop() is bridge.loop
        return one / by

    assert bridge.run(divide, 6, by=3) == 2
    with pytest.raises(ZeroDivisionError):
        bridge.run(divide, 6, by=0)


def test_many_threads_at_once(bridge: Bridge) -> None:
    """Threads of one handler would wait for each other."""
    gate = asyncio.Barrier(4)

    async def meet() -> int:
        return await gate.wait()

    met: list[int] = []
    threads = [threading.Thread(target=lambda: met.append(bridge.run(meet))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(met) == [0, 1, 2, 3]


def test_an_interruption_cancels_what_was_waited_for(bridge: Bridge, ring: Callable[[], None]) -> None:
    """A handler over its time limit would wait for a silent server, or leave a query behind that nobody wants."""
    ended: list[str] = []

    async def hang() -> None:
        ring()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    with pytest.raises(JobTimeout):
        bridge.run(hang)
    wait_until(lambda: ended == ["cancelled"])
    wait_until(lambda: not asyncio.all_tasks(bridge.loop))


async def test_on_its_own_loop_it_refuses() -> None:
    """The worker's loop would wait for itself, for ever."""
    bridge, visited = Bridge(asyncio.get_running_loop()), Visited()
    with pytest.raises(UsageError, match="would wait for itself"):
        bridge.run(asyncio.sleep, 0)
    with pytest.raises(UsageError), bridge.context(visited):
        pass
    assert visited.events == []


def test_context_enters_and_leaves_in_one_task(bridge: Bridge) -> None:
    """Timeouts and cancel scopes inside of a transaction belong to a task: they would break."""
    visited = Visited()
    with bridge.context(visited) as value:
        assert value == "value"
        assert visited.events == ["entered"]
    assert visited.events == ["entered", "left"]
    assert len(visited.tasks) == 1


@pytest.mark.parametrize("error", [KeyError, JobTimeout, KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_the_bodys_exception_reaches_the_manager(bridge: Bridge, error: type[BaseException]) -> None:
    """A transaction would be committed though its body has failed; or the loop would be ended by what it was told."""
    visited = Visited()
    raised = error()
    with pytest.raises(error) as caught, bridge.context(visited):
        raise raised
    assert caught.value is raised
    assert visited.events == ["entered", f"left with {error.__name__}"]
    assert bridge.loop.is_running()


def test_a_manager_may_swallow_it(bridge: Bridge) -> None:
    """The synchronous form would behave otherwise than the asynchronous one."""
    visited = Visited(swallows=True)
    with bridge.context(visited):
        raise KeyError
    assert visited.events == ["entered", "left with KeyError"]


def test_generators_are_managers_too(bridge: Bridge) -> None:
    """The adapters write theirs with asynccontextmanager."""
    events: list[str] = []

    @contextlib.asynccontextmanager
    async def transaction(name: str) -> AsyncIterator[str]:
        try:
            yield name
        except KeyError:
            events.append("rolled back")
            raise
        else:
            events.append("committed")
            if name == "late":
                raise ConnectionError("lost at commit")

    with bridge.context(transaction("first")) as name:
        assert name == "first"
    with pytest.raises(KeyError), bridge.context(transaction("second")):
        raise KeyError
    with pytest.raises(ConnectionError, match="lost at commit"), bridge.context(transaction("late")):
        pass
    assert events == ["committed", "rolled back", "committed"]


def test_entering_may_fail(bridge: Bridge) -> None:
    """The body would run without what it needs; or the handler would wait for ever."""

    @contextlib.asynccontextmanager
    async def refused() -> AsyncIterator[None]:
        raise ConnectionRefusedError("no server")
        yield

    with pytest.raises(ConnectionRefusedError, match="no server"), bridge.context(refused()):
        pytest.fail("the body must not run")


def test_an_interruption_while_entering(bridge: Bridge, ring: Callable[[], None]) -> None:
    """A connection that is being opened when the time limit rings would never be given back."""
    visited = Visited()
    visited.may_enter = False
    threading.Thread(target=lambda: visited.entering.wait(10) and ring()).start()
    with pytest.raises(JobTimeout), bridge.context(visited):
        pytest.fail("the body must not run")
    wait_until(lambda: visited.events == ["entering was cancelled"])
    wait_until(lambda: not asyncio.all_tasks(bridge.loop))


def test_the_loop_may_end_while_the_body_runs(bridge: Bridge) -> None:
    """At a drain, what is open would stay open; or the handler would hang in its `with`."""
    visited = Visited()

    async def cancel_visit() -> None:
        (task,) = visited.tasks
        assert isinstance(task, asyncio.Task)
        task.cancel()

    def body() -> None:
        with bridge.context(visited):
            bridge.run(cancel_visit)
            wait_until(lambda: len(visited.events) == 2)

    with pytest.raises(asyncio.CancelledError):
        body()
    assert visited.events == ["entered", "left with CancelledError"]
