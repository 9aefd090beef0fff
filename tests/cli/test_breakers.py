"""`perdure breaker`, `perdure explain`, and what other commands say about databases that are away."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from perdure.cli import session
from perdure.errors import NotFound, UnknownDependency
from perdure.wire import control
from perdure.wire.data import BreakerEvent, BreakerInfo, Explanation
from tests.cli.conftest import Cli, FakeQueue
from tests.cli.test_reading import job


def now() -> int:
    """Epoch milliseconds."""
    return int(time.time() * 1000)


def infos() -> list[BreakerInfo]:
    """One breaker in each state."""
    return [
        BreakerInfo("billing", "half_open", "the break is over", now() - 500, probe_job=12, parked=3),
        BreakerInfo("neo4j", "closed", "the probe was fine", now() - 60_000, ok=1_200, ramp=20.0, parked=40),
        BreakerInfo(
            "postgres",
            "open",
            "10 of 12 calls failed",
            now() - 4_000,
            until=now() + 26_500,
            break_ms=30_000,
            ok=2,
            failed=10,
            parked=1_500,
            last_error="NoAnswer: nothing listens on db:5432",
            events=[
                BreakerEvent("postgres", now() - 4_000, "closed", "open", "10 of 12 calls failed"),
                BreakerEvent("postgres", now() - 90_000, "open", "closed", "moved\nit", "ada"),
            ],
        ),
        BreakerInfo("qdrant", "open", "new disks", now() - 90_000, "ada"),
    ]


def test_list_of_breakers(cli: Cli, queue: FakeQueue) -> None:
    """In an outage people look here first: what is away, why, for how long, and how many jobs wait."""
    queue.answers[control.ListBreakers] = infos()
    code, out, err = cli("breaker", "list", "--events", "2")
    assert (code, err) == (0, "")
    assert queue.sent(control.ListBreakers) == [control.ListBreakers(2)]
    head, billing, neo4j, postgres, qdrant, empty, title, last, before = out.splitlines()
    assert head.split() == ["BREAKER", "STATE", "SINCE", "OK", "FAILED", "SLOW", "PARKED", "WHY"]
    assert "half open" in billing
    assert billing.endswith("job 12 tries it")
    assert neo4j.split()[:2] == ["neo4j", "closed"]
    assert neo4j.endswith("releases 20 jobs/s")
    assert postgres.split()[:8] == ["postgres", "open", "4s", "ago", "2", "10", "0", "1,500"]
    assert postgres.endswith("10 of 12 calls failed, 26s left")
    assert qdrant.endswith("new disks, by ada, until it is closed")
    assert (empty, title) == ("", "postgres")
    assert "closed -> open: 10 of 12 calls failed" in last
    assert "open -> closed: moved\\nit (by ada)" in before


def test_list_for_programs(cli: Cli, queue: FakeQueue) -> None:
    """A script could not tell which breaker is open."""
    queue.answers[control.ListBreakers] = infos()
    code, out, _ = cli("breaker", "list", "--json")
    assert code == 0
    documents = [json.loads(line) for line in out.splitlines()]
    assert [one["state"] for one in documents] == ["half_open", "closed", "open", "open"]
    assert documents[2]["events"][1]["who"] == "ada"
    assert documents[3]["until"] is None


def test_no_breakers(cli: Cli, queue: FakeQueue) -> None:
    """An empty table would not say why."""
    queue.answers[control.ListBreakers] = []
    assert "the configuration has no [postgres]" in cli("breaker", "list").out
    assert cli("breaker", "list", "--json").out == ""
    assert cli("breaker", "list", "--events", "-1").code == 2


def test_open_and_close(cli: Cli, queue: FakeQueue) -> None:
    """A planned maintenance would still let jobs run into the database."""
    queue.answers |= {control.OpenBreaker: None, control.CloseBreaker: None}
    code, out, _ = cli("breaker", "open", "postgres", "--for", "10m", "--reason", "new disks")
    assert (code, out) == (0, "postgres open for 10m\n")
    (request,) = queue.sent(control.OpenBreaker)
    assert (request.name, request.reason, request.for_ms) == ("postgres", "new disks", 600_000)
    assert request.who
    assert "until `perdure breaker close postgres`" in cli("breaker", "open", "postgres").out
    assert queue.sent(control.OpenBreaker)[1].for_ms is None
    assert cli("breaker", "close", "postgres", "--reason", "done").out == "postgres closed\n"
    assert queue.sent(control.CloseBreaker)[0].reason == "done"
    for wrong in ("0", "soon", "-5s"):
        assert cli("breaker", "open", "postgres", "--for", wrong).code == 2
    queue.answers[control.OpenBreaker] = UnknownDependency("no breaker named x")
    assert cli("breaker", "open", "x")[::2] == (2, "perdure: no breaker named x\n")


def test_explain(cli: Cli, queue: FakeQueue) -> None:
    """The one command that answers "why does my job not run?"."""
    said = Explanation(7, "parked", "breaker", "It needs \x1b[31mpostgres.", name="postgres", seconds_left=3.5)
    queue.answers[control.Explain] = said
    code, out, _ = cli("explain", "7")
    assert (code, out) == (0, "job 7 is parked. It needs \\x1b[31mpostgres.\n")
    found = json.loads(cli("explain", "7", "--json").out)
    assert (found["because"], found["seconds_left"], found["ahead"], found["holders"]) == ("breaker", 3.5, None, [])
    queue.answers[control.Explain] = NotFound("no job 8")
    assert cli("explain", "8").code == 1
    assert cli("explain", "x").code == 2


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("kind:nobody", "no handler named nobody is loaded"),
        ("breaker:postgres", "waits until postgres is back"),
        ("needs:billing", "needs billing, which the daemon's configuration does not know"),
        ("alone:last life", "on its last life"),
        ("moon:full", "waits for moon:full"),
    ],
)
def test_show_says_why_a_job_is_parked(cli: Cli, queue: FakeQueue, reason: str, said: str) -> None:
    """A code such as breaker:postgres is for programs."""
    queue.answers[control.GetJob] = job(12, state="parked", park_reason=reason, finalized_at=None)
    out = cli("show", "12").out
    assert said in out
    assert "perdure explain 12" in out


def test_status_names_open_breakers(cli: Cli, queue: FakeQueue) -> None:
    """Everything would look well while half of the jobs wait."""
    usual: dict[str, Any] = {"version": "1", "pid": 2, "state": "running", "uptime_seconds": 3.0, "dead": 0}
    usual |= {"store": "q.db", "durability": "full", "counts": {}}
    queue.answers[control.GetStatus] = control.Status(**usual, breakers_open=["neo4j", "postgres"])
    assert "neo4j, postgres" in cli("status").out
    assert json.loads(cli("status", "--json").out)["breakers_open"] == ["neo4j", "postgres"]
    queue.answers[control.GetStatus] = control.Status(**usual)
    assert "breakers" not in cli("status").out


# --- without a daemon, on the file


CONFIG = '[postgres]\ndsn = "postgresql://me:hunter2@db/app"\n[dependencies.billing]\n[workers]\ncount = 1\n'


def test_breakers_without_a_daemon(cli: Cli, folder: Path) -> None:
    """A maintenance that begins while the daemon is down must be known to the next one."""
    (folder / "perdure.toml").write_text(CONFIG)
    assert cli("enqueue", "nobody").code == 0
    code, out, err = cli("breaker", "list", "--json")
    assert (code, err) == (0, "")
    assert [json.loads(line)["name"] for line in out.splitlines()] == ["billing", "postgres"]
    code, out, err = cli("breaker", "list")
    assert (code, len(out.splitlines())) == (0, 3)
    assert err == "perdure: no daemon is running; this is the state that was saved\n"
    assert cli("breaker", "open", "postgres", "--for", "10m", "--reason", "new disks").code == 0
    assert cli("breaker", "open", "billing").code == 0
    assert cli("breaker", "close", "billing", "--reason", "a mistake").code == 0
    found = [json.loads(line) for line in cli("breaker", "list", "--json", "--events", "5").out.splitlines()]
    billing, postgres = found
    assert (billing["state"], billing["reason"], billing["until"]) == ("closed", "a mistake", None)
    assert [(one["was"], one["now"]) for one in billing["events"]] == [("open", "closed"), ("closed", "open")]
    assert (postgres["state"], postgres["reason"]) == ("open", "new disks")
    assert postgres["until"] - postgres["changed_at"] == 600_000
    assert postgres["changed_by"]
    assert "postgres" in cli("status").out
    code, _, err = cli("breaker", "open", "postgers")
    assert code == 2
    assert "there are postgres, billing" in err
    assert cli("breaker", "open", "postgres", "--reason", "x" * 501).code == 2


def test_explain_without_a_daemon(cli: Cli, folder: Path) -> None:
    """A job waits because nobody is there to run it: that must be said."""
    (folder / "perdure.toml").write_text(CONFIG)
    cli("enqueue", "nobody")
    cli("enqueue", "nobody")
    cli("enqueue", "nobody", "--delay", "1h")
    second = json.loads(cli("explain", "2", "--json").out)
    assert (second["because"], second["ahead"]) == ("no-daemon", 1)
    assert "perdure run" in second["text"]
    later = json.loads(cli("explain", "3", "--json").out)
    assert later["because"] == "scheduled"
    assert 3_500 < later["seconds_left"] <= 3_600
    assert "No daemon is running" in later["text"]
    assert cli("explain", "4").code == 1


def test_config_show_hides_the_password(cli: Cli, folder: Path) -> None:
    """It would be in the first bug report."""
    (folder / "perdure.toml").write_text(CONFIG)
    for arguments in (("--show",), ("--show", "--json")):
        code, out, err = cli("config", "check", *arguments)
        assert code == 0
        assert "postgresql://me:***@db/app" in out
        assert "hunter2" not in out + err
    assert session.load(None).postgres.dsn.endswith("hunter2@db/app")
