"""`perdure enqueue --from`: all lines or none, and which line is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perdure.errors import StoreFull
from perdure.wire import control
from perdure.wire.data import Enqueued, JobSpec
from tests.cli.conftest import Cli, FakeQueue


def jobs(queue: FakeQueue) -> list[JobSpec]:
    """All jobs that were sent, in order."""
    return [job for request in queue.sent(control.Enqueue) for job in request.jobs]


def test_with_kind_a_line_is_the_arguments(cli: Cli, queue: FakeQueue, folder: Path) -> None:
    """The plainest bulk use; the options hold for every line, and the numbers stay as they are written."""
    (folder / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"name": "a"}\n\n  {"name":"b"}  \r\n{"name":"\xc3\xa9"}')
    code, out, err = cli("enqueue", "hello", "--from", "a.jsonl", "--queue", "q")
    assert (code, out, err) == (0, "1\n2\n3\n", "")
    assert [job.args for job in jobs(queue)] == ['{"name": "a"}', '{"name":"b"}', '{"name":"é"}']
    assert {job.queue for job in jobs(queue)} == {"q"}


def test_without_kind_a_line_is_a_whole_job(cli: Cli, queue: FakeQueue) -> None:
    """Every key of a line must arrive, and the command line fills in what a line leaves out."""
    full = {
        "kind": "hello",
        "args": {"name": "x"},
        "queue": "a",
        "priority": 3,
        "delay": "5m",
        "unique": "u",
        "max_attempts": 2,
        "timeout": 30,
        "tags": ["t"],
    }
    lines = "\n".join(json.dumps(line) for line in (full, {"kind": "other", "at": 1_900_000_000}))
    assert cli("enqueue", "--from", "-", "--queue", "dflt", "--tag", "z", stdin=lines.encode()).code == 0
    first, second = jobs(queue)
    assert first == JobSpec(
        "hello", '{"name": "x"}', "a", 3, 2, timeout_ms=30_000, delay_ms=300_000, unique="u", tags=["t"]
    )
    assert second == JobSpec("other", queue="dflt", at_ms=1_900_000_000_000, tags=["z"])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"kind": "a", "prio": 3}', "unknown key 'prio'; did you mean 'priority'?"),
        (b'{"name": "a"}', "unknown key 'name'"),
        (b'{"args": {}}', "the job has no kind"),
        (b'{"kind": "a", "priority": "high"}', "priority: expected int | null, got str"),
        (b'{"kind": "a", "priority": 100}', "priority"),
        (b'{"kind": "a/b"}', "a/b"),
        (b'{"kind": "a", "queue": "x/y"}', "x/y"),
        (b'{"kind": "a", "delay": -1}', "delay: '-1' is negative"),
        (b'{"kind": "a", "at": "never"}', "at: 'never' is not a time"),
        (b'{"kind": "a", "delay": 1, "at": "14:30"}', "a job has one of them"),
        (b'{"kind": "a", "args": [1]}', "object"),
        (b'{"kind": "a", "args": {"x": 1e999}}', "rgument"),
        (b'{"kind": "hello", "args": {"nme": "x"}}', "nme"),
        (b'{"kind": "a"', "not valid JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"kind": "\xff"}', "UTF-8"),
        (b'{"kind": "a", "args": {"x": ' + b"[" * 9000 + b"]" * 9000 + b"}}", "nested"),
        (b'{"kind": "a", "args": {"x": "' + b"y" * 1_200_000 + b'"}}', "longer than"),
    ],
)
def test_a_bad_line_is_named_and_nothing_goes_in(
    cli: Cli, queue: FakeQueue, folder: Path, line: bytes, words: str
) -> None:
    """Half of a file in the queue, or a message without a line number, would leave the user to sort it out by hand."""
    (folder / "f.jsonl").write_bytes(b'{"kind": "hello"}\n\n' + line + b'\n{"kind": "hello"}\n')
    code, out, err = cli("enqueue", "--from", "f.jsonl")
    assert (code, out) == (2, "")
    assert err.startswith("perdure: f.jsonl:3: ")
    assert words in err
    assert "Nothing was enqueued" in err
    assert len(err.splitlines()) == 1
    assert not jobs(queue)


def test_large_files_go_in_pieces(cli: Cli, queue: FakeQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request over limits.batch would be refused, whatever the file holds."""
    monkeypatch.setenv("PERDURE_LIMITS_BATCH", "2")
    code, out, _ = cli("enqueue", "hello", "--from", "-", stdin=b"{}\n" * 5)
    assert code == 0
    assert out == "1\n2\n3\n4\n5\n"
    assert [len(request.jobs) for request in queue.sent(control.Enqueue)] == [2, 2, 1]


