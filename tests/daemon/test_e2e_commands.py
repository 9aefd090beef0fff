"""Commands as jobs of a real daemon: `perdure enqueue shell -- …`, and that nothing outlives whoever must end it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from perdure.adapters import kin
from perdure.client import Client
from perdure.daemon.strays import queue_mark
from tests.daemon.e2e import QUICK, await_executing, dead_letter, end_of, kill, make_daemon, query, running, workers_of
from tests.support.daemon import Daemon
from tests.support.wait import wait_until

SHELL = 'builtin_kinds = ["shell"]\ndrain_limit = "10s"'
RULES = '[shell]\nallow = ["/**"]\n' + QUICK.replace("[jobs]", 'cancel_grace = "1s"\n[jobs]')
#: Ignores what it is asked, and has a child that has left its group and ignores as much.
STUBBORN = "trap '' TERM HUP INT; setsid sh -c 'echo $$ > child; while :; do sleep 1000; done' & echo $$ > self; wait"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that may run anything."""
    with running(tmp_path_factory.mktemp("commands"), RULES, daemon=SHELL) as one:
        yield one
        wait_until(lambda: not strays(one), 10, "no command to be left")


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with daemon.client() as one:
        yield one


def strays(daemon: Daemon) -> list[str]:
    """Processes that commands of this daemon's jobs have started."""
    (store_id,) = query(daemon.folder, "SELECT store_id FROM identity")[0]
    mark = f"PERDURE_OWNER={queue_mark(store_id, daemon.folder / 'perdure.db')}/"
    return [str(one) for one in kin.everybody() if mark.encode() in one.environ]


def enqueue(client: Client, folder: Path, *argv: str, **options: object) -> int:
    """A command as a job."""
    return client.enqueue_sync("shell", {"argv": list(argv), "cwd": str(folder)}, **options).id  # type: ignore[arg-type]


def begun(folder: Path, *names: str) -> list[int]:
    """The pids that a command has written into these files, once it has."""

    def read() -> list[int]:
        return [
            int(text) for name in names if (folder / name).exists() and (text := (folder / name).read_text()).strip()
        ]

    return wait_until(lambda: pids if len(pids := read()) == len(names) else None, 20, f"{names} in {folder}")


def gone(*pids: int) -> bool:
    return all(kin.look(pid) is None for pid in pids)


# --- as a person has it


def test_a_command_from_the_shell(daemon: Daemon) -> None:
    """It would not feel like a task spooler: another folder, lost options, a log that comes at the end only."""
    script = daemon.folder / "nightly.sh"
    script.write_text('#!/bin/sh\necho "$PWD: $*"\necho to stderr >&2\nexit $2\n')
    script.chmod(0o755)
    done = daemon.command("enqueue", "shell", "--follow", "--", "./nightly.sh", "--fast", "0", "a b")
    job_id = int(done.stdout.splitlines()[0])
    assert done.stdout.splitlines()[1:] == [f"{daemon.folder}: --fast 0 a b", "to stderr"]
    assert (done.returncode, done.stderr) == (0, "")
    assert daemon.command("logs", str(job_id)).stdout == f"{daemon.folder}: --fast 0 a b\nto stderr\n"
    shown = msgspec.json.decode(daemon.command("show", str(job_id), "--json").stdout)
    assert shown["result"] == {"returncode": 0, "last_lines": f"{daemon.folder}: --fast 0 a b\nto stderr"}
    assert (shown["max_attempts"], shown["timeout_ms"]) == (1, None)
    failed = daemon.command("enqueue", "--wait", "shell", "--", "./nightly.sh", "x", "3")
    assert failed.returncode == 4
    assert "CommandFailed: ./nightly.sh x 3 exited with status 3; it wrote last:" in failed.stderr


