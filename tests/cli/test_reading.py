"""The commands that read: tables for people, documents for programs, and words where there is nothing."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from perdure.cli.jobs_cmd import STATES
from perdure.errors import DaemonUnreachable, MessageTooLarge
from perdure.wire import control
from perdure.wire.data import DeadView, JobView, KindSpec, Param, QueueView
from tests.cli.conftest import Cli, FakeQueue


def now() -> int:
    """The moment, in epoch milliseconds: views are made as tests need them."""
    return int(time.time() * 1000)


def errors() -> str:
    """One failed attempt, a minute ago."""
    entry = {
        "attempt": 1,
        "at": now() - 60_000,
        "type": "ValueError",
        "message": "no such \x1b[31mfile",
        "retryable": True,
        "traceback": 'Traceback (most recent call last):\n  File "jobs.py", line 3\nValueError: no such file',
        "cause": {"type": "OSError", "message": "gone"},
        "exit": {"signal": 9},
    }
    return json.dumps([entry])


def job(job_id: int, **fields: Any) -> JobView:
    """A job that completed a while ago."""
    usual: dict[str, Any] = {
        "kind": "hello",
        "queue": "default",
        "state": "completed",
        "priority": 0,
        "args": '{"name": "Ada"}',
        "attempt": 1,
        "max_attempts": 5,
        "interruptions": 0,
        "max_interruptions": 3,
        "created_at": now() - 200_000,
        "scheduled_at": now() - 200_000,
        "attempted_at": now() - 185_500,
        "finalized_at": now() - 185_000,
    }
    return JobView(id=job_id, **{**usual, **fields})


def letter(job_id: int, **fields: Any) -> DeadView:
    """A dead letter that waits for a decision."""
    usual: dict[str, Any] = {
        "kind": "hello",
        "queue": "default",
        "priority": 0,
        "args": '{"name": "Ada"}',
        "last_args": '{"name": "Bob"}',
        "attempt": 5,
        "max_attempts": 5,
        "interruptions": 0,
        "max_interruptions": 3,
        "created_at": now() - 400_000,
        "died_at": now() - 3_700_000,
        "deaths": 2,
        "reason": "attempts",
        "fingerprint": "abc",
        "errors": errors(),
        "history": json.dumps([{"at": now() - 90_000, "who": "ada", "action": "replayed", "set": {"name": "Bob"}}]),
    }
    return DeadView(id=job_id, **{**usual, **fields})


def test_jobs_as_a_table(cli: Cli, queue: FakeQueue) -> None:
    """People look here first: every column must be there and aligned."""
    queue.answers[control.ListJobs] = [
        job(12),
        job(7, state="scheduled", finalized_at=None, attempted_at=None, scheduled_at=now() + 330_000, attempt=0),
        job(3, state="parked", park_reason="kind:nobody", finalized_at=None),
    ]
    code, out, err = cli("jobs")
    assert (code, err) == (0, "")
    head, first, second, third = out.splitlines()
    assert head.split() == ["ID", "STATE", "KIND", "QUEUE", "TRY", "WHEN", "ARGUMENTS"]
    assert first.split(maxsplit=7) == ["12", "completed", "hello", "default", "1/5", "3m", "ago", '{"name": "Ada"}']
    assert "in 5m" in second
    assert "parked (kind:nobody)" in third
    assert head.index("STATE") == first.index("completed") == third.index("parked")


def test_filters_and_pages(cli: Cli, queue: FakeQueue) -> None:
    """A limit over the daemon's must be fetched in pages, without a gap or a job twice."""
    stock = [job(job_id) for job_id in range(2500, 0, -1)]

    def page(request: control.ListJobs) -> list[JobView]:
        which = request.filter
        assert (which.states, which.queue, which.kind, which.tag) == (["completed", "running"], "q", "k", "t")
        below = [one for one in stock if which.before is None or one.id < which.before]
        return below[: which.limit]

    queue.answers[control.ListJobs] = page
    filters = ("--state", "completed", "--state", "running", "--queue", "q", "--kind", "k", "--tag", "t")
    code, out, _ = cli("jobs", "--json", "--limit", "2200", *filters)
    assert code == 0
    assert [json.loads(line)["id"] for line in out.splitlines()] == list(range(2500, 300, -1))


