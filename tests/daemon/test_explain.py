"""Why a job is where it is: every state, with and without a daemon."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.daemon.explain import MOST_AHEAD, Facts, Holder, Place, explain_dead, explain_job
from perdure.store.states import STATES
from perdure.wire.data import BreakerInfo, DeadView, Explanation, JobView

NOW = 1_700_000_000_000

WELL = Facts(daemon=True, workers=2)


def job(state: str, **fields: Any) -> JobView:
    """A job in its queue "mail"."""
    usual: dict[str, Any] = {
        "kind": "mail.send",
        "queue": "mail",
        "priority": 0,
        "args": "{}",
        "attempt": 0,
        "max_attempts": 5,
        "interruptions": 0,
        "max_interruptions": 3,
        "created_at": NOW - 60_000,
        "scheduled_at": NOW - 60_000,
    }
    return JobView(id=7, state=state, **{**usual, **fields})


def explain(view: JobView, facts: Facts = WELL, *, ahead: int = 0, paused: bool = False) -> Explanation:
    """The explanation at the moment NOW."""
    found = explain_job(view, facts, ahead=ahead, paused=paused, now=NOW)
    assert (found.id, found.state) == (7, view.state)
    assert found.text.endswith((".", "again.", "`."))
    assert "  " not in found.text
    return found


def needing(info: BreakerInfo, **fields: Any) -> Facts:
    """What is known of a job whose kind needs one dependency."""
    return Facts(daemon=True, workers=2, needs=[info.name], breakers={info.name: info}, **fields)


OPEN = BreakerInfo("db", "open", "9 of 10 calls failed", until=NOW + 12_400, last_error="NoAnswer: db:5432")


@pytest.mark.parametrize(
    ("info", "because", "seconds", "said"),
    [
        (
            OPEN,
            "breaker",
            12.4,
            "open: 9 of 10 calls failed. It stays open for 12s more, then one job tries it. The last",
        ),
        (BreakerInfo("db", "open", "disks", until=None), "breaker", None, "until somebody closes it: `perdure breaker"),
        (BreakerInfo("db", "half_open", probe_job=7), "probe", None, "this is the job that tries"),
        (BreakerInfo("db", "half_open", probe_job=9), "probe", None, "job 9 tries whether it is back"),
        (BreakerInfo("db", "half_open"), "probe", None, "one job is about to try"),
        (
            BreakerInfo("db", "closed", ramp=20.0, parked=400),
            "breaker",
            None,
            "20 jobs a second at the moment. 400 jobs",
        ),
    ],
)
def test_parked_for_a_breaker(info: BreakerInfo, because: str, seconds: float | None, said: str) -> None:
    """In an outage nobody would know which database it is, and for how long."""
    found = explain(job("parked", park_reason="breaker:db"), needing(info))
    assert (found.because, found.name, found.seconds_left) == (because, "db", seconds)
    assert said in found.text


def test_parked_in_a_paused_queue_or_without_a_daemon() -> None:
    """Somebody would wait for the breaker alone, or for a release that nobody makes."""
    parked = job("parked", park_reason="breaker:db")
    assert "Its queue, mail, is paused, too." in explain(parked, needing(OPEN), paused=True).text
    closed = BreakerInfo("db", "closed")
    assert "is closed; the next daemon releases" in explain(parked, needing(closed)._replace(daemon=False)).text


def test_parked_for_other_reasons() -> None:
    """A job that waits for a deploy looks like one that waits for a database."""
    unknown = explain(job("parked", park_reason="kind:mail.send"), WELL._replace(kind_known=False))
    assert (unknown.because, unknown.name) == ("kind", "mail.send")
    assert "No handler named mail.send is loaded" in unknown.text
    assert "about to be released" in explain(job("parked", park_reason="kind:mail.send")).text
    needs = explain(job("parked", park_reason="needs:crm"))
    assert (needs.because, needs.name) == ("needs", "crm")
    assert "declare [dependencies.crm]" in needs.text
    known = explain(job("parked", park_reason="needs:crm"), needing(BreakerInfo("crm", "closed")))
    assert "configured by now" in known.text
    gone = explain(job("parked", park_reason="breaker:crm"))
    assert "does not know any more" in gone.text
    assert explain(job("parked", park_reason="alone:last life")).because == "alone"
    assert explain(job("parked", park_reason="moon:full")).text == "It waits for moon:full."


def test_waiting_for_its_time() -> None:
    """A retry looks like a job that was forgotten; and what comes after must be said as well."""
    later = explain(job("scheduled", scheduled_at=NOW + 3_600_000))
    assert (later.because, later.seconds_left) == ("scheduled", 3_600)
    assert later.text.startswith("It is to run in 1h.")
    errors = '[{"type": "ValueError", "message": "no"}, {"type": "NoAnswer", "message": "db:5432"}]'
    facts = needing(OPEN, kind_known=False)
    retry = explain(job("retryable", scheduled_at=NOW + 2_500, attempt=2, errors=errors), facts, paused=True)
    assert (retry.because, retry.seconds_left) == ("retry", 2.5)
    assert "(attempt 2 of 5, NoAnswer: db:5432); the next one comes in 2.5s." in retry.text
    for also in ("Its queue, mail, is paused.", "No handler named", "It needs db, whose breaker is open."):
        assert also in retry.text
    due = explain(job("scheduled", scheduled_at=NOW - 5))
    assert due.seconds_left == 0
    assert "it is due" in due.text


def test_available() -> None:
    """The reason that is hardest to see from outside: nothing is wrong, others come first or hold the places."""
    assert explain(job("available")).because == "next"
    behind = explain(job("available"), ahead=1)
    assert (behind.because, behind.name, behind.ahead) == ("behind", "mail", 1)
    assert behind.text == "1 job of its queue (mail) comes before it."
    assert "10,000 or more jobs of its queue" in explain(job("available"), ahead=MOST_AHEAD).text
    full = WELL._replace(lane_full=True, holders=[Holder(3, "a.b"), Holder(4, "a.c")])
    held = explain(job("available"), full)
    assert (held.because, held.ahead, held.holders) == ("lane-full", 0, [3, 4])
    assert held.text.endswith("All places for jobs like it are taken, by job 3 (a.b) and job 4 (a.c).")
    both = explain(job("available"), full, ahead=12)
    assert (both.because, both.holders) == ("behind", [3, 4])
    many = full._replace(holders=[Holder(number, "a") for number in range(1, 33)])
    assert explain(job("available"), many).text.endswith("job 8 (a) and 24 more.")
    nobody = explain(job("available"), Facts(daemon=True, workers=0, lane_full=True))
    assert "No worker is ready at the moment." in nobody.text


def test_available_and_yet_not_to_be_run() -> None:
    """Somebody would wait for a queue that is paused, or for a handler that is misspelt."""
    paused = explain(job("available"), paused=True, ahead=2)
    assert (paused.because, paused.name, paused.ahead) == ("paused", "mail", 2)
    assert "`perdure queue resume mail`" in paused.text
    assert explain(job("available"), WELL._replace(stopping=True), paused=True).because == "stopping"
    assert explain(job("available"), WELL._replace(kind_known=False)).because == "kind"
    opened = explain(job("available"), needing(OPEN))
    assert (opened.because, opened.name) == ("breaker", "db")
    assert explain(job("available"), needing(BreakerInfo("db", "closed"))).because == "next"
    needs = explain(job("available"), WELL._replace(needs=["crm"]))
    assert (needs.because, needs.name) == ("needs", "crm")


def test_running() -> None:
    """A job that was sent ahead is not executed yet, though its state is the same."""
    executing = WELL._replace(place=Place(3, 4711, NOW - 5_000))
    found = explain(job("running", timeout_ms=60_000), executing)
    assert (found.because, found.seconds_left) == ("running", 55)
    assert found.text == "Worker 3 (pid 4711) has been executing it for 5s. Its time limit ends it in 55s."
    assert explain(job("running"), executing).seconds_left is None
    ahead = explain(job("running"), WELL._replace(place=Place(3, 4711), holders=[Holder(9, "slow")]))
    assert (ahead.because, ahead.holders) == ("claimed", [9])
    assert "sent ahead to worker 3 (pid 4711) and has not begun, behind job 9 (slow)" in ahead.text
    here = WELL._replace(place=Place())
    assert explain(job("running"), here).because == "claimed"
    assert explain(job("running"), here._replace(lane_full=True, holders=[Holder(9, "x")])).because == "lane-full"
    assert explain(job("running"), WELL._replace(place=Place(alone=True))).because == "alone"
    alone = explain(job("running"), WELL._replace(place=Place(5, 11, NOW, alone=True)))
    assert "alone, because it is on its last life" in alone.text
    assert explain(job("running")).because == "running"


def test_ended() -> None:
    """What has ended waits for nothing."""
    assert explain(job("completed", finalized_at=NOW - 90_000)).text.startswith("It completed 1m30s ago.")
    assert explain(job("cancelled", finalized_at=NOW)).because == "cancelled"
    errors = '[{"type":"JobCancelled","message":"cancelled by ann, ended after 3.2 s"}]'
    stopped = explain(job("cancelled", attempt=1, finalized_at=NOW - 4_000, errors=errors))
    assert stopped.text.startswith("It was stopped 4s ago, JobCancelled: cancelled by ann, ended after 3.2 s. `perdure")
    assert explain(job("cancelled", finalized_at=NOW, errors=errors)).text.startswith("It was taken back")


def test_being_cancelled() -> None:
    """Who looks at a job that will not end would not learn that it is about to be killed."""
    place = Place(5, 11, NOW - 60_000, cancelled_by="ann", grace_ms=3_000)
    found = explain(job("running", timeout_ms=3_600_000), WELL._replace(place=place))
    assert found.text.endswith("It was cancelled by ann; if it does not end in 3s, its worker is killed.")
    assert found.seconds_left == 3


@pytest.mark.parametrize("state", STATES)
def test_without_a_daemon(state: str) -> None:
    """Nothing of it will change before a daemon is started."""
    facts = Facts(daemon=False, kind_known=False)
    found = explain(job(state, park_reason="breaker:db" if state == "parked" else None), facts, paused=True)
    assert found.text.count("No daemon is running") == (0 if state in ("completed", "cancelled") else 1)
    assert (found.because == "no-daemon") == (state in ("available", "running"))


def test_dead() -> None:
    """A dead letter does not wait for time to pass, but for somebody."""
    letter = DeadView(
        *(7, "mail.send", "mail", 0, "{}", "{}", 5, 5, 0, 3, NOW - 9_000, NOW - 4_000, 1, "attempts", "f", "[]", "[]")
    )
    found = explain_dead(letter, NOW)
    assert (found.state, found.because) == ("dead", "dead")
    assert found.text.startswith("It is a dead letter since 4s: it failed 5 times, as often as it may.")
    assert "`perdure dead replay 7`" in found.text
    letter.max_attempts = 1
    assert "it failed once," in explain_dead(letter, NOW).text
    letter.resolution = "discarded"
    assert "It was discarded" in explain_dead(letter, NOW).text
