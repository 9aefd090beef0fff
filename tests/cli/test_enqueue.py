"""`perdure enqueue` for a single job: what is asked for, what is printed, what is refused."""

from __future__ import annotations

import json

import pytest

from perdure.cli.enqueueing import unknown_kind
from perdure.errors import CallTimeout, Duplicate
from perdure.wire import control
from perdure.wire.data import Enqueued, JobSpec
from perdure.wire.streams import LogText, News
from tests.cli.conftest import Cli, FakeQueue


def only_job(queue: FakeQueue) -> JobSpec:
    """The one job that was sent."""
    (request,) = queue.sent(control.Enqueue)
    (job,) = request.jobs
    assert isinstance(job, JobSpec)
    return job


def test_prints_the_id_and_nothing_else(cli: Cli, queue: FakeQueue) -> None:
    """`id=$(perdure enqueue …)` would hold more than the id."""
    assert cli("enqueue", "hello", "name=Ada") == (0, "1\n", "")
    assert only_job(queue) == JobSpec("hello", '{"name":"Ada"}')
    assert queue.closed == 1


def test_every_option_arrives(cli: Cli, queue: FakeQueue) -> None:
    """An option that is parsed and then forgotten would be lost in silence."""
    result = cli(
        *("enqueue", "hello", "--queue", "fast", "--priority", "-5", "--delay", "1m30s", "--unique", "k"),
        *("--unique-strict", "--max-attempts", "3", "--timeout", "2.5", "--tag", "a", "--tag", "b"),
        *("--patience", "1m"),
    )
    assert result.code == 0
    assert queue.sent(control.Enqueue)[0].strict is True
    assert queue.sent(control.Enqueue)[0].patience_ms == 60_000
    assert only_job(queue) == JobSpec(
        "hello",
        queue="fast",
        priority=-5,
        delay_ms=90_000,
        unique="k",
        max_attempts=3,
        timeout_ms=2500,
        tags=["a", "b"],
    )


def test_arguments_as_json_keep_every_digit(cli: Cli, queue: FakeQueue) -> None:
    """Re-encoding would turn 1.10 into 1.1 and large numbers into other ones."""
    cli("enqueue", "hello", "--json", '{"price": 1.10, "x": 1}', "n:=12345678901234567890", "x=a=b", "deep:=[1, {}]")
    args = only_job(queue).args
    assert '"price":1.10' in args
    assert '"n":12345678901234567890' in args
    assert json.loads(args)["x"] == "a=b"
    assert json.loads(args)["deep"] == [1, {}]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["enqueue"], "which kind of job"),
        (["enqueue", "a=1"], "the kind of job comes first"),
        (["enqueue", "hello", "name"], "'name' is not an argument; write key=value"),
        (["enqueue", "hello", "=x"], "is not an argument"),
        (["enqueue", "hello", "a=1", "a=2"], "'a' is given twice"),
        (["enqueue", "hello", "n:=tru"], "argument 'n' is not valid JSON"),
        (["enqueue", "hello", "n:=NaN"], "argument 'n' is not valid JSON"),
        (["enqueue", "hello", "n:=" + "[" * 100_000], "nested too deeply"),
        (["enqueue", "hello", "--json", "[1]"], "--json is not a JSON object"),
        (["enqueue", "hello", "--json", '{"a":'], "--json is not valid JSON"),
        (["enqueue", "hello", "--delay", "-5m"], "is negative"),
        (["enqueue", "hello", "--delay", "soon"], "is not a duration"),
        (["enqueue", "hello", "--delay", "5m", "--at", "14:30"], "choose one of them"),
        (["enqueue", "hello", "--at", "tomorrow-ish"], "is not a time"),
        (["enqueue", "hello", "--priority", "99"], "a whole number from -20 to 19"),
        (["enqueue", "hello", "--unique-strict"], "goes with --unique"),
        (["enqueue", "hello", "name=\udcff"], "argument 'name' is not valid UTF-8"),
        (["enqueue", "hello", "--from", "x", "a=1"], "the arguments come from the file"),
        (["enqueue", "--from", "x", "--follow"], "for a single job"),
        (["enqueue", "hello", "--quue", "x"], "--queue"),
        (["enqueue", "shell", "--json", "--", "ls"], "'--json' requires an argument"),
        (["enqueue", "shell", "--queue", "--", "ls", "-l"], "'--queue' requires an argument"),
        (["enqueue", "hello", "--payload-file="], "--payload-file: the path is empty"),
        (["enqueue", "hello", "--payload-file", "", "--spool"], "--payload-file: the path is empty"),
    ],
)
def test_what_cannot_be_meant_is_refused(cli: Cli, queue: FakeQueue, arguments: list[str], words: str) -> None:
    """A mistake must end with code 2, a line that says what to do, no traceback, and nothing enqueued."""
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("perdure: ")
    assert words in err
    assert len(err.splitlines()) <= 2
    assert not queue.sent(control.Enqueue)


