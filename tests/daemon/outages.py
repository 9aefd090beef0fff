"""The ways in which a service goes away and comes back: each a context manager, away inside, there again after it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from tests.daemon.outage_services import Service
from tests.support.fault_proxy import BLACK_HOLE, HALF_CLOSE, PASS, REFUSE, RESET, Fault, cut_after, latency

#: What a call may take, seconds.
CALL_SECONDS = 0.6

Outage = Callable[[Service], AbstractContextManager[None]]


def through_proxy(fault: Fault, *, drops: bool = False) -> Outage:
    """The way to the server is bad. `drops`: open connections are lost, too."""

    @contextlib.contextmanager
    def outage(service: Service) -> Iterator[None]:
        service.proxy.mode = fault
        if drops:
            service.proxy.drop_connections()
        try:
            yield
        finally:
            service.proxy.mode = PASS

    return outage


@contextlib.contextmanager
def killed(service: Service) -> Iterator[None]:
    """The server is killed, and started again on what it has on disk."""
    if not service.is_ours:
        pytest.skip(f"{service.name} is not ours to kill")
    service.kill()
    try:
        yield
    finally:
        service.start()


@contextlib.contextmanager
def locked_out(service: Service) -> Iterator[None]:
    """The password is another one for a while."""
    service.lock_out()
    try:
        yield
    finally:
        service.let_in()


def brief(fault: Fault, seconds: float) -> Outage:
    """Over by itself after so many seconds, open connections lost."""

    @contextlib.contextmanager
    def outage(service: Service) -> Iterator[None]:
        def end() -> None:
            service.proxy.mode = PASS

        service.proxy.mode = fault
        service.proxy.drop_connections()
        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            yield
        finally:
            timer.join()

    return outage


def flapping(period: float) -> Outage:
    """Away and there again, each for so many seconds."""

    @contextlib.contextmanager
    def outage(service: Service) -> Iterator[None]:
        is_over = threading.Event()

        def flap() -> None:
            faults = [RESET, REFUSE, BLACK_HOLE, HALF_CLOSE]
            while not is_over.is_set():
                service.proxy.mode = faults[0]
                faults.append(faults.pop(0))
                is_over.wait(period)
                service.proxy.mode = PASS
                is_over.wait(period)

        thread = threading.Thread(target=flap, name="flapping")
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    return outage


#: All of them, by name. `cut`: some hundred small answers pass, a long one does not.
OUTAGES: dict[str, Outage] = {
    "refused": through_proxy(REFUSE, drops=True),
    "reset": through_proxy(RESET),
    "half-closed": through_proxy(HALF_CLOSE),
    "black-holed": through_proxy(BLACK_HOLE),
    "slow": through_proxy(latency(1.5 * CALL_SECONDS)),
    "cut": through_proxy(cut_after(20_000)),
    "killed": killed,
    "locked-out": locked_out,
    "flapping": flapping(0.3),
}
#: Those of which some calls end well, so that the breaker may stay closed.
PARTIAL = frozenset({"cut", "flapping"})
