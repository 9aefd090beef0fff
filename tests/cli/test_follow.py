"""`perdure follow` and `logs -f`: what is printed of the news, for people and for programs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from perdure.cli import following, session
from perdure.cli.bars import progress_text
from perdure.errors import ChannelClosed, DaemonStopping, DaemonUnreachable
from perdure.wire import control
from perdure.wire.streams import Emitted, Entry, LogText, News, Progress, Skipped, StateChange
from tests.cli.conftest import Cli, FakeQueue


def news(*entries: Entry, **fields: Any) -> News:
    return News(1, list(entries), **fields)


def state(job_id: int, name: str, attempt: int = 1, **fields: Any) -> StateChange:
    return StateChange(job_id, name, 5, "mail", "default", attempt, **fields)


@pytest.fixture
def restarted(queue: FakeQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that went away is back at once."""
    monkeypatch.setattr(following, "reconnect", lambda settings, seconds: session.Session(queue, live=True))


def test_one_job(cli: Cli, queue: FakeQueue) -> None:
    """Its own lines stand there as they are; what else happens begins with its id."""
    queue.news = [
        [
            news(state(7, "running"), LogText(7, "hello\n  you\n", 2), Progress(7, 20, 80, "rows")),
            news(Emitted(7, '{"a":1}', 1), Progress(7, 40, 80), skipped=Skipped(lines=1204, values=1)),
            news(state(7, "completed", result="3"), ended=True),
        ]
    ]
    code, out, err = cli("follow", "7")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "7 mail running, attempt 1",
        "hello",
        "  you",
        "7 25% 20/80 rows",
        "(1,204 log lines and 1 value skipped)",
        '7 = 1: {"a":1}',
        "7 mail completed: 3",
    ]
    assert queue.requests == [control.Subscribe([7])]
    assert queue.closed == 1


def test_several_jobs_and_how_they_ended(cli: Cli, queue: FakeQueue) -> None:
    """Each line says whose it is; one that did not complete makes the exit code 4."""
    queue.news = [
        [
            news(LogText(7, "a\nb\n", 2), LogText(8, "\x1b[31mc\x1b[2J\n", 1)),
            news(state(8, "completed"), state(7, "dead", error="ValueError: no\nway"), ended=True),
        ]
    ]
    code, out, _ = cli("follow", "7", "8")
    assert code == 4
    assert out.splitlines() == [
        "7 | a",
        "7 | b",
        "8 | c\\x1b[2J",
        "8 mail completed",
        "7 mail dead: ValueError: no\\nway",
    ]


def test_what_is_asked_for(cli: Cli, queue: FakeQueue) -> None:
    """Queues or everything; topics that were not asked for are not shown, though states are always needed."""
    queue.news = [[news(state(1, "running"), LogText(1, "a\n", 1), state(1, "dead"))], []]
    assert cli("follow", "--queue", "mail", "--queue", "b", "--topic", "log") == (0, "1 | a\n", "")
    assert cli("follow", "--all").code == 0
    assert queue.requests == [
        control.Subscribe([], ["mail", "b"], topics=["log", "state"]),
        control.Subscribe(everything=True),
    ]
    for wrong in ([], ["1", "--all"], ["--queue", "a", "--all"]):
        code, _, err = cli("follow", *wrong)
        assert code == 2
        assert "one of these" in err


def test_json(cli: Cli, queue: FakeQueue) -> None:
    """One object a line, with values and results as JSON and not as text in text."""
    entries = (state(1, "completed", result='{"n":1.50}'), Emitted(1, "[2]", 1), Progress(1, 1.5))
    queue.news = [[news(*entries, skipped=Skipped(lines=2)), news(ended=True)]]
    code, out, _ = cli("follow", "1", "--json")
    assert code == 0
    assert out.splitlines()[0] == '{"type":"skipped","states":0,"lines":2,"values":0}'
    assert '"result":{"n":1.50}' in out
    assert [json.loads(line)["type"] for line in out.splitlines()] == ["skipped", "state", "emit", "progress"]


