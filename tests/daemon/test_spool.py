"""The spool folder: copies that are whole or not there, names that lead nowhere else, and sweeping."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import stat
import threading
from collections.abc import Collection
from pathlib import Path

import msgspec
import pytest

from perdure.daemon import spool_file
from perdure.daemon.spool import Spool, check_path, copy_file, explain, look, partials_of, remove_files
from perdure.daemon.spool_file import SpoolFile, check_unchanged, open_spooled
from perdure.errors import InvalidOption, NotFound, PayloadChanged, StoreFull
from perdure.store.models import Committed, Turn
from perdure.wire.data import Blob
from tests.support.disks import small_disk_at

NOBODY = threading.Event()
LIMIT = 1 << 30


def names(folder: Path) -> list[str]:
    """What is in the spool."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def copy(folder: Path, source: Path, limit: int = LIMIT) -> Blob:
    """Into the spool, as the supervisor does it."""
    fd = os.open(source, os.O_RDONLY)
    try:
        return copy_file(str(folder), fd, limit, NOBODY)
    finally:
        os.close(fd)


@pytest.mark.parametrize("size", [0, 1, spool_file.CHUNK_BYTES, 3 * spool_file.CHUNK_BYTES + 7])
def test_a_copy_is_the_file(tmp_path: Path, size: int) -> None:
    """A payload would arrive cut, or with a digest that is not its own."""
    content = os.urandom(size)
    (tmp_path / "source").write_bytes(content)
    blob = copy(tmp_path / "spool", tmp_path / "source")
    assert (blob.size, blob.sha256) == (size, hashlib.sha256(content).hexdigest())
    assert names(tmp_path / "spool") == [blob.spool]
    whole = tmp_path / "spool" / blob.spool
    assert whole.read_bytes() == content
    assert stat.S_IMODE(whole.stat().st_mode) == 0o400
    assert stat.S_IMODE(whole.parent.stat().st_mode) == 0o700


def test_the_position_of_a_shared_descriptor_does_not_matter(tmp_path: Path) -> None:
    """Two jobs of one client, or a client that has read its file, would send the rest of it only."""
    (tmp_path / "source").write_bytes(b"0123456789")
    fd = os.open(tmp_path / "source", os.O_RDONLY)
    os.lseek(fd, 7, os.SEEK_SET)
    assert copy_file(str(tmp_path / "spool"), fd, LIMIT, NOBODY).size == 10
    assert os.lseek(fd, 0, os.SEEK_CUR) == 7
    os.close(fd)


def test_only_files_are_copied(tmp_path: Path) -> None:
    """A pipe that never ends, or a folder, would hold a thread of the supervisor for ever."""
    reader, writer = os.pipe()
    os.mkfifo(tmp_path / "fifo")
    descriptors = [
        reader,
        writer,
        os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY),
        os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK),
        os.open("/dev/zero", os.O_RDONLY),
        os.open(tmp_path / "unread", os.O_WRONLY | os.O_CREAT),
    ]
    for fd in descriptors:
        with pytest.raises(InvalidOption, match="regular file"):
            copy_file(str(tmp_path / "spool"), fd, LIMIT, NOBODY)
        os.close(fd)
    assert names(tmp_path / "spool") == []


def test_what_is_too_large_is_refused_before_it_is_copied(tmp_path: Path) -> None:
    """One client could fill the disk."""
    (tmp_path / "source").write_bytes(b"12345")
    with pytest.raises(InvalidOption, match=r"5 bytes; at most 4 .*limits\.blob"):
        copy(tmp_path / "spool", tmp_path / "source", 4)


