"""Who follows what, and what followers get: live, late, slow, and when they are gone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from perdure.daemon import roll, wide
from perdure.daemon.news_of_turns import RESULT_CHARS
from perdure.daemon.subscriber import BUFFER_ENTRIES
from perdure.errors import DaemonStopping, InvalidOption, NotFound, Refused
from perdure.store.models import Buried, ClaimedJob, Committed, NewBatch, NewJob, Released, Retried, Turn
from perdure.wire.control import Subscribe
from perdure.wire.data import Enqueued
from perdure.wire.peer import Peer
from perdure.wire.streams import Emitted, JobSkipped, LogText, Progress, Skipped, StateChange
from perdure.wire.work import Follow, FollowQueues, Told, Unfollow
from tests.daemon.hub_rig import HubRig, line
from tests.support.wait import async_wait_until

# --- live


async def test_a_job_from_its_first_state_to_its_last(tmp_path: Path) -> None:
    """States, progress, lines and values in the order in which they happened, and then the end."""
    rig = HubRig(tmp_path)
    rig.job(1)
    listener = await rig.follow(1)
    await listener.hear("available")
    rig.run(1)
    assert rig.workers[1].heard == [Follow([1])]
    rig.tell(1, Progress(1, 5.0), line(1, "a\n"), Emitted(1, "7", 1))
    rig.complete(1, '"done"')
    await listener.end()
    assert listener.words == ["available", "running", "5%", "a\n", "value 7", "completed"]
    last = listener.entries[-1]
    assert isinstance(last, StateChange)
    assert (last.kind, last.queue, last.attempt, last.result) == ("kind", "default", 1, '"done"')
    rig.assert_nothing_left()


async def test_failures_are_told_with_their_reason(tmp_path: Path) -> None:
    """Who follows a job that fails would have to look elsewhere why."""
    rig = HubRig(tmp_path)
    rig.job(1)
    listener = await rig.follow(1)
    error = '{"attempt":1,"at":5,"type":"ValueError","message":"no"}'
    rig.run(1)
    rig.commit(Turn(9, retried=[Retried(1, 7, 10, error)]))
    rig.run(1, attempt=2)
    rig.commit(Turn(9, released=[Released(1, 7)]))
    rig.run(1, attempt=2)
    rig.commit(Turn(9, buried=[Buried(1, 7, "attempts", error, "f", False)]))
    await listener.end()
    states = [(one.state, one.attempt, one.error) for one in listener.entries if isinstance(one, StateChange)]
    assert states == [
        ("available", 0, None),
        ("running", 1, None),
        ("retryable", 1, "ValueError: no"),
        ("running", 2, None),
        ("available", 1, None),
        ("running", 2, None),
        ("dead", 2, "ValueError: no"),
    ]


async def test_what_the_store_has_refused_is_not_told(tmp_path: Path) -> None:
    """A late result of a job that was taken away is no end of the job."""
    rig = HubRig(tmp_path)
    rig.job(1)
    listener = await rig.follow(1)
    rig.run(1)
    rig.commit(Turn(3_000, results=[(1, 6, "1")]), Committed(stale=[(1, 6)]))
    rig.complete(1)
    await listener.end()
    assert listener.words == ["available", "running", "completed"]


async def test_requests_are_heard_as_well(tmp_path: Path) -> None:
    """Cancelled by somebody, brought back by somebody: no turn tells of that."""
    rig = HubRig(tmp_path)
    rig.job(1)
    rig.job(2)
    listener = await rig.follow(1, 2)
    rig.hub.changed([1], "cancelled")
    rig.hub.changed([1], "available")
    rig.hub.changed([2], "cancelled")
    rig.hub.changed([1], "cancelled")
    await listener.end()
    assert listener.words == ["available", "available", "cancelled", "available", "cancelled", "cancelled"]


async def test_large_results_are_left_to_be_fetched(tmp_path: Path) -> None:
    """A follower that asked for progress would be sent a megabyte."""
    rig = HubRig(tmp_path)
    rig.job(1)
    listener = await rig.follow(1)
    rig.run(1)
    rig.complete(1, '"' + "x" * RESULT_CHARS + '"')
    await listener.end()
    last = listener.entries[-1]
    assert isinstance(last, StateChange)
    assert last.result is None


async def test_only_the_topics_that_were_asked_for(tmp_path: Path) -> None:
    """A progress bar is no reason to send a log, nor to make the worker tell it."""
    rig = HubRig(tmp_path)
    rig.job(1)
    rig.job(2)
    listener = await rig.follow(1, topics=["progress"])
    rig.run(1)
    rig.tell(1, line(1, "a\n"), Progress(1, 50.0))
    rig.complete(1)
    await listener.end()
    assert listener.words == ["50%"]
    assert rig.workers[1].heard == []


async def test_a_worker_speaks_only_for_what_it_holds(tmp_path: Path) -> None:
    """Output of an attempt that was given up must not be mixed with that of the next one."""
    rig = HubRig(tmp_path)
    rig.job(1)
    listener = await rig.follow(1)
    rig.run(1, worker=2)
    rig.tell(1, line(1, "ghost\n"), Progress(1, 1.0))
    rig.hub.told(9, Told([line(1, "nobody\n")]))
    rig.tell(2, line(1, "a\n"))
    await listener.hear("available", "running", "a\n")
    assert rig.hub.progress == {}


# --- queues and everything


async def test_queues_and_everything(tmp_path: Path) -> None:
    """All jobs of a queue, the new ones too; others are none of its business. Workers are told whose lines count."""
    rig = HubRig(tmp_path)
    rig.run(1, queue="mail")
    rig.run(2, queue="other")
    rig.tell(1, Progress(1, 10.0))
    mail = await rig.follow(queues=["mail"])
    everything = await rig.follow(everything=True, topics=["state"])
    rig.new_job(3, "mail")
    rig.run(3, queue="mail")
    rig.tell(1, line(3, "a\n"), line(2, "b\n"))
    rig.complete(1)
    await mail.hear("running", "10%", "available", "running", "a\n", "completed")
    await everything.hear("running", "running", "available", "running", "completed")
    assert rig.workers[1].heard == [FollowQueues(["mail"])], "for states alone a worker need not tell anything"
    rig.hub.gone(mail.peer)
    assert rig.workers[2].heard == [FollowQueues(["mail"]), FollowQueues([])]
    rig.hub.gone(everything.peer)
    rig.complete(2)
    rig.complete(3)
    rig.assert_nothing_left()


async def test_a_turn_of_thousands_is_told_bit_by_bit(tmp_path: Path) -> None:
    """The supervisor would stand still while it tells of a turn; and what it cannot tell in time must be counted."""
    rig = HubRig(tmp_path)
    one = await rig.follow(queues=["default"], credit=1_000)
    gone = await rig.follow(everything=True)
    count = 2 * BUFFER_ENTRIES
    job = NewJob("kind", "default", 0, "{}", 5, 3, None, None, None, None)
    placed = [Enqueued(job_id, False) for job_id in range(1, count + 1)]
    rig.commit(Turn(1_000, batches=[NewBatch([job] * count, False)]), Committed(placed=[placed]))
    rig.hub.gone(gone.peer)
    assert rig.hub.figures()["waiting_entries"] <= 2 * wide.AT_ONCE
    # Not even read: the rest of the turn counts as one.
    assert 0 < rig.hub.figures()["pending"] <= wide.READ_AT_ONCE + 1
    await async_wait_until(lambda: one.entries[-1:] and one.entries[-1].id == count, 20, "the last of the turn")
    ids = [entry.id for entry in one.entries]
    assert ids == sorted(set(ids))
    left_out = sum(news.skipped.states for news in one.news)
    assert left_out > 0
    assert len(ids) + left_out == count


async def test_turns_that_are_read_bit_by_bit_are_told_in_their_order(tmp_path: Path) -> None:
    """The end of a job would be told before its beginning, or without its queue: for followers of that, not at all."""
    rig = HubRig(tmp_path)
    one = await rig.follow(queues=["default"], credit=1_000)
    count = wide.READ_AT_ONCE + 100
    rows = [ClaimedJob(job_id, "kind", "{}", 1, "default", 5, None, 0, 3, 0) for job_id in range(1, count + 1)]
    again = ClaimedJob(count, "kind", "{}", 2, "default", 5, None, 0, 3, 0)
    rig.commit(Turn(1_000, lease=7), Committed(claimed=rows))
    rig.commit(Turn(2_000, retried=[Retried(count, 7, 2_000, "{}")], completed={7: list(range(1, count))}))
    rig.commit(Turn(3_000, lease=8), Committed(claimed=[again]))
    rig.commit(Turn(4_000, completed={8: [count]}))
    await async_wait_until(lambda: len(one.entries) == 2 * count + 2, 20, "all of it")
    last = [entry for entry in one.entries if entry.id == count]
    assert [(entry.state, entry.attempt) for entry in last] == [
        ("running", 1),
        ("retryable", 1),
        ("running", 2),
        ("completed", 2),
    ]
    assert {entry.state for entry in one.entries[:count]} == {"running"}
    rig.hub.gone(one.peer)
    rig.assert_nothing_left()


async def test_a_new_worker_learns_what_is_followed(tmp_path: Path) -> None:
    """The followers of a queue would miss all that a restarted worker has to say."""
    rig = HubRig(tmp_path)
    rig.hub.worker_ready(1)
    await rig.follow(queues=["b", "a"])
    rig.workers[2].heard.clear()
    rig.hub.worker_ready(2)
    assert (rig.workers[1].heard, rig.workers[2].heard) == ([FollowQueues(["a", "b"])], [FollowQueues(["a", "b"])])


async def test_requests_are_heard_by_who_follows_the_queue(tmp_path: Path) -> None:
    """A request names ids; whose queue that is must be looked up."""
    rig = HubRig(tmp_path)
    rig.job(1, queue="mail")
    rig.job(2, queue="other")
    listener = await rig.follow(queues=["mail"])
    rig.hub.changed([1, 2], "cancelled")
    await listener.hear("cancelled")


# --- slow


async def test_a_slow_reader_is_told_what_it_missed(tmp_path: Path) -> None:
    """Silence about what was left out would be a lie."""
    rig = HubRig(tmp_path)
    rig.job(1)
    listener = await rig.follow(1, credit=1)
    await listener.hear("available")
    rig.run(1)
    for _ in range(40):
        rig.tell(1, LogText(1, "x" * 60_000, 10))
    rig.hub.told(1, Told([], [JobSkipped(1, 1_000, 5)]))
    rig.complete(1)
    assert len(listener.news) == 1
    listener.grant(1_000)
    await listener.end()
    lines = sum(entry.lines for entry in listener.entries if isinstance(entry, LogText))
    skipped = sum(news.skipped.lines for news in listener.news)
    assert skipped > 1_000
    assert lines + skipped == 1_400
    assert sum(news.skipped.values for news in listener.news) == 5
    assert listener.words[-1] == "completed"
    assert rig.hub.skipped == skipped + 5


async def test_skips_go_to_those_who_wanted_it(tmp_path: Path) -> None:
    """A follower of states alone would be told that it missed lines which it never wanted."""
    rig = HubRig(tmp_path)
    rig.job(1)
    states = await rig.follow(1, topics=["state"])
    values = await rig.follow(1, topics=["state", "emit"])
    rig.run(1)
    rig.hub.told(1, Told([], [JobSkipped(1, 3, 4)]))
    rig.complete(1)
    await states.end()
    await values.end()
    assert all(news.skipped == Skipped() for news in states.news)
    assert sum(news.skipped.values for news in values.news) == 4
    assert sum(news.skipped.lines for news in values.news) == 0


async def test_not_more_than_a_message_each_interval(tmp_path: Path) -> None:
    """A thousand lines, one by one, in a moment: two or three messages, not a thousand."""
    rig = HubRig(tmp_path)
    rig.job(1)
    listener = await rig.follow(1)
    rig.run(1)
    for number in range(1_000):
        rig.tell(1, line(1, f"{number}\n"))
    rig.complete(1)
    await listener.end()
    assert len(listener.words) == 1_003
    assert len(listener.news) <= 3


# --- gone


async def test_nothing_is_left_of_a_client_that_is_gone(tmp_path: Path) -> None:
    """Buffers, timers, tasks and the worker's duty to tell would pile up with each client that dies."""
    rig = HubRig(tmp_path)
    peer = Peer(1, 1, 1)
    rig.run(1)
    rig.job(2, "completed")
    one = await rig.follow(1, 2, peer=peer)
    await rig.follow(queues=["default"], peer=peer, credit=0)
    rig.tell(1, line(1, "a\n"), Progress(1, 1.0))
    assert rig.hub.figures()["subscribers"] == 2
    rig.hub.gone(peer)
    assert Unfollow([1]) in rig.workers[1].heard
    rig.hub.gone(peer)
    rig.hub.unsubscribe(one.number, peer)
    one.grant()
    rig.complete(1)
    rig.assert_nothing_left()