def test_json_has_every_field_and_real_json_in_it(cli: Cli, queue: FakeQueue) -> None:
    """A program would have to parse JSON inside of JSON, or to guess which keys are there."""
    queue.answers[control.GetJob] = job(12, args='{"x": 1.10}', tags='["a"]', result=None)
    code, out, _ = cli("show", "12", "--json")
    assert code == 0
    assert '"args":{"x": 1.10}' in out
    found = json.loads(out)
    assert found["tags"] == ["a"]
    assert found["errors"] == []
    assert found["result"] is None
    assert found["park_reason"] is None


def test_show_tells_everything_and_steers_no_terminal(cli: Cli, queue: FakeQueue) -> None:
    """An error message with escape codes could rewrite the screen of whoever reads it."""
    queue.answers[control.GetJob] = job(12, errors=errors(), tags='["nightly"]', unique_key="k", result="[1,2]")
    code, out, _ = cli("show", "12")
    assert code == 0
    for words in (
        '"name": "Ada"',
        "attempt 1, ",
        "(1m ago)",
        "ValueError: no such \\x1b[31mfile",
        'File "jobs.py", line 3',
        "caused by OSError: gone",
        "exit: signal 9",
        "nightly",
        "unique key",
        "result",
        "took",
    ):
        assert words in out
    assert "\x1b" not in out


def test_show_finds_dead_jobs_and_says_so_when_there_is_none(cli: Cli, queue: FakeQueue) -> None:
    """A job that died is the one people look for."""
    code, out, err = cli("show", "77")
    assert (code, out) == (1, "")
    assert err.startswith("perdure: no job 77; ")
    queue.answers[control.GetDead] = letter(77)
    assert json.loads(cli("show", "77", "--json").out)["state"] == "dead"
    assert "its attempts are used up" in cli("show", "77").out


def test_dead_list_and_show(cli: Cli, queue: FakeQueue) -> None:
    """The whole story: both arguments, the error, who replayed it."""
    queue.answers[control.ListDead] = [letter(77)]
    queue.answers[control.GetDead] = letter(77)
    table = cli("dead", "list").out
    assert "ValueError: no such" in table
    assert "1h ago" in table
    story = cli("dead", "show", "77").out
    for words in (
        "arguments as last run",
        '"name": "Bob"',
        '"name": "Ada"',
        "history",
        "ada",
        "perdure dead replay 77",
    ):
        assert words in story
    assert json.loads(cli("dead", "show", "77", "--json").out)["history"][0]["who"] == "ada"


