"""The commands that change something: what they ask for, and how they answer for each id."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from perdure.cli import following, session
from perdure.errors import CallTimeout, ChannelClosed
from perdure.wire import control
from perdure.wire.data import DeadFilter, ErrorData, KindSpec, QueueView, Verdict
from tests.cli.conftest import Cli, FakeQueue
from tests.cli.test_reading import job, letter


def test_cancel_answers_for_each_id(cli: Cli, queue: FakeQueue) -> None:
    """One id that cannot be cancelled must not hide what became of the others."""
    queue.answers[control.CancelJobs] = [
        Verdict(1),
        Verdict(2, ErrorData("WrongState", "job 2 is running; it cannot be taken back")),
        Verdict(3, ErrorData("NotFound", "there is none")),
    ]
    code, out, err = cli("cancel", "1", "2", "3", "1")
    assert (code, out) == (5, "1 cancelled\n")
    assert err == "perdure: job 2 is running; it cannot be taken back\nperdure: job 3: there is none\n"
    (request,) = queue.sent(control.CancelJobs)
    assert request.ids == [1, 2, 3]
    assert request.who, "the record says by whom"
    lines = [json.loads(line) for line in cli("cancel", "1", "2", "3", "--json").out.splitlines()]
    assert [line["ok"] for line in lines] == [True, False, False]
    assert lines[1]["error"]["type"] == "WrongState"


def test_many_ids_go_in_pieces(cli: Cli, queue: FakeQueue) -> None:
    """Shells pass thousands of ids; one request must not hold up the daemon."""
    assert cli("retry", *map(str, range(1, 2501))).code == 0
    assert [len(request.ids) for request in queue.sent(control.RetryJobs)] == [1000, 1000, 500]


def test_replay_with_edits(cli: Cli, queue: FakeQueue) -> None:
    """Edits are merged from --json-set and --set, and the record says who did it."""
    result = cli("dead", "replay", "7", "--json-set", '{"a": 1, "b": 1.50}', "--set", "c=x", "--set", "a:=2")
    assert (result.code, result.out) == (0, "7 replayed\n")
    (request,) = queue.sent(control.ReplayDead)
    assert json.loads(request.set_args) == {"a": 2, "b": 1.5, "c": "x"}
    assert "1.50" in request.set_args
    assert request.who


def test_replay_all_of_a_kind(cli: Cli, queue: FakeQueue) -> None:
    """--all must ask for those of the kind that wait, and touch each once."""
    queue.answers[control.ListDead] = [letter(9), letter(8)]
    assert cli("dead", "replay", "--all", "--kind", "hello").out == "9 replayed\n8 replayed\n"
    assert queue.sent(control.ListDead)[0].filter == DeadFilter(kind="hello")
    (request,) = queue.sent(control.ReplayDead)
    assert (request.ids, request.set_args) == ([9, 8], None)


@pytest.mark.parametrize(
    "arguments",
    [
        ["dead", "replay"],
        ["dead", "discard"],
        ["dead", "replay", "1", "--all"],
        ["dead", "replay", "1", "--kind", "x"],
        ["dead", "replay", "x"],
        ["cancel"],
        ["cancel", "0"],
        ["cancel", "99999999999999999999"],
        ["queue", "pause"],
    ],
)
def test_ids_must_be_named(cli: Cli, queue: FakeQueue, arguments: list[str]) -> None:
    """A forgotten id must not mean: all."""
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("perdure: ")
    assert not queue.requests


def test_pause_and_resume(cli: Cli, queue: FakeQueue) -> None:
    """Each queue that is named, with the user's name for the record."""
    assert cli("queue", "pause", "a", "b").out == "a paused\nb paused\n"
    assert [request.queue for request in queue.sent(control.PauseQueue)] == ["a", "b"]
    assert all(request.who for request in queue.sent(control.PauseQueue))
    assert cli("queue", "resume", "a").out == "a resumed\n"
    code, out, _ = cli("queue", "pause", "c", "d/e")
    assert (code, out, len(queue.sent(control.PauseQueue))) == (2, "", 2), "all names are checked before the first"


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (["--config", "x.toml", "jobs"], "perdure jobs --config"),
        (["--json"], "perdure COMMAND --json"),
        (["--versoin"], "Did you mean '--version'?"),
        (["queue", "--config", "x.toml", "list"], "perdure queue list --config"),
        (["dead", "--json", "show", "1"], "perdure dead show --json"),
        (["bench", "drain", "--jobs", "x"], "'x' is not a whole number from 256"),
        (["bench", "--seconds", "nan"], "'nan' is not a number from 0.2"),
    ],
)
def test_options_in_the_wrong_place_and_of_the_wrong_size(
    cli: Cli, queue: FakeQueue, arguments: list[str], where: str
) -> None:
    """Other programs take their options before the command; nobody guesses that from "no such option"."""
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert where in err


