"""Payloads and results that are files, with a real daemon: what arrives, what is left, and what it costs."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perdure.client import Client
from perdure.errors import InvalidOption, StoreFull, WrongState
from perdure.payload import prepare
from perdure.wire.control import Enqueue
from perdure.wire.data import Blob, JobSpec
from tests.daemon.e2e import QUICK, dead_letter, end_of, kill, make_daemon, query, running
from tests.support.daemon import Daemon
from tests.support.disks import small_disk_at
from tests.support.wait import wait_until

HANDLERS = ("tests.daemon.file_handlers",)
MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon for tests that leave it as it was."""
    with running(tmp_path_factory.mktemp("files"), handlers=HANDLERS) as one:
        yield one


def spool(daemon: Daemon) -> list[str]:
    """What is in the spool, hidden files included."""
    folder = daemon.folder / "perdure.db.d" / "spool"
    return sorted(os.listdir(folder)) if folder.exists() else []


def needed(daemon: Daemon) -> list[str]:
    """The files that the queue names."""
    rows = query(daemon.folder, "SELECT blob FROM jobs UNION ALL SELECT result_blob FROM jobs")
    blobs = [msgspec.json.decode(text, type=Blob) for (text,) in rows if text]
    return sorted({blob.spool for blob in blobs if blob.spool})


def result_of(client: Client, job_id: int) -> Any:
    """What it returned, once it has completed."""
    end = end_of(client, job_id)
    assert end.state == "completed", end
    return client.result_sync(job_id)


@pytest.mark.parametrize("how", ["named", "spooled", "bytes", "buffer"])
@pytest.mark.parametrize("kind", ["sum", "asum"])
def test_a_payload_reaches_its_handler(shared: Daemon, tmp_path: Path, how: str, kind: str) -> None:
    """It would be another one, cut, or none; by each way in and in both lanes."""
    content = os.urandom(400_000)
    file = tmp_path / "data"
    file.write_bytes(content)
    source = {"bytes": content, "buffer": memoryview(bytearray(content))}.get(how, file)
    with shared.client() as client:
        job_id = client.enqueue_sync(kind, blob=source, spool=how == "spooled").id
        if how == "spooled":
            file.unlink()
        found = result_of(client, job_id)
        assert (found if kind == "asum" else found["sha256"]) == hashlib.sha256(content).hexdigest()
        view = client.get_sync(job_id)
        assert view is not None
        blob = msgspec.json.decode(view.blob or "", type=Blob)
        assert (blob.size, blob.sha256) == (400_000, hashlib.sha256(content).hexdigest())
        assert bool(blob.spool) == (how != "named")


async def test_a_payload_and_a_result_from_coroutines(shared: Daemon) -> None:
    """The asynchronous twins would do something else."""
    async with shared.client() as client:
        placed = await client.enqueue("same", blob=b"12345")
        await client.wait(placed.id, 20)
        assert await client.result(placed.id) == b"12345"
        with await client.result_file(placed.id) as file:
            assert file.read() == b"12345"


def test_jobs_of_one_request_share_a_descriptor(shared: Daemon) -> None:
    """The file would be copied for each, or go with the first of them."""
    before = spool(shared)
    payload = prepare(b"shared")
    jobs = [JobSpec("same", blob_fd=0), JobSpec("same", blob_fd=0, delay_ms=3_600_000), JobSpec("describe")]
    with shared.client() as client:
        ask = client._threads.ask
        from perdure import asks

        placed = ask(asks.enqueue(jobs, False, payload.fds), 20)
        assert result_of(client, placed[0].id) == b"shared"
        assert result_of(client, placed[2].id) is None
        view = client.get_sync(placed[1].id)
        assert view is not None
        assert msgspec.json.decode(view.blob or "", type=Blob).spool in spool(shared)
        client.cancel_sync(placed[1].id)
    payload.close()
    assert len(spool(shared)) == len(before) + 2, "one payload and one result"


def test_a_duplicate_leaves_no_file(shared: Daemon) -> None:
    """Each attempt to enqueue the same job again would cost the disk its payload."""
    with shared.client() as client:
        first = client.enqueue_sync("same", blob=b"one", unique="k", delay="1h")
        before = spool(shared)
        again = client.enqueue_sync("same", blob=b"two", unique="k", delay="1h")
        assert (again.id, again.duplicate) == (first.id, True)
        assert spool(shared) == before
        client.cancel_sync(first.id)