def test_the_words_of_the_command_line(daemon: Daemon) -> None:
    """A forgotten `--` would enqueue something else, or nothing, without a word."""
    assert "two dashes: perdure enqueue shell -- ls" in daemon.command("enqueue", "shell", "ls").stderr
    assert "which command?" in daemon.command("enqueue", "shell").stderr
    assert "which command?" in daemon.command("enqueue", "shell", "--").stderr
    other = daemon.command("enqueue", "--follow", "shell", "cwd=/", "--", "pwd")
    assert other.stdout.splitlines()[1:] == ["/"]
    dashes = daemon.command("enqueue", "--follow", "--", "shell", "echo", "--follow", "a=b")
    assert dashes.stdout.splitlines()[1:] == ["--follow a=b"]
    plain = daemon.command("enqueue", "--wait", "shell", "--json", '{"argv": ["true"]}')
    assert plain.returncode == 0


def test_cancel_is_heard(daemon: Daemon, client: Client, tmp_path: Path) -> None:
    """`perdure cancel` would leave the command running, or wait for it for ever."""
    polite = enqueue(client, tmp_path, "sh", "-c", "echo $$ > polite; exec sleep 1000")
    rude = enqueue(client, tmp_path, "sh", "-c", STUBBORN)
    pids = begun(tmp_path, "polite", "self", "child")
    began = time.monotonic()
    done = daemon.command("cancel", str(polite), str(rude))
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 10
    assert gone(*pids)
    assert [end_of(client, job_id).state for job_id in (polite, rude)] == ["cancelled", "cancelled"]


def test_a_time_limit_is_kept(daemon: Daemon, client: Client, tmp_path: Path) -> None:
    """A command over its limit would take its worker along, and the jobs beside it."""
    pids = [worker.pid for worker in workers_of(daemon)]
    letter = dead_letter(client, enqueue(client, tmp_path, "sh", "-c", STUBBORN, timeout="1s"))
    assert "JobTimeout" in (letter.errors or "")
    assert gone(*begun(tmp_path, "self", "child"))
    assert [worker.pid for worker in workers_of(daemon)] == pids


# --- whoever must end it is killed


def test_a_killed_worker_leaves_no_command(daemon: Daemon, client: Client, tmp_path: Path) -> None:
    """The command would run twice at a time: the first in secret, the second beside it."""
    witness = "exec 9>lock; flock -n 9 || { echo twice >> twice; exit 1; }; echo $$ >> runs; "
    script = f"{witness} if [ $(wc -l < runs) = 1 ]; then {STUBBORN}; fi"
    job_id = enqueue(client, tmp_path, "sh", "-c", script)
    first = begun(tmp_path, "self", "child")
    (worker,) = [worker.pid for worker in workers_of(daemon) if job_id in worker.executing]
    kill(worker)
    assert end_of(client, job_id).state == "completed"
    assert gone(*first)
    assert not (tmp_path / "twice").exists()
    assert len((tmp_path / "runs").read_text().split()) == 2
    assert any(str(first[0]) in "".join(event["processes"]) for event in daemon.events("strays.ended"))


def test_workers_killed_while_commands_begin(daemon: Daemon, client: Client, tmp_path: Path) -> None:
    """A worker that dies between fork and exec would leave a process that nobody can tell from others."""
    for _ in range(8):
        ids = [enqueue(client, tmp_path, "sleep", "1000") for _ in range(6)]
        wait_until(lambda: any(worker.executing for worker in workers_of(daemon)))
        for worker in workers_of(daemon):
            if worker.pid:  # one that is being forked has none yet
                kill(worker.pid)
        client.cancel_sync(ids)
        assert {end_of(client, job_id).state for job_id in ids} == {"cancelled"}
        wait_until(lambda: not strays(daemon), 10, "no command to be left")


def test_a_daemon_that_was_meant_to_stay_stays(daemon: Daemon, client: Client, tmp_path: Path) -> None:
    """A server that a job has started would be killed because much later its worker dies."""
    job_id = enqueue(client, tmp_path, "sh", "-c", "setsid sh -c 'echo $$ > server; exec sleep 1000' & wait $!; :")
    assert job_id
    quick = enqueue(client, tmp_path, "sh", "-c", "setsid sh -c 'echo $$ > stays; exec sleep 1000' & sleep 0.3")
    assert end_of(client, quick).state == "completed"
    (stays,) = begun(tmp_path, "stays")
    (server,) = begun(tmp_path, "server")
    assert f"perdure: pid {stays}" in client.log_sync(quick).text
    for worker in workers_of(daemon):
        if worker.pid:
            kill(worker.pid)
    wait_until(lambda: len(daemon.events("strays.ended")) > 0 and gone(server), 10)
    assert not gone(stays)
    kill(stays)
    client.cancel_sync(job_id)