async def test_unfollow_only_when_the_last_one_goes(tmp_path: Path) -> None:
    """The other follower of the job would hear nothing more."""
    rig = HubRig(tmp_path)
    rig.run(1)
    first, second = await rig.follow(1), await rig.follow(1)
    rig.hub.unsubscribe(first.number, first.peer)
    assert Unfollow([1]) not in rig.workers[1].heard
    rig.hub.unsubscribe(first.number, second.peer)
    assert rig.hub.roll.count == 1, "nobody ends the subscription of another"
    rig.hub.unsubscribe(second.number, second.peer)
    assert rig.workers[1].heard[-1] == Unfollow([1])


async def test_workers_forget_a_job_that_has_ended(tmp_path: Path) -> None:
    """All that ever had it would keep its id for as long as they live, and look at each line of every job."""
    rig = HubRig(tmp_path)
    rig.job(1)
    listener = await rig.follow(1)
    rig.run(1)
    rig.hand_out(rig.holding[1].pop(1).job, 2)
    rig.complete(1)
    assert [worker.heard[-1] for worker in rig.workers.values()] == [Unfollow([1]), Unfollow([1])]
    await listener.end()
    rig.assert_nothing_left()


async def test_unknown_jobs_and_nonsense_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused subscription must not stay half made."""
    rig = HubRig(tmp_path)
    rig.job(1)
    with pytest.raises(NotFound, match="no job 9"):
        await rig.follow(1, 9)
    nonsense: tuple[dict[str, Any], ...] = (
        {},
        {"queues": ["a"], "everything": True},
        {"everything": True, "topics": []},
        {"queues": ["a", ""]},
        {"queues": ["no name"]},
    )
    for wrong in nonsense:
        with pytest.raises(InvalidOption):
            await rig.follow(**wrong)
    with pytest.raises(InvalidOption, match="1,001 ids"):
        await rig.follow(*range(1_001))
    rig.assert_nothing_left()
    monkeypatch.setattr(roll, "MOST_OF_ONE", 1)
    peer = Peer(1, 1, 1)
    await rig.follow(1, peer=peer)
    with pytest.raises(Refused, match="1 subscriptions already"):
        await rig.follow(1, peer=peer)
    await rig.follow(1)


async def test_at_the_end_of_the_daemon_what_waits_is_sent(tmp_path: Path) -> None:
    """The last line before a restart is often the one that says why."""
    rig = HubRig(tmp_path)
    rig.job(1)
    listener = await rig.follow(1)
    rig.run(1)
    rig.tell(1, line(1, "goodbye\n"))
    rig.hub.close()
    assert listener.words[-1] == "goodbye\n"
    assert not listener.ended
    with pytest.raises(DaemonStopping):
        await rig.hub.subscribe(Subscribe([1]), Peer(1, 1, 1))
    assert rig.hub.figures()["subscribers"] == rig.hub.figures()["timers"] == 0


async def test_the_end_of_a_job_whose_worker_is_gone_is_told_before_the_daemon_stops(tmp_path: Path) -> None:
    """Its end waits for what the worker had written down: dropped with that, it would be the next daemon's to tell."""
    rig = HubRig(tmp_path)
    rig.job(1)
    listener = await rig.follow(1)
    rig.run(1)
    rig.holding[1].clear()
    rig.hub.worker_gone(1)
    rig.complete(1)
    assert listener.words == ["available"]
    await rig.hub.tell_the_rest(10)
    assert listener.words == ["available", "running", "completed"]
    assert listener.ended
    rig.assert_nothing_left()
    with pytest.raises(DaemonStopping):
        await rig.hub.subscribe(Subscribe([1]), Peer(1, 1, 1))


