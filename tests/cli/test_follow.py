"""`perdure follow` and `logs -f`: what is printed of the news, for people and for programs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.cli import following, session
from perdure.cli.bars import progress_text
from perdure.cli.overlap import Overlap
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
            news(state(7, "running"), LogText(7, "a\nb\n", 2), Emitted(7, "1", 1)),
            DaemonStopping(),
        ],
        [
            news(state(7, "running", 2), LogText(7, "a\nb\n--- attempt 2\n", 3, True)),
            news(LogText(7, "a\n", 1, True), Emitted(7, "1", 1, True), Emitted(7, "1", 1, True)),
            news(LogText(7, "a\n", 1), state(7, "completed", 2), ended=True),
        ],
    ]
    code, out, _ = cli("follow", "7")
    assert code == 0
    assert out.splitlines() == [
        "7 mail running, attempt 1",
        "a",
        "b",
        "7 = 1: 1",
        "7 mail running, attempt 2",
        "--- attempt 2",
        "a",
        "7 = 1: 1",
        "a",
        "7 mail completed",
    ]


def test_no_daemon_any_more(cli: Cli, queue: FakeQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that does not come back is exit code 3, as everywhere."""

    def away(settings: object, seconds: float) -> session.Session:
        raise DaemonUnreachable

    monkeypatch.setattr(following, "reconnect", away)
    queue.news = [[ChannelClosed()]]
    assert cli("follow", "7").code == 3


def test_logs_prints_what_is_before_the_story(cli: Cli, queue: FakeQueue, restarted: None) -> None:
    """The story is only the end of a large log. After a restart each line is still printed once."""
    log = [f"line {number}\n" for number in range(100)]
    pieces = {
        0: control.LogPiece(0, 500, "".join(log[:50]), False),
        500: control.LogPiece(500, 999, "".join(log[50:]), False),
    }
    queue.answers[control.ReadLog] = lambda request: pieces.get(request.offset, control.LogPiece(999, 999, "", False))
    queue.news = [
        [news(LogText(1, "".join(log[60:90]), 30, True), LogText(1, "".join(log[90:]), 10, True)), ChannelClosed()],
        [
            news(LogText(1, "".join(log[80:]), 20, True)),
            news(LogText(1, "new\n", 1), skipped=Skipped(lines=1)),
            news(ended=True),
        ],
    ]
    code, out, err = cli("logs", "-f", "1")
    assert code == 0
    assert out == "".join(log) + "new\n"
    assert err == "(1 log line skipped)\n"


# --- what was shown already

WORDS = st.lists(st.sampled_from("abc"), max_size=12)


@given(WORDS, WORDS, st.lists(st.integers(1, 4), max_size=8))
def test_a_whole_story_is_never_shown_twice(before: list[str], after: list[str], cuts: list[int]) -> None:
    """However the story is cut into pieces: where it begins at the beginning, what is new is exactly what is new."""
    overlap: Overlap[str] = Overlap()
    assert overlap.live(before) == before
    overlap.restarted()
    story, got = before + after, []
    for length in (*cuts, 99):
        piece, story = story[:length], story[length:]
        if piece:
            got += overlap.earlier(piece)
    assert got == after


def test_a_story_with_nothing_in_common() -> None:
    """Lines went by unseen, so the end of what was shown is not to be found: better twice than never."""
    overlap: Overlap[str] = Overlap()
    overlap.live(["a", "b"])
    overlap.restarted()
    assert overlap.earlier(["x", "y"]) == ["x", "y"]
