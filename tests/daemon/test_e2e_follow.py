"""Following jobs of a real daemon: by Python and on the command line, live, late, and over restarts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path

import pytest

from perdure.errors import DaemonStopping, NotFound
from perdure.wire.data import JobSpec
from perdure.wire.streams import Emitted, Entry, LogText, Progress, Skipped, StateChange
from tests.daemon.e2e import QUICK, await_executing, make_daemon, running
from tests.support.daemon import Daemon
from tests.support.wait import async_wait_until, wait_until

HANDLERS = ("tests.daemon.follow_handlers",)


def words(entries: Iterable[Entry | Skipped]) -> list[str]:
    """Entries in short; progress is not among them, as only the newest need arrive."""
    return [word for entry in entries for word in _words(entry)]


def _words(entry: Entry | Skipped) -> list[str]:
    match entry:
        case LogText():
            return entry.text.splitlines()
        case Emitted():
            return [f"value {entry.number} {entry.value}"]
        case StateChange():
            return [entry.state]
        case Skipped():
            return [f"skipped {entry}"]
    return []


def open_gates(folder: Path, *steps: int) -> None:
    for step in steps:
        (folder / f"gate{step}").touch()


def told(first: int, last: int, attempt: int = 1) -> list[str]:
    """What the handlers tell in these steps; lines and values are sorted each for themselves."""
    steps = range(first, last + 1)
    return [f"line {n} of attempt {attempt}" for n in steps] + [f'value {n} {{"step":{n}}}' for n in steps]


@contextlib.contextmanager
def follow_daemon(folder: Path, rest: str = QUICK) -> Iterator[Daemon]:
    with running(folder, rest, handlers=HANDLERS) as daemon:
        yield daemon


def args(folder: Path, steps: int) -> dict[str, object]:
    return {"gate": str(folder / "gate"), "steps": steps}


@pytest.mark.parametrize("kind", ["telling", "atelling"])
async def test_live_and_late_followers_get_the_same_story(tmp_path: Path, kind: str) -> None:
    """One from the beginning, one in the middle, one after the end: each hears everything once, in order."""
    with follow_daemon(tmp_path) as daemon:
        async with daemon.client() as client:
            job = await client.enqueue(kind, args(tmp_path, 3))
            heard: dict[str, list[Entry | Skipped]] = {"live": [], "late": []}

            async def listen(name: str) -> None:
                async for entry in client.follow(job.id):
                    heard[name].append(entry)

            live = asyncio.create_task(listen("live"))
            await async_wait_until(lambda: "running" in words(heard["live"]))
            open_gates(tmp_path, 1)
            await async_wait_until(lambda: "line 1 of attempt 1" in words(heard["live"]))
            late = asyncio.create_task(listen("late"))
            await async_wait_until(lambda: "line 1 of attempt 1" in words(heard["late"]))
            open_gates(tmp_path, 2, 3)
            await asyncio.gather(live, late)
            after = [entry async for entry in client.follow(job.id)]

            for name, entries in (*heard.items(), ("after", after)):
                got = [word for word in words(entries) if word not in ("available", "running", "completed")]
                assert sorted(got, key=lambda word: word.startswith("value")) == told(1, 3), name
                last = entries[-1]
                assert isinstance(last, StateChange), name
                assert (last.state, last.result) == ("completed", '"told"'), name
            bars = [entry for entry in heard["live"] if isinstance(entry, Progress)]
            assert bars[-1] == Progress(job.id, 3.0, 3.0, "step 3")
            status = await client.status()
            assert (status.subscribers, status.events_skipped) == (0, 0)


def test_queues_in_a_loop_without_asyncio(tmp_path: Path) -> None:
    """All jobs of a queue, those that come later too; and the loop may be left at any time."""
    with follow_daemon(tmp_path) as daemon, daemon.client() as client:
        seen: list[tuple[int, str]] = []
        news = client.follow_sync(queues="default", topics=["state", "log"])
        ids: list[int] = []
        feeder = threading.Thread(target=lambda: ids.extend(_feed(daemon)))
        wait_for_subscriber = threading.Thread(target=lambda: _when_subscribed(daemon, feeder))
        wait_for_subscriber.start()
        for entry in news:
            if isinstance(entry, StateChange):
                seen.append((entry.id, entry.state))
            if isinstance(entry, LogText):
                seen += [(entry.id, line) for line in entry.text.splitlines()]
            if sum(state in ("completed", "dead") for _, state in seen) == 2:
                break
        news.close()  # type: ignore[attr-defined]
        wait_for_subscriber.join()
        feeder.join()
        by_job = {job_id: [word for other, word in seen if other == job_id] for job_id in ids}
        assert by_job[ids[0]] == ["available", "running", "0 x", "completed"]
        assert by_job[ids[1]] == ["available", "running", "about to fail", "dead"]
        wait_until(lambda: client.status_sync().subscribers == 0, 10, "the subscription to be gone")


def _when_subscribed(daemon: Daemon, feeder: threading.Thread) -> None:
    wait_until(lambda: (status := daemon.status()) is not None and status.subscribers == 1, 10, "a subscriber")
    feeder.start()


def _feed(daemon: Daemon) -> list[int]:
    with daemon.client() as other:
        return [one.id for one in other.enqueue_many_sync([JobSpec("chatty", '{"lines": 1}'), JobSpec("failing")])]


async def test_who_leaves_leaves_nothing(tmp_path: Path) -> None:
    """A browser that closes its tab must not cost the daemon anything more."""
    with follow_daemon(tmp_path) as daemon:
        async with daemon.client() as client:
            job = await client.enqueue("telling", args(tmp_path, 1))
            async for _ in client.follow(job.id):
                break
            task = asyncio.create_task(_first(client.follow(everything=True, topics=["emit"])))
            await async_wait_until(lambda: _subscribers(daemon, 1))
            task.cancel()
            await async_wait_until(lambda: _subscribers(daemon, 0))
            with pytest.raises(NotFound, match="no job 99"):
                await _first(client.follow([job.id, 99]))
            assert await async_wait_until(lambda: _subscribers(daemon, 0))
            open_gates(tmp_path, 1)


async def _first(news: AsyncIterator[Entry | Skipped]) -> Entry | Skipped:
    return await anext(news)


def _subscribers(daemon: Daemon, count: int) -> bool:
    status = daemon.status()
    return status is not None and status.subscribers == count


async def test_a_stopping_daemon_says_so(tmp_path: Path) -> None:
    """A follower that only sees its connection break does not know whether to come back."""
    with follow_daemon(tmp_path) as daemon:
        async with daemon.client() as client:
            paused = await client.enqueue("telling", args(tmp_path, 1), delay="1h")
            news = aiter(client.follow(paused.id))
            await anext(news)
            daemon.send(signal.SIGTERM)
            with pytest.raises(DaemonStopping):
                await anext(news)


async def test_a_flood_is_counted_to_the_last_line(tmp_path: Path) -> None:
    """Whoever leaves lines out on the way, worker or supervisor: told and left out together are all that there were."""
    total = 100_000
    with follow_daemon(tmp_path) as daemon:
        async with daemon.client() as client:
            flood = await client.enqueue("chatty", {"lines": total, "text": "z" * 40}, delay="1h")
            told_lines = skipped_lines = 0
            news = client.follow(flood.id, topics=["state", "log"])
            assert words([await anext(news)]) == ["scheduled"]
            await client.retry(flood.id)
            async for entry in news:
                if isinstance(entry, LogText):
                    told_lines += entry.lines
                elif isinstance(entry, Skipped):
                    skipped_lines += entry.lines
            assert told_lines + skipped_lines == total
            assert told_lines > 0


# --- the command line


class Command:
    """A `perdure` command that runs beside the test."""

    def __init__(self, daemon: Daemon, *arguments: str) -> None:
        self.out_path = daemon.folder / "out"
        self.err_path = daemon.folder / "err"
        with self.out_path.open("w") as out, self.err_path.open("w") as err:
            command = [sys.executable, "-m", "perdure", *arguments]
            self.process = subprocess.Popen(command, cwd=daemon.folder, env=daemon.environ, stdout=out, stderr=err)

    @property
    def out(self) -> str:
        return self.out_path.read_text()

    def await_out(self, text: str) -> None:
        wait_until(lambda: text in self.out, 20, f"{text!r} in {self.out!r}; {self.err_path.read_text()!r}")

    def end(self) -> int:
        return self.process.wait(30)


def test_follow_several_jobs(tmp_path: Path) -> None:
    """Whose line is it, how did each end; and exit code 4, because one of them did not complete."""
    with follow_daemon(tmp_path) as daemon, daemon.client() as client:
        good = client.enqueue_sync("telling", args(tmp_path, 2)).id
        bad = client.enqueue_sync("failing").id
        command = Command(daemon, "follow", str(good), str(bad))
        command.await_out(f"{good} telling running, attempt 1")
        open_gates(tmp_path, 1, 2)
        assert command.end() == 4
        lines = command.out.splitlines()
        mine = [line for line in lines if line.startswith(f"{good} ")]
        assert [line for line in mine if "|" in line] == [f"{good} | line {n} of attempt 1" for n in (1, 2)]
        assert f'{good} = 1: {{"step":1}}' in mine
        assert mine[-1] == f'{good} telling completed: "told"'
        assert f"{bad} | about to fail" in lines
        assert f"{bad} failing dead: Permanent: on purpose" in lines


def test_follow_as_json(tmp_path: Path) -> None:
    """For programs: one object a line, with the words of the Python classes."""
    with follow_daemon(tmp_path) as daemon, daemon.client() as client:
        open_gates(tmp_path, 1)
        job = client.enqueue_sync("telling", args(tmp_path, 1)).id
        client.wait_sync(job)
        done = daemon.command("follow", str(job), "--json")
        assert done.returncode == 0, done.stderr
        objects = [json.loads(line) for line in done.stdout.splitlines()]
        assert [one["type"] for one in objects] == ["log", "emit", "state"]
        assert objects[0] == {
            "type": "log",
            "id": job,
            "text": "line 1 of attempt 1\n",
            "lines": 1,
            "earlier": True,
            "start": 0,
        }
        assert objects[1] == {
            "type": "emit",
            "id": job,
            "value": {"step": 1},
            "number": 1,
            "earlier": True,
            "attempt": 1,
        }
        assert (objects[2]["state"], objects[2]["result"], objects[2]["error"]) == ("completed", "told", None)


@pytest.mark.parametrize("words", [("follow",), ("logs", "-f")])
def test_a_restart_of_the_daemon_is_outlasted(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Each line once: those before the restart, and those of the attempt after it."""
    daemon = make_daemon(tmp_path, QUICK, daemon='drain_limit = "0.2s"', handlers=HANDLERS)
    try:
        daemon.start()
        with daemon.client() as client:
            job = client.enqueue_sync("telling", args(tmp_path, 3)).id
            await_executing(daemon, job)
            command = Command(daemon, *words, str(job))
            open_gates(tmp_path, 1)
            command.await_out("line 1 of attempt 1")
            daemon.stop()
            (tmp_path / "gate1").unlink()
            daemon.start()
            await_executing(daemon, job)
            open_gates(tmp_path, 1, 2, 3)
            assert command.end() == 0
        lines = [line for line in command.out.splitlines() if line.startswith("line")]
        assert lines[0] == "line 1 of attempt 1"
        assert [line[:6] for line in lines[1:]] == ["line 1", "line 2", "line 3"]
        assert len(lines) == 4
    finally:
        daemon.close()