def test_duplicate_prints_the_id_of_the_job_that_is_there(cli: Cli, queue: FakeQueue) -> None:
    """A script that goes on to wait for the id must get the one that exists."""
    queue.answers[control.Enqueue] = [Enqueued(7, duplicate=True)]
    assert cli("enqueue", "hello", "--unique", "k") == (0, "7\n", "")
    out = cli("enqueue", "hello", "--unique", "k", "--output", "json").out
    assert out == '{"id":7,"duplicate":true,"shed":false,"pressure":0.0}\n'


def test_refused_by_the_daemon_is_exit_code_5(cli: Cli, queue: FakeQueue) -> None:
    """Scripts tell a refusal from a failure by the code."""
    queue.answers[control.Enqueue] = Duplicate("job 7 has the unique key 'k'")
    assert cli("enqueue", "hello", "--unique", "k", "--unique-strict") == (
        5,
        "",
        "perdure: job 7 has the unique key 'k'\n",
    )


def test_no_answer_says_that_the_outcome_is_unknown(cli: Cli, queue: FakeQueue) -> None:
    """Someone who believes that nothing happened would enqueue it twice."""
    queue.answers[control.Enqueue] = CallTimeout()
    code, _, err = cli("enqueue", "hello")
    assert code == 3
    assert "whether it did what was asked is not known" in err


def test_wait_ends_with_4_when_the_job_died(cli: Cli, queue: FakeQueue) -> None:
    """A pipeline would go on with the result of a job that failed."""
    queue.answers[control.WaitJobs] = [control.JobEnd(1, "dead", error="ValueError: no")]
    code, out, err = cli("enqueue", "hello", "--wait")
    assert (code, out) == (4, "1\n")
    assert "job 1 is dead: ValueError: no" in err
    assert "perdure show 1" in err


def test_wait_with_json_prints_one_object_with_the_result(cli: Cli, queue: FakeQueue) -> None:
    """The result of a job that was waited for must be within reach of a script."""
    queue.answers[control.WaitJobs] = [control.JobEnd(1, "completed", result='{"n": 1.50}')]
    code, out, _ = cli("enqueue", "hello", "--wait", "--output", "json")
    assert code == 0
    start = '{"id":1,"duplicate":false,"shed":false,"pressure":0.0,'
    assert out == f'{start}"state":"completed","result":{{"n": 1.50}},"error":null}}\n'


def test_follow_prints_the_output_until_the_job_has_ended(cli: Cli, queue: FakeQueue) -> None:
    """--follow must neither lose the first lines nor hang after the last one."""
    queue.news = [[News(1, [LogText(1, "one\n", 1)]), News(1, [LogText(1, "two\n", 1)], ended=True)]]
    code, out, _ = cli("enqueue", "hello", "--follow")
    assert (code, out) == (0, "1\none\ntwo\n")


def test_unknown_kind_is_told_to_a_person(cli: Cli, queue: FakeQueue) -> None:
    """A typing error in the kind would leave a job parked without a word."""
    code, out, err = cli("enqueue", "helo", tty=True)
    assert (code, out) == (0, "1\n")
    assert err == "no handler named helo is loaded; the job waits (parked) until one is. Did you mean hello?\n"
    assert "Did you mean" not in unknown_kind("quite-else", ["hello"])
    assert "daemon.builtin_kinds" in unknown_kind("http.request", ["hello"])


@pytest.mark.parametrize("option", ["--wait", "--follow"])
def test_scripts_that_wait_are_told_why(cli: Cli, queue: FakeQueue, option: str) -> None:
    """They would wait for ever, in silence, for a job that nobody runs."""
    queue.news = [[News(1, [], ended=True)]]
    code, out, err = cli("enqueue", "helo", option)
    assert (code, out) == (0, "1\n")
    assert err == (
        "perdure: no handler named helo is loaded; the job waits (parked) until one is. Did you mean hello?\n"
    )


def test_scripts_are_not_asked_for_kinds(cli: Cli, queue: FakeQueue) -> None:
    """The hint costs a request, which shell loops should not pay."""
    cli("enqueue", "helo")
    assert not queue.sent(control.ListKinds)