def test_killed_with_all_its_commands(tmp_path: Path) -> None:
    """After a crash of the daemon its commands would go on, beside those of the same jobs in the next run."""
    one = make_daemon(tmp_path / "killed", RULES, daemon=SHELL)
    try:
        one.start()
        with one.client() as client:
            stubborn = enqueue(
                client, tmp_path, "sh", "-c", f"echo $$ >> runs; [ $(wc -l < runs) = 1 ] || exit 0; {STUBBORN}"
            )
            quick = enqueue(client, tmp_path, "sh", "-c", "setsid sh -c 'echo $$ > stays; exec sleep 1000' & sleep 0.3")
            pids = begun(tmp_path, "self", "child", "stays")
            assert end_of(client, quick).state == "completed"
            await_executing(one, stubborn)
        one.kill()
        assert not gone(*pids[:2])
        one.start()
        assert gone(*pids[:2])
        assert not gone(pids[2])
        with one.client() as client:
            assert end_of(client, stubborn).state == "completed"
        assert len(one.events("strays.ended")[-1]["processes"]) >= 2
        kill(pids[2])
        wait_until(lambda: not strays(one))
        assert one.stop() == 0, one.log()
    finally:
        one.close()


def test_a_stop_that_is_cut_short_leaves_no_command(tmp_path: Path) -> None:
    """A stop of the service would leave its commands running."""
    one = make_daemon(tmp_path / "stopped", RULES, daemon='builtin_kinds = ["shell"]\ndrain_limit = "200ms"')
    try:
        one.start()
        with one.client() as client:
            job_id = enqueue(client, tmp_path, "sh", "-c", STUBBORN)
            pids = begun(tmp_path, "self", "child")
            await_executing(one, job_id)
        assert one.stop() == 0, one.log()
        assert gone(*pids)
        assert strays(one) == []
    finally:
        one.close()


def test_a_reload_waits_for_commands(daemon: Daemon, client: Client, tmp_path: Path) -> None:
    """A deploy would end the nightly backup."""
    os.mkfifo(tmp_path / "gate")
    job_id = enqueue(client, tmp_path, "sh", "-c", "echo $$ > self; read line < gate; echo $line")
    begun(tmp_path, "self")
    client.reload_sync()
    (tmp_path / "gate").write_text("go on\n")
    assert end_of(client, job_id).state == "completed"
    assert client.log_sync(job_id).text == "go on\n"


# --- ten gigabytes


@pytest.mark.channels_long
@pytest.mark.limit(900)
def test_ten_gigabytes_of_output(tmp_path: Path) -> None:
    """A command that prints more than there is memory, or disk, would take the worker along, or fill the disk."""
    size = 10 * 10**9
    with running(tmp_path, RULES, daemon=SHELL) as one, one.client() as client:
        end_of(client, enqueue(client, tmp_path, "echo", "warm"))
        before = {worker.pid: psutil.Process(worker.pid).memory_info().rss for worker in workers_of(one)}
        began = time.monotonic()
        text = "some line of a log, which is written by a program and has about a hundred characters, like this one"
        job_id = enqueue(client, tmp_path, "sh", "-c", f"yes '{text}' | head -c {size}", timeout="0")
        end = end_of(client, job_id, 800)
        took = time.monotonic() - began
        assert end.state == "completed"
        grown = {pid: psutil.Process(pid).memory_info().rss - rss for pid, rss in before.items()}
        print(
            f"10 GB of lines: {took:.1f} s, {size / took / 1e6:.0f} MB/s; workers grew by {grown} bytes",
            file=sys.stderr,
        )
        assert max(grown.values()) < 8 << 20
        status = one.status()
        assert status is not None
        print(f"loop lag of the worker: {[worker.loop_lag_ms_max for worker in status.workers]} ms", file=sys.stderr)