@pytest.mark.parametrize("words", [("logs", "-f"), ("follow", "--topic", "log", "--topic", "emit", "--topic", "state")])
def test_workers_and_daemon_are_killed(tmp_path: Path, words: tuple[str, ...]) -> None:
    """What a worker had written down and not told when it was killed is told, and nothing is told twice."""
    daemon = make_daemon(tmp_path, QUICK, handlers=HANDLERS)
    try:
        daemon.start()
        with daemon.client() as client:
            job = client.enqueue_sync(
                "dying", {"gate": str(tmp_path / "gate"), "deaths": 2}, max_interruptions=9, delay="1h"
            ).id
            command = Command(daemon, *words, str(job))
            wait_until(lambda: _subscribers(daemon, 1), 10, "the subscription")
            client.retry_sync(job)
            command.await_out("last words of attempt 3")
            for attempt in (4, 5):
                daemon.kill()
                daemon.start()
                command.await_out(f"last words of attempt {attempt}")
            (tmp_path / "gate").touch()
            assert command.end() == 0
            log = daemon.command("logs", str(job)).stdout.splitlines()
        assert sum(line == "the same words" for line in log) == 6
        shown = [line for line in command.out.splitlines() if not line.startswith(f"{job} ")]
        assert shown == log
        if words[0] == "follow":
            rest = [line for line in command.out.splitlines() if line.startswith(f"{job} ")]
            values = [f'{job} = 1: "value of attempt {attempt}"' for attempt in range(1, 6)]
            assert [line for line in rest if "=" in line] == values
            states = [line.partition(":")[0].removeprefix(f"{job} dying ") for line in rest if "=" not in line]
            lives = [state for attempt in range(1, 6) for state in ("available", f"running, attempt {attempt}")]
            assert states == ["scheduled", *lives, "completed"]
    finally:
        daemon.close()