def test_pieces_for_a_queue_with_room_for_few_are_small(cli: Cli, queue: FakeQueue, folder: Path) -> None:
    """A piece as large as the queue would wait until it is empty; one that is larger would never go in."""
    (folder / "perdure.toml").write_text(
        '[queues.slow]\nmax_depth = 8\nwhen_full = "block"\n[queues.other]\nmax_depth = 1\n'
    )
    lines = b'{"kind": "hello", "queue": "slow"}\n' * 5
    assert cli("enqueue", "--from", "-", stdin=lines).code == 0
    assert [len(request.jobs) for request in queue.sent(control.Enqueue)] == [2, 2, 1]


def test_jobs_that_were_shed_are_told_of(cli: Cli, queue: FakeQueue) -> None:
    """A whole file could end in the dead letters, and the command would say nothing."""
    queue.answers[control.Enqueue] = [Enqueued(1, shed=True), Enqueued(2), Enqueued(3, shed=True)]
    code, out, err = cli("enqueue", "hello", "--from", "-", stdin=b"{}\n" * 3)
    assert (code, out) == (0, "1\n2\n3\n")
    assert "2 jobs shed by full queues: see perdure dead list" in err


def test_half_way_says_how_many_went_in(cli: Cli, queue: FakeQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failure in the middle, the user must know from which line to go on."""
    monkeypatch.setenv("PERDURE_LIMITS_BATCH", "2")
    answers = iter([[Enqueued(1), Enqueued(2)], StoreFull("the disk is full")])
    queue.answers[control.Enqueue] = lambda request: next(answers)
    code, _, err = cli("enqueue", "hello", "--from", "-", stdin=b"{}\n\n{}\n{}\n{}\n")
    assert code == 1
    assert "2 of 4 jobs are in the queue, up to line 3; then: the disk is full" in err
    assert "begins at line 4" in err


def test_an_empty_file_is_no_error(cli: Cli, queue: FakeQueue) -> None:
    """A nightly script with nothing to do must not fail."""
    assert cli("enqueue", "hello", "--from", "-", stdin=b"\n\n") == (0, "", "")
    assert not queue.requests


def test_a_file_that_is_not_there(cli: Cli, queue: FakeQueue, folder: Path) -> None:
    """No traceback for what a user can cause."""
    assert cli("enqueue", "hello", "--from", "none.jsonl") == (
        1,
        "",
        "perdure: none.jsonl: No such file or directory\n",
    )
    assert cli("enqueue", "hello", "--from", ".").err == "perdure: .: Is a directory\n"


def test_on_a_terminal_many_ids_are_told_as_a_range(cli: Cli, queue: FakeQueue) -> None:
    """Ten thousand ids on the screen help nobody."""
    assert (
        cli("enqueue", "hello", "--from", "-", stdin=b"{}\n" * 3, tty=True).out == "3 jobs in the queue (ids 1 to 3)\n"
    )


def test_wait_for_a_whole_file(cli: Cli, queue: FakeQueue) -> None:
    """One failed job of many must show in the exit code."""
    queue.answers[control.WaitJobs] = [control.JobEnd(1, "completed"), control.JobEnd(2, "cancelled")]
    code, out, err = cli("enqueue", "hello", "--from", "-", "--wait", stdin=b"{}\n{}\n")
    assert (code, out) == (4, "1\n2\n")
    assert "job 2 is cancelled" in err