def test_a_queue_that_nobody_knows(cli: Cli, queue: FakeQueue) -> None:
    """A typing error would pause nothing, or leave paused what should go on, and nobody would notice."""
    queue.answers[control.ListQueues] = [QueueView("mail", {}), QueueView("slow", {}, 5, "ada")]
    queue.answers[control.ListKinds] = [KindSpec("k", "sync", [], queue="nightly")]
    assert cli("queue", "pause", "mail", "nightly") == (0, "mail paused\nnightly paused\n", "")
    code, out, err = cli("queue", "pause", "mial")
    assert (code, out) == (0, "mial paused\n")
    assert err == "perdure: no job is known of a queue mial, and no handler names it. Did you mean mail?\n"
    assert cli("queue", "resume", "slow") == (0, "slow resumed\n", "")
    assert cli("queue", "resume", "slwo").err == "perdure: slwo was not paused. Did you mean slow?\n"


def test_wait(cli: Cli, queue: FakeQueue) -> None:
    """The end of each, in the order asked for, and 4 if one of them did not complete."""
    queue.answers[control.WaitJobs] = [
        control.JobEnd(2, "dead", error="ValueError: x"),
        control.JobEnd(1, "completed", result="3"),
    ]
    assert cli("wait", "1", "2", "1") == (4, "1 completed  3\n2 dead  ValueError: x\n", "")
    lines = cli("wait", "1", "2", "--json").out.splitlines()
    assert json.loads(lines[0]) == {"id": 1, "state": "completed", "result": 3, "error": None}


def test_wait_no_longer_than_asked(cli: Cli, queue: FakeQueue) -> None:
    """--timeout must end the wait, say that the job goes on, and be told apart from a dead daemon."""
    queue.answers[control.WaitJobs] = CallTimeout()
    code, out, err = cli("wait", "1", "--timeout", "1ms")
    assert (code, out) == (1, "")
    assert "job 1 has not ended within the 0.001s" in err


def test_wait_tells_what_has_ended_when_the_time_is_over(cli: Cli, queue: FakeQueue) -> None:
    """One slow job would hide how all the others ended."""
    ends = {1: control.JobEnd(1, "completed", result="3"), 2: control.JobEnd(2, "dead", error="ValueError: x")}
    queue.answers[control.GetJob] = lambda request: {1: job(1), 3: job(3, finalized_at=None)}.get(request.id)

    def wait(request: control.WaitJobs) -> Any:
        return CallTimeout() if 3 in request.ids else [ends[job_id] for job_id in request.ids]

    queue.answers[control.WaitJobs] = wait
    code, out, err = cli("wait", "3", "2", "1", "--timeout", "1ms")
    assert (code, out) == (1, "2 dead  ValueError: x\n1 completed  3\n")
    assert err.startswith("perdure: job 3 has not ended within the 0.001s given")
    documents = [json.loads(line) for line in cli("wait", "1", "3", "--timeout", "1ms", "--json").out.splitlines()]
    assert [one["id"] for one in documents] == [1]


def test_who_stops_waiting_is_told_that_the_job_goes_on(cli: Cli, queue: FakeQueue) -> None:
    """Ctrl-C ends the command, and looks as if it had ended the job."""
    queue.answers[control.WaitJobs] = KeyboardInterrupt()
    code, out, err = cli("enqueue", "hello", "--wait", tty=True)
    assert (code, out) == (130, "1\n")
    assert err == "\njob 1 goes on: perdure wait 1, or perdure cancel 1\n"


def test_wait_outlasts_a_restart(cli: Cli, queue: FakeQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deploy of the daemon must not break the scripts that wait for jobs."""
    answers: list[Any] = [ChannelClosed(), [control.JobEnd(1, "completed")]]
    queue.answers[control.WaitJobs] = lambda request: answers.pop(0)
    monkeypatch.setattr(following, "reconnect", lambda settings, seconds: session.Session(queue, live=True))
    assert cli("wait", "1").code == 0
    assert queue.closed == 2


def test_reload(cli: Cli, queue: FakeQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --wait over the socket, without it by the signal: to the daemon's pid and no other."""
    queue.answers[control.Reload] = [None, None]
    assert cli("reload", "--wait").out == "reloaded: 2 kinds\n"
    queue.answers[control.GetStatus] = control.Status("1", 4242, "running", 1.0, "s", "full", {}, 0)
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    assert cli("reload").code == 0
    assert sent == [(4242, signal.SIGHUP)]


def test_init_writes_files_that_can_be_used(cli: Cli, folder: Path) -> None:
    """The first minute with perdure: a valid configuration, handlers that compile, and nothing overwritten."""
    code, out, err = cli("init", "new/q")
    assert (code, err) == (0, "")
    assert "perdure run" in out
    toml = folder / "new/q/perdure.toml"
    assert cli("config", "check", "--config", str(toml)).code == 0
    compile((folder / "new/q/jobs.py").read_text(), "jobs.py", "exec")
    toml.write_text("mine")
    code, _, err = cli("init", "new/q")
    assert code == 5
    assert "exists already" in err
    assert toml.read_text() == "mine"