def test_bars_on_a_terminal(cli: Cli, queue: FakeQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar stays below the lines, is redrawn in its place, and goes with its job."""
    monkeypatch.setenv("NO_COLOR", "1")
    queue.news = [
        [
            news(state(7, "running"), Progress(7, 1, 2, "half")),
            news(LogText(7, "a line\n", 1), Progress(7, 2, 2)),
            news(state(7, "completed"), ended=True),
        ]
    ]
    out = cli("follow", "7", tty=True).out
    half, full = "█" * 12 + "·" * 12 + " 7 50% 1/2 half\n", "█" * 24 + " 7 100% 2/2\n"
    up = "\x1b[1A\x1b[J"
    assert out == f"7 mail running, attempt 1\n{half}{up}a line\n{full}{up}7 mail completed\n"


def test_progress_in_words() -> None:
    """Without a total there is no percentage; more than all is still all."""
    assert progress_text(Progress(1, 12_000, None, "rows")) == "12,000 rows"
    assert progress_text(Progress(1, 3, 2)) == "100% 3/2"
    assert progress_text(Progress(1, 1, 0)) == "1"


def test_follow_outlasts_a_restart(cli: Cli, queue: FakeQueue, restarted: None) -> None:
    """The daemon tells the story again; a person has read most of it."""
    queue.news = [
        [
            news(state(7, "running"), LogText(7, "a\nb\n", 2, start=0), Emitted(7, "1", 1, attempt=1)),
            DaemonStopping(),
        ],
        [
            news(state(7, "running"), LogText(7, "a\nb\nnever told\n--- attempt 2\n", 4, True, 0)),
            news(LogText(7, "a\n", 1, True, 29), Emitted(7, "1", 1, True, 2), Emitted(7, "1", 2, True, 2)),
            news(LogText(7, "a\n", 1, start=31), state(7, "running", 2)),
            ChannelClosed(),
        ],
        [
            news(state(7, "available", 2), LogText(7, "a\na\n", 2, True, 29), Emitted(7, "1", 2, True, 2)),
            news(state(7, "available", 2), state(7, "completed", 2), ended=True),
        ],
    ]
    code, out, _ = cli("follow", "7")
    assert code == 0
    assert out.splitlines() == [
        "7 mail running, attempt 1",
        "a",
        "b",
        "7 = 1: 1",
        "never told",
        "--- attempt 2",
        "a",
        "7 = 1: 1",
        "7 = 2: 1",
        "a",
        "7 mail running, attempt 2",
        "7 mail available",
        "7 mail available",
        "7 mail completed",
    ]


def test_the_daemon_goes_away_while_a_gap_is_filled(cli: Cli, queue: FakeQueue, restarted: None) -> None:
    """What stood before the gap in the same message would count as shown, and never be; and the gap begin anew."""
    log = "a\nb\nc\nd\ne\n"
    failures = [ChannelClosed()]

    def read(request: control.ReadLog) -> control.LogPiece:
        if request.offset == 4 and failures:
            raise failures.pop()
        assert request.until is not None
        end = min(request.offset + 2, request.until)
        return control.LogPiece(request.offset, end, log[request.offset : end], False)

    story = (LogText(7, "x\ny\n", 2, True, 0), LogText(8, "d\ne\n", 2, True, 6))
    queue.answers[control.ReadLog] = read
    queue.news = [
        [news(LogText(8, "a\n", 1, start=0)), ChannelClosed()],
        [news(*story)],
        [news(*story), news(ended=True)],
    ]
    code, out, _ = cli("follow", "7", "8")
    assert code == 0
    assert out.splitlines() == ["8 | a", "7 | x", "7 | y", "8 | b", "8 | c", "8 | d", "8 | e"]


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_a_state_is_not_told_again(cli: Cli, queue: FakeQueue, restarted: None, as_json: list[str]) -> None:
    """A restarted daemon begins with the state of the job, and knows the time of it from other columns."""
    queue.news = [
        [news(StateChange(7, "available", 9, "mail")), ChannelClosed()],
        [news(StateChange(7, "available", 5, "mail")), ChannelClosed()],
        [news(StateChange(7, "completed", 5, "mail"), ended=True)],
    ]
    out = cli("follow", "7", *as_json).out.splitlines()
    assert len(out) == 2
    assert "available" in out[0]
    assert "completed" in out[1]


def test_no_daemon_any_more(cli: Cli, queue: FakeQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that does not come back is exit code 3, as everywhere."""

    def away(settings: object, seconds: float) -> session.Session:
        raise DaemonUnreachable

    monkeypatch.setattr(following, "reconnect", away)
    queue.news = [[ChannelClosed()]]
    assert cli("follow", "7").code == 3


def test_logs_prints_what_is_before_the_story(cli: Cli, queue: FakeQueue, restarted: None) -> None:
    """The story is only the end of a large log. After a restart each line is still printed once."""
    log = [f"line {number:02}\n" for number in range(100)]

    def read(request: control.ReadLog) -> control.LogPiece:
        end = min(request.offset + 160, 800 if request.until is None else request.until)
        text = "".join(log)[request.offset : end]
        return control.LogPiece(request.offset, request.offset + len(text), text, False)

    def story(first: int, last: int) -> LogText:
        return LogText(1, "".join(log[first:last]), last - first, True, 8 * first)

    queue.answers[control.ReadLog] = read
    queue.news = [
        [news(story(40, 50), story(50, 60)), ChannelClosed()],
        [news(story(55, 70)), ChannelClosed()],
        [
            news(story(90, 100)),
            news(LogText(1, "new\n", 1, start=800), skipped=Skipped(lines=1)),
            news(ended=True),
        ],
    ]
    code, out, err = cli("logs", "-f", "1")
    assert code == 0
    assert out == "".join(log) + "new\n"
    assert err == "(1 log line skipped)\n"