def test_payloads_that_are_refused(shared: Daemon, tmp_path: Path) -> None:
    """A job would go in that can never run; or a client could have any file of the spool, or hang the daemon."""
    before = spool(shared)
    os.mkfifo(tmp_path / "fifo")
    reader, writer = os.pipe()
    good = Blob(0, "0" * 64, path="/dev/null")
    with shared.client() as client:
        for path in (tmp_path, tmp_path / "fifo", tmp_path / "gone", "/dev/zero"):
            with pytest.raises(InvalidOption):
                client.enqueue_sync("sum", blob=path)
        specs: list[JobSpec] = [
            JobSpec("sum", blob=good),
            JobSpec("sum", blob=Blob(1, "0" * 64, spool="a" * 32)),
            JobSpec("sum", blob=Blob(1, "0" * 64, path="relative")),
            JobSpec("sum", blob=Blob(1, "short", path="/etc/hostname")),
            JobSpec("sum", blob_fd=3),
            JobSpec("sum", blob_fd=-1),
        ]
        for spec in specs:
            with pytest.raises(InvalidOption, match=r"payload|regular file"):
                client.request_sync(Enqueue([spec]))
        from perdure import asks

        with pytest.raises(InvalidOption, match="regular file"):
            client._threads.ask(asks.enqueue([JobSpec("sum", blob_fd=0)], False, [reader]), 20)
        with pytest.raises(InvalidOption, match="priority"):
            client.enqueue_sync("sum", blob=b"x", priority=99)
    os.close(reader)
    os.close(writer)
    assert spool(shared) == before


def test_results_on_the_command_line(shared: Daemon, tmp_path: Path) -> None:
    """`perdure result ID > out` would give something else than what the handler made."""
    with shared.client() as client:
        written = client.enqueue_sync("write", {"size": 3_000_000}).id
        text = client.enqueue_sync("give", {"size": 2_000_000, "how": "text"}).id
        small = client.enqueue_sync("give", {"size": 3, "how": "text"}).id
        nothing = client.enqueue_sync("describe").id
        for job_id in (written, text, small, nothing):
            assert end_of(client, job_id).state == "completed"
        later = client.enqueue_sync("describe", delay="1h").id
        with pytest.raises(WrongState, match="is scheduled"):
            client.result_sync(later)
        assert client.result_sync(text) == "x" * 2_000_000
        assert client.result_sync(nothing) is None
        blob = msgspec.json.decode(client.get_sync(written).result_blob or "", type=Blob)  # type: ignore[union-attr]  # it is there
        for mode in ("wb", "ab"):
            out = tmp_path / "out"
            assert print_result(shared, written, out, mode) == 0
            assert out.stat().st_size == 3_000_000
            assert hashlib.sha256(out.read_bytes()).hexdigest() == blob.sha256
            out.unlink()
        piped = shared.command("result", str(text)).stdout
        assert json.loads(piped) == "x" * 2_000_000
        assert shared.command("result", str(small)).stdout == '"xxx"\n'
        assert shared.command("result", str(nothing)).stdout == "null\n"
        refused = shared.command("result", str(later))
        assert (refused.returncode, refused.stdout) == (5, "")
        shown = shared.command("show", str(written)).stdout
        assert "2.9 MiB" in shown
        assert f"perdure result {written}" in shown
        described = json.loads(shared.command("show", str(written), "--json").stdout)
        assert described["result_blob"]["sha256"] == blob.sha256
        nowhere = ["sh", "-c", f"exec '{sys.executable}' -m perdure result {written} >&-"]
        refused = subprocess.run(nowhere, cwd=shared.folder, env=shared.environ, capture_output=True, text=True)
        assert (refused.returncode, "stdout is closed" in refused.stderr) == (2, True)
        assert "Traceback" not in refused.stderr
        client.cancel_sync(later)
        with pytest.raises(WrongState, match="was cancelled, so it has no result; `perdure retry"):
            client.result_sync(later)


def print_result(daemon: Daemon, job_id: int, out: Path, mode: str) -> int:
    """`perdure result ID` with stdout in a file; its exit code."""
    with out.open(mode) as file:
        command = [sys.executable, "-m", "perdure", "result", str(job_id)]
        return subprocess.run(command, cwd=daemon.folder, env=daemon.environ, stdout=file, timeout=120).returncode


def test_a_changed_payload_kills_the_job_and_a_replay_mends_it(shared: Daemon, tmp_path: Path) -> None:
    """It would run on other data in silence; or could not be saved once the file is back."""
    file = tmp_path / "data"
    file.write_bytes(b"12345")
    found = file.stat()
    with shared.client() as client:
        job_id = client.enqueue_sync("asum", blob=file, delay="300ms").id
        file.write_bytes(b"123456")
        letter = dead_letter(client, job_id)
        assert "PayloadChanged" in letter.errors
        assert "--spool" in letter.errors
        assert str(file) in (letter.blob or "")
        file.write_bytes(b"12345")
        os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
        client.replay_sync(job_id)
        assert result_of(client, job_id) == hashlib.sha256(b"12345").hexdigest()