def test_the_end_while_the_daemon_drains_is_told(tmp_path: Path) -> None:
    """A job that ends on the way down: its follower would wait for the next daemon, which may never come."""
    with follow_daemon(tmp_path) as daemon, daemon.client() as client:
        job = client.enqueue_sync("telling", args(tmp_path, 1)).id
        command = Command(daemon, "follow", str(job))
        command.await_out("running")
        daemon.send(signal.SIGTERM)
        wait_until(lambda: "stop.begun" in daemon.log(), 10, "the stop to begin")
        open_gates(tmp_path, 1)
        assert command.end() == 0
        assert "line 1 of attempt 1" in command.out
        assert "completed" in command.out


def test_logs_of_a_large_log_miss_nothing(tmp_path: Path) -> None:
    """What a late follower is told is only the end of a large log; `logs -f` must print the rest as well."""
    with follow_daemon(tmp_path) as daemon, daemon.client() as client:
        job = client.enqueue_sync("chatty", {"lines": 8_000, "text": "y" * 50}).id
        client.wait_sync(job)
        assert daemon.command("logs", str(job)).stdout.count("\n") == 8_000
        done = daemon.command("logs", "-f", str(job))
        assert done.returncode == 0
        assert [line.split()[0] for line in done.stdout.splitlines()] == [str(n) for n in range(8_000)]


def test_enqueue_and_follow(tmp_path: Path) -> None:
    """The id on the first line, then the output as it comes, and the exit code of its end."""
    with follow_daemon(tmp_path) as daemon:
        command = Command(daemon, "enqueue", "telling", f"gate={tmp_path}/gate", "steps:=2", "--follow")
        open_gates(tmp_path, 1)
        command.await_out("1\nline 1 of attempt 1\n")
        open_gates(tmp_path, 2)
        assert command.end() == 0
        assert command.out == "1\nline 1 of attempt 1\nline 2 of attempt 1\n"
        failed = daemon.command("enqueue", "failing", "--follow")
        assert (failed.returncode, failed.stdout) == (4, "2\nabout to fail\n")
