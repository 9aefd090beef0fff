"""The flight recorder: one small page of shared memory per worker, written by the worker, read by the supervisor.

No messages, no locks: the supervisor sees what executes even when the worker hangs, holds the GIL or is dead. Every
word has exactly one writer. The file, in native 8-byte words:

    word 0   magic                      word 5   pid of the worker (0: not started yet)
    word 1   layout version             word 6   heartbeat of the async lane's loop
    word 2   slots of the async lane    word 7   longest lag of that loop in the last minute, microseconds
    word 3   hash of the boot id        word 8   what its lag stayed below but for a thousandth of that minute
    word 4   id of the daemon's run     words 9 to 15 are zero
    word 16  slot 0, the sync lane; then one slot for each slot of the async lane. Eight words (a cache line) each:
             job id (0: free), attempt, start in CLOCK_MONOTONIC nanoseconds, time limit in ms plus one (0: none),
             how many jobs have finished in this slot, the start of the job that is to be stopped (the supervisor's),
             two spare
    after    the done ring of the sync lane, then that of the async lane: a count, then DONE_RING_IDS ids

A slot's job id is written last and cleared first, each by a single aligned 8-byte store, so a reader that finds an id
finds the rest too. The reader looks twice, and lets go of a slot that changed meanwhile.

The done ring holds ids of jobs that completed without a result, but whose `Done` message has not left the process. An
id enters the ring before its slot is cleared: when a worker dies, a job that stands in both has finished.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Container
from pathlib import Path
from typing import Final, NamedTuple, Self

from perdure.wire.data import Lane

#: How many ids a done ring holds; lanes flush long before they have more outcomes waiting.
DONE_RING_IDS: Final = 512

_MAGIC: Final = int.from_bytes(b"PERDURE1", "big")
_VERSION: Final = 1
_SLOTS, _BOOT, _RUN, _PID, _HEARTBEAT, _LAG_MAX, _LAG_P999 = 2, 3, 4, 5, 6, 7, 8
_FIRST_SLOT: Final = 16
_SLOT_WORDS: Final = 8
_FINISHED: Final = 4
_UNWANTED: Final = 5
_RING_WORDS: Final = 1 + DONE_RING_IDS
_MAX_SLOTS: Final = 65_536


class Slot(NamedTuple):
    """A job that executes. `started_ns` is CLOCK_MONOTONIC; `timeout_ms` None: it has no limit.

    `unwanted`: somebody has cancelled it.
    """

    job_id: int
    attempt: int
    started_ns: int
    timeout_ms: int | None
    lane: Lane
    unwanted: bool = False


class Leftover(NamedTuple):
    """What a page of an earlier run says: whose it was, what was executing, what had finished without being told."""

    run_id: int
    boot_hash: int
    pid: int
    executing: list[Slot]
    finished_unsent: list[int]


def hash_boot_id(boot_id: str) -> int:
    """The kernel's boot id as one word: CLOCK_MONOTONIC can only be compared within a boot."""
    return int.from_bytes(hashlib.sha256(boot_id.encode()).digest()[:8], "big")


def _words_needed(async_slots: int) -> int:
    return _FIRST_SLOT + (1 + async_slots) * _SLOT_WORDS + 2 * _RING_WORDS


class SlotWriter:
    """Writes one slot. The two methods are on the hot path: a few stores, no checks."""

    __slots__ = ("_finished", "_words")

    def __init__(self, words: memoryview[int]) -> None:
        self._words = words
        self._finished = words[_FINISHED]

    def begin(self, job_id: int, attempt: int, started_ns: int, timeout_ms: int | None) -> None:
        """Record that the job starts to execute."""
        words = self._words
        words[1] = attempt
        words[2] = started_ns
        words[3] = 0 if timeout_ms is None else timeout_ms + 1
        words[0] = job_id

    def finish(self) -> None:
        """Record that it does not execute any more."""
        words = self._words
        self._finished = words[_FINISHED] = self._finished + 1
        words[0] = 0