def test_a_killed_worker_leaves_nothing_in_the_spool(tmp_path: Path) -> None:
    """Half a result would stay, or be taken for one."""
    with running(tmp_path, handlers=HANDLERS) as daemon, daemon.client() as client:
        there = tmp_path / "there"
        job_id = client.enqueue_sync("write", {"size": 100_000, "wait_at": str(there)}, max_interruptions=1).id
        wait_until(lambda: there.exists() and there.read_text(), 20)
        assert len(spool(daemon)) == 1
        kill(int(there.read_text()))
        assert dead_letter(client, job_id).reason == "interruptions"
        wait_until(lambda: spool(daemon) == [], 20)


def test_a_killed_supervisor_keeps_what_it_has_acknowledged(tmp_path: Path) -> None:
    """An acknowledged job would have no payload, or half a copy would stay for ever."""
    daemon = make_daemon(tmp_path, handlers=HANDLERS)
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(8 << 30)
    try:
        daemon.start()
        with daemon.client() as client:
            kept = client.enqueue_sync("asum", blob=b"kept", delay="1s").id
            sending = make_sender(daemon, large)
            wait_until(lambda: any(name.endswith(".part") for name in spool(daemon)), 20)
            daemon.kill()
            assert sending.wait(30) == 3, "the client must not think that its job is in the queue"
        assert len(spool(daemon)) == 2
        daemon.start()
        with daemon.client() as client:
            assert result_of(client, kept) == hashlib.sha256(b"kept").hexdigest()
            assert spool(daemon) == needed(daemon)
            assert query(tmp_path, "SELECT count(*) FROM jobs") == [(1,)]
        assert daemon.stop() == 0
    finally:
        daemon.close()


def make_sender(daemon: Daemon, file: Path) -> Any:
    """A command that has a large file copied."""
    import subprocess
    import sys

    command = [sys.executable, "-m", "perdure", "enqueue", "sum", "--payload-file", str(file), "--spool"]
    return subprocess.Popen(command, cwd=daemon.folder, env=daemon.environ, stderr=subprocess.DEVNULL)


def test_a_client_that_dies_leaves_no_copy(tmp_path: Path) -> None:
    """The daemon would go on copying for nobody."""
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(8 << 30)
    with running(tmp_path, handlers=HANDLERS) as daemon:
        sending = make_sender(daemon, large)
        wait_until(lambda: spool(daemon) != [], 20)
        sending.send_signal(signal.SIGKILL)
        sending.wait()
        wait_until(lambda: spool(daemon) == [], 20)
        assert query(tmp_path, "SELECT count(*) FROM jobs") == [(0,)]


def test_a_full_disk_refuses_a_payload_and_keeps_nothing(tmp_path: Path) -> None:
    """Half a copy would take the last space, or the job would go in without its payload."""
    with small_disk_at(tmp_path / "disk", "6m") as disk:
        daemon = make_daemon(disk, handlers=HANDLERS)
        daemon.log_path = tmp_path / "daemon.log"
        try:
            daemon.start()
            with daemon.client() as client:
                with pytest.raises(StoreFull, match="no room for the payload"):
                    client.enqueue_sync("sum", blob=bytes(8 * MEBIBYTE))
                assert spool(daemon) == []
                assert len(result_of(client, client.enqueue_sync("same", blob=bytes(1000)).id)) == 1000
            assert query(disk, "SELECT count(*) FROM jobs") == [(1,)]
            assert daemon.stop() == 0
        finally:
            daemon.close()


def test_a_prune_and_a_retry_remove_files(tmp_path: Path) -> None:
    """Files of forgotten jobs would fill the disk."""
    with running(tmp_path, handlers=HANDLERS) as daemon, daemon.client() as client:
        job_id = client.enqueue_sync("same", blob=b"payload").id
        assert result_of(client, job_id) == b"payload"
        (first,) = {*spool(daemon)} - {payload_name(client, job_id)}
        client.retry_sync(job_id)
        assert result_of(client, job_id) == b"payload"
        assert first not in spool(daemon)
        assert len(spool(daemon)) == 2
    with running(tmp_path, QUICK + "[store]\nretention_count = 0\n", handlers=HANDLERS) as daemon:
        wait_until(lambda: spool(daemon) == [], 20)


def payload_name(client: Client, job_id: int) -> str:
    """The name of its payload in the spool."""
    view = client.get_sync(job_id)
    assert view is not None
    return msgspec.json.decode(view.blob or "", type=Blob).spool


