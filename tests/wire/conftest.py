"""What the channel tests share: both kinds of loop, with nothing left behind on either."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

Run = Callable[[Coroutine[Any, Any, Any]], None]
Pair = tuple[socket.socket, socket.socket]


def open_fds() -> dict[str, str]:
    """This process's descriptors and what they are."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
    return found


@pytest.fixture(scope="session", autouse=True)
def warm_up() -> None:
    """The first uvloop opens a pipe for signals that stays for the life of the process."""
    uvloop.new_event_loop().close()


@pytest.fixture(autouse=True)
def no_fd_left(warm_up: None) -> Iterator[None]:
    """Every test here gives back all the descriptors that it opened."""
    before = open_fds()
    yield
    if open_fds().items() <= before.items():
        return
    gc.collect()
    assert not {fd: what for fd, what in open_fds().items() if before.get(fd) != what}


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on a fresh loop; no task may be left then, and nothing may have gone wrong behind its back."""

    def run_it(work: Coroutine[Any, Any, Any]) -> None:
        complaints: list[dict[str, Any]] = []

        async def watched() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
            await work
            assert asyncio.all_tasks() == {asyncio.current_task()}

        factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(watched())
        assert not complaints

    return run_it


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two connected SEQPACKET sockets; closed afterwards if they still are ours."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a server may listen: short enough for a socket."""
    return tmp_path_factory.mktemp("s") / "s.sock"