class DoneRing:
    """Ids that completed and have not been told. One thread adds and resets; another one may `forget` meanwhile."""

    __slots__ = ("_count", "_told", "_words")

    def __init__(self, words: memoryview[int]) -> None:
        self._words = words
        self._count = 0
        self._told = 0

    def add(self, job_id: int) -> None:
        """Record one id: the id first, then the count that makes it visible. A full ring keeps what it has.

        What does not fit runs again if the worker dies now, no worse.
        """
        count = self._count + 1
        if count <= DONE_RING_IDS:
            words = self._words
            words[count] = job_id
            words[0] = self._count = count

    def forget(self, count: int) -> None:
        """So many more have been told, the oldest ones: cross them out. Not while it is reset."""
        told = self._told
        self._told = end = min(told + count, self._count)
        for index in range(told, end):
            self._words[1 + index] = 0

    def reset(self) -> None:
        """Forget them: the message has been sent."""
        self._words[0] = self._count = self._told = 0


class RecorderPage:
    """One page, mapped. The supervisor makes it with `create`; the worker maps the descriptor it gets, `from_fd`."""

    def __init__(self, memory: mmap.mmap, fd: int) -> None:
        """Use `create`, `from_fd` or `from_path`. Takes `fd` over; -1: there is none to close."""
        self._memory = memory
        self._fd = fd
        self._words: memoryview[int] = memoryview(memory).cast("B").cast("Q")
        #: The parts that have been handed out to writers.
        self._parts: list[memoryview[int]] = []
        self.async_slots: int = self._words[_SLOTS]

    @classmethod
    def create(cls, path: Path, slots: int, *, run_id: int = 0, boot_id: str = "") -> Self:
        """Make the file for a worker with `slots` slots in its async lane, replacing one that is there. Raises OSError.

        The blocks are allocated now, so that a full disk shows here and not as a SIGBUS in the worker.
        """
        path.unlink(missing_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            length = _words_needed(slots) * 8
            os.posix_fallocate(fd, 0, length)
            memory = mmap.mmap(fd, length, mmap.MAP_SHARED)
        except OSError:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise
        words = memoryview(memory).cast("B").cast("Q")
        words[1], words[_SLOTS], words[_RUN] = _VERSION, slots, run_id
        words[_BOOT] = hash_boot_id(boot_id)
        words[0] = _MAGIC
        words.release()
        return cls(memory, fd)

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        """Map the page behind `fd`; the descriptor stays the caller's. Raises ValueError when it is not a page."""
        memory = mmap.mmap(fd, _checked_length(fd), mmap.MAP_SHARED)
        return cls(memory, -1)

    def fileno(self) -> int:
        """The descriptor to hand to the worker."""
        return self._fd

    def close(self) -> None:
        """Unmap it. The writers and readers must not be used any more."""
        for part in (*self._parts, self._words):
            part.release()
        self._memory.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # --- the worker's side

    def set_pid(self, pid: int) -> None:
        """Record who writes here."""
        self._words[_PID] = pid

    def beat(self) -> None:
        """Say that the async lane's loop turns."""
        self._words[_HEARTBEAT] += 1

    def note_lag(self, max_ms: float, p999_ms: float) -> None:
        """Record how late the async lane's loop was in the last minute."""
        self._words[_LAG_MAX], self._words[_LAG_P999] = round(max_ms * 1000), round(p999_ms * 1000)

    def slot_writer(self, index: int) -> SlotWriter:
        """The writer of slot `index`: 0 is the sync lane, 1 to `async_slots` the async lane."""
        if not 0 <= index <= self.async_slots:
            raise IndexError(f"slot {index} of 0 to {self.async_slots}")
        return SlotWriter(self._part(self._slot_base(index), _SLOT_WORDS))

    def done_ring(self, lane: Lane) -> DoneRing:
        """The ring of a lane."""
        return DoneRing(self._part(self._ring_base(lane), _RING_WORDS))

    def _part(self, base: int, words: int) -> memoryview[int]:
        part = self._words[base : base + words]
        self._parts.append(part)
        return part

    # --- the supervisor's side

    def acquit(self) -> None:
        """The daemon itself ended the worker, which is gone: nothing that it executed is to blame, or runs again if it
        was to be stopped anyway."""
        for index in range(1 + self.async_slots):
            slot = self._read_slot(index)
            if slot is None or not slot.unwanted:
                self._words[self._slot_base(index)] = 0

    def mark_unwanted(self, ids: Container[int]) -> None:
        """Note which of these execute, for recovery: should the daemon be killed before they end, they have ended."""
        for index in range(1 + self.async_slots):
            slot = self._read_slot(index)
            if slot is not None and slot.job_id in ids:
                # The start names this one execution: should the slot be another's by now, this says nothing of that.
                self._words[self._slot_base(index) + _UNWANTED] = slot.started_ns

    @property
    def pid(self) -> int:
        """The worker's pid; 0 until it has started."""
        return self._words[_PID]

    @property
    def heartbeat(self) -> int:
        """Grows once a second while the async lane's loop turns."""
        return self._words[_HEARTBEAT]

    @property
    def lag(self) -> tuple[float, float]:
        """What `note_lag` said last, a second ago at most while the loop turns: milliseconds."""
        return self._words[_LAG_MAX] / 1000, self._words[_LAG_P999] / 1000

    @property
    def progress(self) -> int:
        """How many jobs have ended in this worker, one way or another."""
        return sum(self._words[self._slot_base(index) + _FINISHED] for index in range(1 + self.async_slots))

    def executing(self) -> list[Slot]:
        """What executes now, or was executing when the worker died."""
        return [slot for index in range(1 + self.async_slots) if (slot := self._read_slot(index)) is not None]

    def finished_unsent(self) -> list[int]:
        """Ids that completed without a result and may not have been told; meaningful once the worker is dead."""
        return [*self._read_ring("sync"), *self._read_ring("async")]

    def leftover(self) -> Leftover:
        """All that recovery wants to know."""
        words = self._words
        return Leftover(words[_RUN], words[_BOOT], words[_PID], self.executing(), self.finished_unsent())

    @staticmethod
    def _slot_base(index: int) -> int:
        return _FIRST_SLOT + index * _SLOT_WORDS

    def _ring_base(self, lane: Lane) -> int:
        first = _FIRST_SLOT + (1 + self.async_slots) * _SLOT_WORDS
        return first if lane == "sync" else first + _RING_WORDS

    def _read_slot(self, index: int) -> Slot | None:
        words, base = self._words, self._slot_base(index)
        job_id, attempt, started_ns, limit = words[base : base + 4]
        if job_id == 0 or words[base] != job_id or words[base + 1] != attempt or words[base + 2] != started_ns:
            return None
        unwanted = words[base + _UNWANTED] == started_ns
        return Slot(job_id, attempt, started_ns, limit - 1 if limit else None, "async" if index else "sync", unwanted)

    def _read_ring(self, lane: Lane) -> list[int]:
        base = self._ring_base(lane)
        count = min(self._words[base], DONE_RING_IDS)
        return [job_id for job_id in self._words[base + 1 : base + 1 + count] if job_id]


def _checked_length(fd: int) -> int:
    """The length of the page behind `fd`. Raises ValueError when the file is short, foreign or of another layout."""
    head = os.pread(fd, _FIRST_SLOT * 8, 0)
    if len(head) < _FIRST_SLOT * 8:
        raise ValueError("the file is too short for a recorder page")
    words = memoryview(head).cast("Q")
    if words[0] != _MAGIC or words[1] != _VERSION or words[_SLOTS] > _MAX_SLOTS:
        raise ValueError("the file is not a recorder page of this version")
    length = _words_needed(words[_SLOTS]) * 8
    if os.fstat(fd).st_size < length:
        raise ValueError("the recorder page is cut short")
    return length


def read_leftover(path: Path) -> Leftover | None:
    """Read a page that an earlier run left behind; None when it is missing, cut short or not a page."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        page = RecorderPage.from_fd(fd)
    except (OSError, ValueError):
        return None
    finally:
        os.close(fd)
    try:
        return page.leftover()
    finally:
        page.close()