def test_everything_works_without_a_daemon(tmp_path: Path) -> None:
    """Payloads could only be enqueued while the daemon runs, and results only be read then."""
    daemon = make_daemon(tmp_path, handlers=HANDLERS)
    file = tmp_path / "data"
    file.write_bytes(b"12345")
    try:
        named = int(daemon.command("enqueue", "asum", "--payload-file", "data").stdout)
        spooled = int(daemon.command("enqueue", "same", "--payload-file", "data", "--spool").stdout)
        wrong = daemon.command("enqueue", "same", "--payload-file", ".")
        assert (wrong.returncode, "regular file" in wrong.stderr) == (2, True)
        daemon.start()
        with daemon.client() as client:
            assert result_of(client, named) == hashlib.sha256(b"12345").hexdigest()
            assert result_of(client, spooled) == b"12345"
        assert daemon.stop() == 0
        assert daemon.command("result", str(spooled)).stdout == "12345"
        assert daemon.command("enqueue", "same", "--spool").returncode == 2
        assert daemon.command("enqueue", "--from", "-", "--payload-file", "data").returncode == 2
    finally:
        daemon.close()


def test_doctor_looks_into_the_spool(tmp_path: Path) -> None:
    """Nobody would learn of lost files before a job needs them, nor of those that are left over."""
    daemon = make_daemon(tmp_path, handlers=HANDLERS)
    (tmp_path / "data").write_bytes(b"12345")

    def found() -> dict[str, Any]:
        lines = daemon.command("doctor", "--json").stdout.splitlines()
        (finding,) = [one for one in map(json.loads, lines) if one["check"] == "spool"]
        return dict(finding)

    assert found()["level"] == "ok"
    daemon.command("enqueue", "same", "--payload-file", "data", "--spool")
    assert (found()["level"], found()["text"]) == ("ok", "1 file, 5 B")
    (name,) = spool(daemon)
    folder = tmp_path / "perdure.db.d" / "spool"
    (folder / name).rename(tmp_path / "kept")
    assert found()["level"] == "FAIL"
    assert name in found()["text"]
    (tmp_path / "kept").rename(folder / name)
    (folder / ("f" * 32)).write_bytes(b"new")
    assert found()["level"] == "ok", "a young one may be on its way into the queue"


def forget_peak(daemon: Daemon) -> int:
    """Let the kernel begin anew with the most memory that the supervisor has had; what it has now, in bytes."""
    Path(f"/proc/{daemon.pid}/clear_refs").write_text("5")
    return peak_of(daemon)


def peak_of(daemon: Daemon) -> int:
    """The most memory (RSS) that the supervisor has had since, in bytes."""
    lines = Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
    (peak,) = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(peak) * 1024


def carry(tmp_path: Path, size: int) -> None:
    """A payload by path, the same by --spool, and a result of that size; the supervisor's memory stays as it is."""
    content = tmp_path / "content"
    with content.open("wb") as file:
        piece = os.urandom(MEBIBYTE)
        for number in range(size // MEBIBYTE):
            file.write(number.to_bytes(8) + piece[8:])
    with content.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    folder = tmp_path / "queue"
    with running(folder, handlers=HANDLERS) as daemon, daemon.client(600) as client:
        # What the first of its kind costs once: threads, their buffers, what is imported late.
        for _ in range(3):
            result_of(client, client.enqueue_sync("same", blob=bytes(MEBIBYTE)).id)
            result_of(client, client.enqueue_sync("sum", blob=__file__).id)
        before = forget_peak(daemon)
        figures = {}
        for spooled in (False, True):
            begun = time.monotonic()
            job_id = client.enqueue_sync("sum", blob=content, spool=spooled).id
            figures["spooled" if spooled else "named"] = round(time.monotonic() - begun, 2)
            assert end_of(client, job_id, 300).state == "completed"
            told = client.result_sync(job_id)
            assert (told["sha256"], told["size"]) == (sha256, size)
            figures[f"handed over, ms ({spooled=})"] = round(told["handed_over_ms"], 3)
            assert told["handed_over_ms"] <= 5, told
        job_id = client.enqueue_sync("write", {"size": size}).id
        assert end_of(client, job_id, 300).state == "completed"
        begun = time.monotonic()
        assert print_result(daemon, job_id, tmp_path / "out", "wb") == 0
        figures["fetched"] = round(time.monotonic() - begun, 2)
        assert (tmp_path / "out").stat().st_size == size
        grown = peak_of(daemon) - before
        print(f"{size >> 20} MiB: {figures}, supervisor grew by {grown >> 10} KiB at most")
        assert grown < MEBIBYTE


def test_large_files_cost_the_supervisor_nothing(tmp_path: Path) -> None:
    """A payload or a result would go through the supervisor's memory."""
    carry(tmp_path, 32 * MEBIBYTE)


@pytest.mark.channels_long
@pytest.mark.limit(600)
def test_a_gibibyte_costs_the_supervisor_nothing(tmp_path: Path) -> None:
    """The same with the size that is promised."""
    carry(tmp_path, 1024 * MEBIBYTE)