def test_dead_export_writes_all_pages(cli: Cli, queue: FakeQueue, folder: Path) -> None:
    """An export that stops at the daemon's page size would look complete."""
    stock = [letter(job_id) for job_id in range(1, 1502)]

    def page(request: control.ListDead) -> list[DeadView]:
        start = 0 if request.filter.after is None else request.filter.after
        return stock[start : start + request.filter.limit]

    queue.answers[control.ListDead] = page
    assert cli("dead", "export", "--output", "out.jsonl") == (0, "", "")
    lines = (folder / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == list(range(1, 1502))
    assert len(cli("dead", "export").out.splitlines()) == 1501


def test_a_daemon_that_allows_shorter_lists(cli: Cli, queue: FakeQueue) -> None:
    """With a small limits.list, an export would end after the first page and look complete."""
    letters, jobs = [letter(job_id) for job_id in range(1, 31)], [job(job_id) for job_id in range(30, 0, -1)]

    def some(entries: list[Any], last: int | None) -> list[Any]:
        start = 0 if last is None else [entry.id for entry in entries].index(last) + 1
        return entries[start : start + 7]

    queue.answers[control.ListDead] = lambda request: some(letters, request.filter.after)
    queue.answers[control.ListJobs] = lambda request: some(jobs, request.filter.before)
    assert len(cli("dead", "export").out.splitlines()) == 30
    assert len(cli("jobs", "--json").out.splitlines()) == 30


def test_entries_too_large_for_one_message(cli: Cli, queue: FakeQueue) -> None:
    """A few jobs with large arguments would make the list of all of them impossible."""
    stock = [letter(job_id) for job_id in range(1, 31)]

    def page(request: control.ListDead) -> list[DeadView]:
        if request.filter.limit > 3:
            raise MessageTooLarge("the message has 300,000,000 bytes")
        start = 0 if request.filter.after is None else request.filter.after
        return stock[start : start + request.filter.limit]

    queue.answers[control.ListDead] = page
    assert len(cli("dead", "export").out.splitlines()) == 30


def test_an_export_that_fails_leaves_no_file(cli: Cli, queue: FakeQueue, folder: Path) -> None:
    """Half an export under its full name would pass for a whole one; the one from yesterday must stay."""
    pages = iter([[letter(1)]])

    def page(request: control.ListDead) -> list[DeadView]:
        return next(pages, KeyboardInterrupt())  # type: ignore[arg-type]

    queue.answers[control.ListDead] = page
    (folder / "out.jsonl").write_text("yesterday's")
    before = set(folder.iterdir())
    assert cli("dead", "export", "-o", "out.jsonl").code == 130
    assert (folder / "out.jsonl").read_text() == "yesterday's"
    assert set(folder.iterdir()) == before


def test_who_looks_for_a_job_that_has_died_is_told_where_it_is(cli: Cli, queue: FakeQueue) -> None:
    """Dead jobs are in a list of their own: in the other one they are missing, as if they had been lost."""
    queue.answers[control.ListJobs] = [job(1)]
    queue.answers[control.ListDead] = [letter(2)]
    assert cli("jobs", tty=True).err == "dead jobs are in another list: perdure dead list\n"
    assert cli("jobs", "--kind", "hello", tty=True).err == ""


def test_an_export_that_cannot_be_written_names_its_file(cli: Cli, queue: FakeQueue, folder: Path) -> None:
    """The error would name a file that nobody has asked for."""
    code, out, err = cli("dead", "export", "-o", "nowhere/x")
    assert (code, out, err) == (1, "", "perdure: nowhere/x: No such file or directory\n")


def test_queues_fit_a_narrow_terminal(cli: Cli, queue: FakeQueue) -> None:
    """A table that wraps cannot be read."""
    counts = dict.fromkeys(STATES, 12_345)
    queue.answers[control.ListQueues] = [QueueView("a-queue-with-a-long-name", counts, now(), "somebody")]
    lines = cli("queue", "list", tty=True).out.splitlines()
    assert [len(re.sub(r"\x1b\[[0-9;]*m", "", line)) <= 80 for line in lines] == [True, True]


def test_queues_with_limits(cli: Cli, queue: FakeQueue) -> None:
    """Nobody could see how near a queue is to its limit, or what happens there."""
    counts = dict.fromkeys(STATES, 2_000)
    queue.answers[control.ListQueues] = [
        QueueView("mail", counts, max_depth=10_000, when_full="block", pressure=0.8),
        QueueView("sms", {"available": 3}, max_depth=9, max_age_ms=90_000, when_full="shed", pressure=1.25),
        QueueView("free", {"available": 3}),
    ]
    out = cli("queue", "list").out
    rows = [line.split() for line in out.splitlines()]
    assert rows[0][8:11] == ["DEPTH", "FULL", "THEN"]
    assert rows[1][8:11] == ["8,000/10,000", "80%", "block"]
    assert "3/9 or 1m 30s" in out
    assert "125%" in out
    assert rows[3][8:11] == ["3", "-", "-"]
    lines = cli("queue", "list", tty=True).out.splitlines()
    assert [len(re.sub(r"\x1b\[[0-9;]*m", "", line)) <= 80 for line in lines] == [True] * 4
    assert "block" in lines[1]
    assert json.loads(cli("queue", "list", "--json").out.splitlines()[1])["pressure"] == 1.25


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["jobs"], "no jobs yet; try: perdure enqueue"),
        (["jobs", "--kind", "x"], "no job matches"),
        (["jobs", "--kind", ""], "no job matches"),
        (["dead", "list"], "no dead letters"),
        (["queue", "list"], "no queues yet"),
        (["dead", "replay", "--all"], "no dead letter waits"),
    ],
)
def test_empty_states_help(cli: Cli, queue: FakeQueue, arguments: list[str], words: str) -> None:
    """An empty table leaves a beginner alone; with --json nothing but documents may be printed."""
    code, out, _ = cli(*arguments)
    assert code == 0
    assert out.startswith(words)
    assert cli(*arguments, "--json").out == ""


def test_queues(cli: Cli, queue: FakeQueue) -> None:
    """Counts per state, and who paused it."""
    queue.answers[control.ListQueues] = [QueueView("mail", {"available": 1200}, now() - 61_000, "ada")]
    out = cli("queue", "list").out
    assert "1,200" in out
    assert "1m ago by ada" in out
    assert json.loads(cli("queue", "list", "--json").out)["counts"] == {"available": 1200}


def test_kinds(cli: Cli, queue: FakeQueue) -> None:
    """What may be enqueued, and with which arguments."""
    params = [Param("path", "str", True), Param("lang", "str", False)]
    queue.answers[control.ListKinds] = [KindSpec("ingest", "async", params, doc="Take a file in.\n\nMore.")]
    out = cli("kinds").out
    assert "path: str, lang?: str" in out
    assert "Take a file in." in out
    assert json.loads(cli("kinds", "--json").out)["params"][0] == {"name": "path", "type": "str", "required": True}


