"""Followers that come late: the story so far, from workers or from files, and then on without gap or repetition."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.daemon.joblog import log_path, values_path
from perdure.wire.streams import Emitted, LogText, Progress, StateChange
from perdure.wire.work import Follow
from tests.daemon.hub_rig import HubRig, line


async def test_the_story_of_a_running_job_comes_from_its_worker(tmp_path: Path) -> None:
    """What was said before, once, then what is said from now on: no gap, no repetition."""
    rig = HubRig(tmp_path)
    rig.run(1)
    rig.tell(1, Progress(1, 30.0))
    listener = await rig.follow(1)
    assert rig.workers[1].heard == [Follow([1], [1])]
    rig.tell(1, line(1, "it is in the story, too\n"))
    rig.story(1, 1, "a\n", "it is in the story, too\n")
    rig.tell(1, line(1, "b\n"))
    await listener.hear("running", "a\n", "it is in the story, too\n", "30%", "b\n")


async def test_the_second_listener_gets_its_own_story(tmp_path: Path) -> None:
    """One who is there already must not hear all again, and one who comes in the middle of a story needs all of it."""
    rig = HubRig(tmp_path)
    rig.run(1)
    first = await rig.follow(1, topics=["log"])
    rig.tell(1, LogText(1, "a\n", 1, True))
    second = await rig.follow(1, topics=["log"])
    rig.tell(1, LogText(1, "b\n", 1, True), LogText(1, "", 0, True))
    rig.tell(1, line(1, "c\n"))
    rig.story(1, 1, "a\n", "b\n", "c\n")
    rig.tell(1, line(1, "d\n"))
    await first.hear("a\n", "b\n", "c\n", "d\n")
    await second.hear("a\n", "b\n", "c\n", "d\n")
    rig.complete(1)
    await second.end()
    rig.assert_nothing_left()


async def test_the_story_of_a_job_that_has_ended_comes_from_the_files(tmp_path: Path) -> None:
    """`perdure follow` of a finished job would show nothing, or hang."""
    rig = HubRig(tmp_path)
    rig.job(1, "completed")
    path = log_path(tmp_path, 1)
    path.parent.mkdir(parents=True)
    path.write_text("a\nb\n")
    listener = await rig.follow(1)
    await listener.end()
    assert listener.words == ["a\nb\n", "completed"]
    rig.assert_nothing_left()


async def test_a_job_that_is_sent_while_its_files_are_read(tmp_path: Path) -> None:
    """Half of the story from the file and half from the worker would overlap, or have a hole."""
    rig = HubRig(tmp_path)
    rig.job(1, "available", attempt=1)
    path = log_path(tmp_path, 1)
    path.parent.mkdir(parents=True)
    path.write_text("of the first attempt\n")
    listener = await rig.follow(1, at_once=True)
    rig.run(1, attempt=2)  # before the loop has had time to read
    assert rig.workers[1].heard == [Follow([1], [1])]
    rig.story(1, 1, "of the first attempt\n", "of the second\n")
    rig.complete(1)
    await listener.end()
    assert listener.words == ["available", "running", "of the first attempt\n", "of the second\n", "completed"]


async def test_a_story_that_never_comes_is_read_from_the_files(tmp_path: Path) -> None:
    """The job ends, is given back, or its worker dies, at the moment when the story is asked for."""
    for end in ("completed", "returned", "killed"):
        rig = HubRig(tmp_path)
        rig.run(1)
        path = log_path(tmp_path, 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a\n")
        listener = await rig.follow(1)
        if end == "returned":
            rig.holding[1].clear()
            rig.hub.returned([1])
            await listener.hear("running", "a\n")
        elif end == "killed":
            rig.holding[1].clear()
            rig.hub.worker_gone(1)
            await listener.hear("running", "a\n")
        rig.complete(1)
        await listener.end()
        assert listener.words == ["running", "a\n", "completed"], end
        rig.assert_nothing_left()


@pytest.mark.parametrize("next_worker", [None, 2])
async def test_what_a_killed_worker_had_written_down_is_told(tmp_path: Path, next_worker: int | None) -> None:
    """Its last lines would be missing; or the lines before them would come again with the story."""
    rig = HubRig(tmp_path)
    rig.job(1)
    listener = await rig.follow(1)
    rig.run(1)
    rig.tell(1, LogText(1, "a\n", 1, start=0), Emitted(1, "1", 1, attempt=1, since=5))
    path = log_path(tmp_path, 1)
    path.parent.mkdir(parents=True)
    path.write_text("a\nb\n")
    values_path(tmp_path, 1).write_text("[1,1,1,5]\n[2,2,1,5]\n")
    rig.holding[1].clear()
    rig.hub.worker_gone(1)
    lost = ["b\n", "value 2"]
    if next_worker is None:
        await listener.hear("available", "running", "a\n", "value 1", *lost)
        path.write_text("a\nb\n--- attempt 2\n")
    states = ["running"]
    rig.run(1, worker=2, attempt=2)
    if next_worker == 2:  # before the files were read
        assert rig.workers[2].heard == [Follow([1], [1])]
        rig.tell(2, LogText(1, "never told live\n", 1, start=4))
        rig.tell(
            2,
            LogText(1, "a\nb\n", 2, True, 0),
            Emitted(1, "1", 1, True, 1, 5),
            Emitted(1, "2", 2, True, 1, 5),
            LogText(1, "", 0, True),
        )
    rig.tell(2, LogText(1, "c\n", 1, start=18))
    rig.complete(1)
    await listener.end()
    told = [*lost, *states] if next_worker is None else [*states, *lost]
    assert listener.words == ["available", "running", "a\n", "value 1", *told, "c\n", "completed"]
    rig.assert_nothing_left()


async def test_a_worker_that_has_let_go_of_a_job_may_die(tmp_path: Path) -> None:
    """Another one tells it by now: reading its files would tear a hole into what that one tells."""
    rig = HubRig(tmp_path)
    rig.job(1)
    listener = await rig.follow(1)
    rig.run(1)
    rig.holding[1].clear()
    rig.hub.returned([1])
    rig.run(1, worker=2, attempt=2)
    rig.hub.worker_gone(1)
    rig.tell(2, LogText(1, "a\n", 1, start=0))
    rig.complete(1)
    await listener.end()
    assert listener.words == ["available", "running", "running", "a\n", "completed"]


async def test_what_happens_while_a_job_is_looked_for(tmp_path: Path) -> None:
    """Between the look into the store and the first news nothing may be lost, told twice, or told in a wrong order."""
    rig = HubRig(tmp_path)
    rig.job(1)
    plain = rig.store.get

    async def slow_get(job_id: int) -> object:
        found = await plain(job_id)
        rig.run(job_id)
        rig.complete(job_id)
        return found

    rig.store.get = slow_get
    listener = await rig.follow(1)
    await listener.end()
    assert listener.words == ["running", "completed"]
    last = listener.entries[-1]
    assert isinstance(last, StateChange)
    assert last.kind == "kind"


async def test_what_the_store_knew_first_is_told_once(tmp_path: Path) -> None:
    """The store shows a commit a moment before the supervisor hears that it is done."""
    rig = HubRig(tmp_path)
    rig.job(1, "running", attempt=1)
    rig.job(2)
    listener = await rig.follow(1, 2)
    rig.run(1)
    rig.complete(1)
    rig.hub.changed([2], "cancelled")
    await listener.end()
    assert sorted(listener.words) == ["available", "cancelled", "completed", "running"]


async def test_a_story_that_ends_with_nobody_there_is_counted(tmp_path: Path) -> None:
    """The next listener would wait for one story too many, and hear nothing until the job ends."""
    rig = HubRig(tmp_path)
    rig.run(1)
    first = await rig.follow(1, topics=["log"])
    rig.hub.unsubscribe(first.number, first.peer)
    rig.story(1, 1)
    second = await rig.follow(1, topics=["log"])
    rig.story(1, 1, "a\n")
    rig.tell(1, line(1, "b\n"))
    await second.hear("a\n", "b\n")
    rig.complete(1)
    await second.end()
    rig.assert_nothing_left()