async def test_the_last_news_wait_for_a_follower_that_reads_but_not_for_ever(tmp_path: Path) -> None:
    """Without credit nothing can be sent: one that takes its time must hear of the end, one that sleeps must not."""
    rig = HubRig(tmp_path)
    rig.job(1)
    reading = await rig.follow(1, credit=1)
    asleep = await rig.follow(1, credit=1)
    await async_wait_until(lambda: bool(reading.words and asleep.words))
    rig.run(1)
    rig.complete(1)
    telling = asyncio.create_task(rig.hub.tell_the_rest(10))
    await asyncio.sleep(0)
    assert not reading.ended
    reading.grant()
    await reading.end()
    assert not telling.done()
    telling.cancel()
    await rig.hub.tell_the_rest(0.01)
    assert not asleep.ended


async def test_a_turn_of_thousands_is_told_before_the_daemon_stops(tmp_path: Path) -> None:
    """Who follows queues is told a part at a time; the rest would be dropped with the connection."""
    rig = HubRig(tmp_path)
    listener = await rig.follow(everything=True, topics=["state"])
    some = [ClaimedJob(number, "kind", "{}", 1, "default", 5, None, 0, 3, 0) for number in range(3_000)]
    rig.commit(Turn(2_000, lease=7), Committed(claimed=some))
    assert len(listener.words) < 3_000
    await rig.hub.tell_the_rest(10)
    assert len(listener.words) == 3_000


async def test_progress_is_known_while_the_job_runs_only(tmp_path: Path) -> None:
    """It is kept for those who come late, and must not be kept for ever."""
    rig = HubRig(tmp_path)
    rig.run(1)
    assert not rig.hub.progress
    rig.tell(1, Progress(1, 40.0, 80.0, "half"))
    assert rig.hub.progress == {1: Progress(1, 40.0, 80.0, "half")}
    assert rig.hub.awake
    rig.complete(1)
    rig.assert_nothing_left()