def test_kinds_fit_a_screen_and_say_what_they_need(cli: Cli, queue: FakeQueue) -> None:
    """Wide lines wrap into each other; and which kinds wait when a database is away could not be seen."""
    from perdure.cli.text import cells

    params = [Param(f"parameter_{n}", "dict[str, list[int]]", False) for n in range(5)]
    queue.answers[control.ListKinds] = [
        KindSpec("qdrant.upsert", "async", params, queue="vectors", needs=["qdrant", "billing-api"], doc="Long. " * 40),
        KindSpec("plain", "sync", [], max_attempts=3, timeout_ms=60_000),
    ]
    for tty in (False, True):
        head, plain, upsert = cli("kinds", tty=tty).out.splitlines()
        assert "NEEDS" in head
        assert plain.split()[:3] == ["plain", "-", "-"]
        assert "qdrant.upsert" in upsert
        assert tty or "qdrant, b" in upsert
        assert max(map(cells, (plain, upsert))) <= (80 if tty else 100)
    found = json.loads(cli("kinds", "--json").out.splitlines()[0])
    assert (found["needs"], found["lane"]) == (["qdrant", "billing-api"], "async")


def test_status(cli: Cli, queue: FakeQueue) -> None:
    """The daemon at a glance, its warnings included."""
    queue.answers[control.GetStatus] = control.Status(
        version="1",
        pid=5,
        state="running",
        uptime_seconds=3700.0,
        store="/q/perdure.db",
        durability="normal",
        counts={"available": 1200},
        dead=3,
        workers=[control.WorkerView(1, 6, "ready", [44], 2, 5 << 20, 10, 5.0)],
        warnings=["durability is normal"],
        subscribers=2,
        events_skipped=1204,
    )
    code, out, err = cli("status")
    assert (code, err) == (0, "")
    assert "2, 1,204 entries skipped since the start" in out
    for words in ("1,200 available", "durability normal", "up 1h 1m", "5.0 MiB", "44", "durability is normal"):
        assert words in out
    found = json.loads(cli("status", "--json").out)
    assert found["running"] is True
    assert found["workers"][0]["executing"] == [44]


def test_a_table_fits_the_terminal(cli: Cli, queue: FakeQueue) -> None:
    """Wrapped lines make a table unreadable; colours are for terminals, unless NO_COLOR is set."""
    queue.answers[control.ListJobs] = [job(1, args='{"text": "' + "漢字" * 100 + '"}', kind="k" * 100)]
    out = cli("jobs", tty=True).out
    assert "\x1b[32mcompleted" in out
    assert "…" in out


def test_no_color_is_respected(cli: Cli, queue: FakeQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR is how people who cannot use colours say so; and no line may be wider than the terminal."""
    from perdure.cli.text import cells

    monkeypatch.setenv("NO_COLOR", "1")
    queue.answers[control.ListJobs] = [job(1, args='{"text": "' + "漢字" * 100 + '"}', kind="k" * 100)]
    out = cli("jobs", tty=True).out
    assert "\x1b" not in out
    assert max(map(cells, out.splitlines())) <= 80


def test_logs_of_a_rotated_file_and_of_a_finished_job(cli: Cli, queue: FakeQueue) -> None:
    """What was rotated away must be said, and the rest printed to its end."""
    pieces = {0: control.LogPiece(100, 104, "abc\n", True), 104: control.LogPiece(104, 104, "", True)}
    queue.answers[control.ReadLog] = lambda request: pieces[request.offset]
    assert cli("logs", "1") == (0, "abc\n", "(the first 100 bytes were rotated away)\n")


def test_no_daemon_is_exit_code_3(cli: Cli, folder: Path) -> None:
    """Nothing here, nothing running: a clear word, and no file made by a mere look."""
    for arguments in (("jobs",), ("status",), ("enqueue", "hello"), ("enqueue", "hello", "--wait"), ("reload",)):
        code, out, err = cli(*arguments)
        assert (code, out) == (3, "")
        assert "perdure run" in err
    assert list(folder.iterdir()) == []


def test_daemon_that_goes_away_in_the_middle(cli: Cli, queue: FakeQueue) -> None:
    """The connection may break at any moment."""
    queue.answers[control.ListJobs] = DaemonUnreachable()
    code, _, err = cli("jobs")
    assert code == 3
    assert "Start it with `perdure run`" in err
