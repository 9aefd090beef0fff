"""Payloads as a producer prepares them."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from perdure import payload
from perdure.errors import InvalidOption
from perdure.payload import prepare, result_file, result_value
from perdure.wire.control import ResultView
from perdure.wire.data import Blob, JobSpec
from perdure.wire.packet import SEALS
from tests.support.wait import async_wait_until


def test_a_named_file_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon would look for it in its own folder, or could not tell whether it has changed."""
    (tmp_path / "data").write_bytes(b"12345")
    monkeypatch.chdir(tmp_path)
    payload, spec = prepare("data"), JobSpec("k")
    payload.put_into(spec)
    found = (tmp_path / "data").stat()
    sha256 = hashlib.sha256(b"12345").hexdigest()
    assert spec.blob == Blob(5, sha256, path=str(tmp_path / "data"), mtime_ns=found.st_mtime_ns)
    assert (spec.blob_fd, payload.fds) == (None, [])


@pytest.mark.parametrize("content", [b"12345", bytearray(b"12345"), memoryview(b"1x2x3x4x5")[::2], b""])
def test_bytes_become_sealed_memory(content: bytes) -> None:
    """They could be changed while they are copied; or a view with gaps would be sent with its gaps."""
    payload, spec = prepare(content), JobSpec("k")
    payload.put_into(spec)
    (fd,) = payload.fds
    assert (spec.blob, spec.blob_fd) == (None, 0)
    assert os.pread(fd, 100, 0) == bytes(content)
    assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & SEALS == SEALS
    payload.close()


def test_a_file_that_is_spooled_is_only_opened(tmp_path: Path) -> None:
    """It would be read twice; or the time that its copy takes would be the time for an ordinary request."""
    with (tmp_path / "data").open("wb") as file:
        file.truncate(1 << 30)
    payload = prepare(tmp_path / "data", spool=True)
    assert (payload.blob, len(payload.fds)) == (None, 1)
    assert payload.seconds() > 100
    payload.close()


@pytest.mark.parametrize("late", [False, True])
async def test_who_gives_up_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch, late: bool) -> None:
    """Each enqueue of bytes that is cancelled would keep its copy of them in memory for ever."""
    made: list[payload.Payload] = []
    begun, go, done = threading.Event(), threading.Event(), threading.Event()

    def slow(source: payload.Source | None, spool: bool) -> payload.Payload:
        begun.set()
        assert late or go.wait(10)
        made.append(prepare(source, spool))
        return made[0]

    def make_late(make: Callable[[], None]) -> None:
        make()
        done.set()

    def to_thread(make: Callable[[], None]) -> asyncio.Future[None]:
        if late:  # it has made it, and its caller has not seen that yet
            make()
            return asyncio.get_running_loop().create_future()
        return asyncio.get_running_loop().run_in_executor(None, make_late, make)

    monkeypatch.setattr(payload, "prepare", slow)
    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    task = asyncio.ensure_future(payload.prepare_beside(b"12345"))
    await async_wait_until(begun.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    await async_wait_until(lambda: late or done.is_set())
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(made[0].fds[0])


def test_what_is_no_payload_is_refused(tmp_path: Path) -> None:
    """A fifo would hang the producer; the others would fail hours later in a worker."""
    os.mkfifo(tmp_path / "fifo")
    for source in (tmp_path, tmp_path / "fifo", tmp_path / "gone", "/dev/null", "a\0b"):
        for spool in (False, True):
            with pytest.raises(InvalidOption):
                prepare(source, spool)
    with pytest.raises(InvalidOption, match="spool"):
        prepare(None, spool=True)
    for spool in (False, True):
        with pytest.raises(InvalidOption, match="blob: the path is empty"):
            prepare("", spool)


def test_results_are_what_the_handler_returned(tmp_path: Path) -> None:
    """Bytes would be parsed, JSON left as text, or a descriptor left open."""
    (tmp_path / "data").write_bytes(b'{"a": 1}')

    def fds() -> list[int]:
        return [os.open(tmp_path / "data", os.O_RDONLY)]

    assert result_value(ResultView('{"a": 1}'), []) == {"a": 1}
    assert result_value(ResultView(None), []) is None
    assert result_value(ResultView(blob=Blob(8, "")), fds()) == b'{"a": 1}'
    assert result_value(ResultView(blob=Blob(8, "", json=True)), fds()) == {"a": 1}
    with result_file(ResultView("[1]"), []) as file:
        assert file.read() == b"[1]"


async def test_a_result_that_nobody_waits_for_any_more_is_closed(tmp_path: Path) -> None:
    """A client that is cancelled, before the thread reads or while it does, would keep a descriptor for ever."""
    (tmp_path / "data").write_bytes(b"12345")
    loop = asyncio.get_running_loop()
    over, begun = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as one:
        loop.set_default_executor(one)
        view = ResultView(blob=Blob(5, ""))

        def ask() -> tuple[int, asyncio.Future[object]]:
            fd = os.open(tmp_path / "data", os.O_RDONLY)
            return fd, asyncio.ensure_future(payload.result_value_beside(view, [fd]))

        fd, asking = ask()
        assert await asking == b"12345"
        assert not _is_open(fd)
        blocking = loop.run_in_executor(None, lambda: (begun.set(), over.wait()))
        await async_wait_until(begun.is_set)
        fd, asking = ask()
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert not _is_open(fd)
        over.set()
        await blocking


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