def test_a_client_that_goes_away_ends_its_copy(tmp_path: Path) -> None:
    """Gigabytes would be copied for nobody, and stay."""
    (tmp_path / "source").write_bytes(bytes(2 * spool_file.CHUNK_BYTES))
    gone = threading.Event()
    gone.set()
    fd = os.open(tmp_path / "source", os.O_RDONLY)
    with pytest.raises(InvalidOption, match="gone"):
        copy_file(str(tmp_path / "spool"), fd, LIMIT, gone)
    os.close(fd)
    assert names(tmp_path / "spool") == []


def test_a_source_that_changes_under_the_copy_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job would get half of the old file and half of the new one."""
    source = tmp_path / "source"
    source.write_bytes(bytes(3 * spool_file.CHUNK_BYTES))
    write = SpoolFile.write

    def cut(made: SpoolFile, data: memoryview) -> None:
        write(made, data)
        os.truncate(source, spool_file.CHUNK_BYTES)

    monkeypatch.setattr(SpoolFile, "write", cut)
    with pytest.raises(InvalidOption, match="written to while it was copied"):
        copy(tmp_path / "spool", source)
    assert names(tmp_path / "spool") == []


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """Half a file would take the space that is missing."""
    source = tmp_path / "source"
    source.write_bytes(bytes(3 << 20))
    with small_disk_at(tmp_path / "disk", "1m") as disk:
        with pytest.raises(OSError, match="No space left") as caught:
            copy(disk / "spool", source)
        assert names(disk / "spool") == []
        assert isinstance(explain(caught.value, disk), StoreFull)
        source.write_bytes(b"small")
        assert copy(disk / "spool", source).size == 5
    assert isinstance(explain(OSError(errno.EDQUOT, "quota"), tmp_path), StoreFull)


def test_a_file_that_cannot_be_locked_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without locks each try would cost a descriptor and leave a file."""

    def refuse(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr("fcntl.flock", refuse)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="no locks"):
        SpoolFile(str(tmp_path / "spool"))
    assert (names(tmp_path / "spool"), len(os.listdir("/proc/self/fd"))) == ([], before)


@pytest.mark.parametrize("name", ["../queue.db", "/etc/passwd", "", ".", "a" * 31, "A" * 32, f"{'a' * 32}/x", "a\0b"])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    """A result could be made to be any file that the daemon may read, or a prune could remove it."""
    with pytest.raises(FileNotFoundError):
        open_spooled(str(tmp_path), name)
    (tmp_path / "queue.db").write_text("here")
    (tmp_path / "spool").mkdir()
    remove_files(tmp_path / "spool", [name])
    assert (tmp_path / "queue.db").exists()


async def test_a_link_in_the_folder_is_not_followed(tmp_path: Path) -> None:
    """Whoever can write there could have the daemon hand out any file."""
    (tmp_path / "secret").write_text("s")
    spool = Spool(tmp_path / "spool", LIMIT)
    spool.folder.mkdir()
    name = "b" * 32
    (spool.folder / name).symlink_to(tmp_path / "secret")
    with pytest.raises(NotFound, match="job 7"):
        await spool.open_result(7, Blob(1, "", spool=name))
    assert look(spool.folder, 0).whole == [name]
    remove_files(spool.folder, [name])
    assert (tmp_path / "secret").exists()
    assert names(spool.folder) == []


class _Store:
    """Needs these files."""

    def __init__(self, *needed: str) -> None:
        self._needed = needed

    async def unneeded_files(self, names: Collection[str]) -> list[str]:
        return [name for name in names if name not in self._needed]


async def test_a_sweep_takes_what_is_nobodys(tmp_path: Path) -> None:
    """Orphans would fill the disk; or a file would go that a job needs, that is being written, or that is strange."""
    (tmp_path / "source").write_bytes(b"12345")
    spool = Spool(tmp_path / "spool", LIMIT)
    needed, orphan, pending = (copy(spool.folder, tmp_path / "source").spool for _ in range(3))
    spool.pending.add(pending)
    living, dead = SpoolFile(str(spool.folder)), SpoolFile(str(spool.folder))
    os.close(dead.fd)
    (spool.folder / "README").write_text("mine")
    store = _Store(needed)
    assert await spool.sweep(store, min_age_seconds=60) == []  # type: ignore[arg-type]  # all that a sweep asks for
    swept = await spool.sweep(store)  # type: ignore[arg-type]  # all that a sweep asks for
    left = ["README", needed, pending, os.path.basename(living.partial)]
    assert sorted(swept) == sorted([orphan, os.path.basename(dead.partial)])
    assert names(spool.folder) == sorted(left)
    assert partials_of(spool.folder, os.getpid()) == []
    living.discard()


async def test_a_sweep_of_no_folder_is_no_harm(tmp_path: Path) -> None:
    """A daemon that never had a file could not start."""
    assert await Spool(tmp_path / "none", LIMIT).sweep(_Store()) == []  # type: ignore[arg-type]  # all it asks for


async def test_copies_run_in_threads_and_close_what_they_got(tmp_path: Path) -> None:
    """The loop would stand still, or the supervisor would run out of descriptors."""
    (tmp_path / "source").write_bytes(b"12345")
    spool = Spool(tmp_path / "spool", LIMIT)
    fds = [os.open(tmp_path / "source", os.O_RDONLY), os.open(tmp_path, os.O_RDONLY)]
    good, bad = (asyncio.wrap_future(spool.copy(fd, NOBODY)) for fd in fds)
    assert (await good).size == 5
    with pytest.raises(InvalidOption):
        await bad
    for fd in fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    spool.close()


def test_named_payloads_are_looked_at(tmp_path: Path) -> None:
    """The job would find out hours later that the daemon may not read its payload, or has another one."""
    source = tmp_path / "source"
    source.write_bytes(b"12345")
    found = source.stat()
    blob = Blob(5, "ab", path=str(source), mtime_ns=found.st_mtime_ns)
    check_path(blob)
    os.mkfifo(tmp_path / "fifo")
    for wrong in (
        Blob(6, "ab", path=str(source), mtime_ns=found.st_mtime_ns),
        Blob(5, "ab", path=str(source), mtime_ns=1),
        Blob(5, "ab", path=str(tmp_path / "gone")),
        Blob(5, "ab", path=str(tmp_path / "fifo")),
        Blob(5, "ab", path=str(tmp_path)),
    ):
        with pytest.raises(InvalidOption):
            check_path(wrong)


def test_a_touched_payload_is_read_again(tmp_path: Path) -> None:
    """A copy to and fro would kill the job; or a changed file of the same size would pass."""
    source = tmp_path / "source"
    source.write_bytes(b"12345")
    blob = Blob(5, hashlib.sha256(b"12345").hexdigest(), path=str(source), mtime_ns=1)
    fd = os.open(source, os.O_RDWR)
    check_unchanged(fd, blob, "it")
    os.pwrite(fd, b"x", 2)
    with pytest.raises(PayloadChanged, match="another content"):
        check_unchanged(fd, blob, "it")
    os.ftruncate(fd, 2)
    with pytest.raises(PayloadChanged, match="2 bytes, and had 5"):
        check_unchanged(fd, blob, "it")
    os.close(fd)


def test_results_that_come_too_late_are_named() -> None:
    """The file of an outcome that was refused would stay; or a sweep would take one that is about to be committed."""
    spool = Spool(Path("/nowhere"), LIMIT)
    blobs = [msgspec.json.encode(Blob(1, "", spool=name)).decode() for name in ("a", "b", "c")]
    assert spool.told([(1, blobs[0]), (2, blobs[1]), (3, blobs[2])], stale=[2]) == ["b"]
    assert spool.pending == {"a", "c"}
    turn = Turn(0, spooled=[(1, 7, blobs[0]), (3, 7, blobs[2])])
    assert spool.committed(turn, Committed(stale=[(3, 7), (1, 6)])) == ["c"]
    assert spool.pending == set()
