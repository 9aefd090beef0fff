"""The client against the real server of the control socket."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from perdure.client import Client, default_client, set_default_client
from perdure.errors import CallTimeout, ChannelClosed, DaemonUnreachable, Duplicate, InvalidOption, NotData, UsageError
from perdure.wire import control
from perdure.wire.data import Blob, Enqueued, JobFilter, JobSpec
from tests.front.daemon_double import HANG_UP, SILENCE, DaemonDouble, jobs_in, place


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonDouble]:
    double = DaemonDouble(str(tmp_path / "s"))
    yield double
    double.stop()


@pytest.fixture
def client(daemon: DaemonDouble) -> Iterator[Client]:
    with Client(daemon.path, timeout=10) as made:
        yield made


async def test_enqueue(daemon: DaemonDouble, client: Client) -> None:
    """The first line of the README would not work."""
    async with client:
        assert await client.enqueue("k", {"path": "a"}, delay="1s", unique="u") == Enqueued(1)
    assert daemon.got == [control.Enqueue([JobSpec("k", '{"path":"a"}', delay_ms=1_000, unique="u")])]


async def test_a_job_that_is_made_already(daemon: DaemonDouble, client: Client) -> None:
    """`handler.enqueue` checks the arguments and makes the job; what is said twice has no meaning."""
    daemon.answer = place
    job, before = JobSpec("mail", "{}", queue="q"), JobSpec("mail", "{}", queue="q")
    async with client:
        await client.enqueue(job, blob=b"123")
    assert job == before
    assert client.enqueue_sync(job).id > 0
    assert [(request.jobs[0].queue, request.jobs[0].blob_fd) for request in daemon.got] == [("q", 0), ("q", None)]
    with pytest.raises(InvalidOption, match="give it alone"):
        client.enqueue_sync(job, {"to": "me"})
    with pytest.raises(InvalidOption, match="give it alone"):
        client.enqueue_sync(job, priority=3)


def test_a_job_spec_with_a_dict_of_arguments(daemon: DaemonDouble, client: Client) -> None:
    """The daemon would answer that a message cannot be read, and nobody would know what is meant."""
    spec = JobSpec("a", {"n": 1})  # type: ignore[arg-type]  # what is tested
    client.enqueue_sync(spec)
    client.enqueue_many_sync([spec, JobSpec("b")])
    assert [job.args for request in daemon.got for job in request.jobs] == ['{"n":1}', '{"n":1}', "{}"]
    with pytest.raises(NotData, match="pass a dict of arguments"):
        client.enqueue_many_sync([JobSpec("a", 5)])  # type: ignore[arg-type]  # what is tested


def test_enqueue_sync(daemon: DaemonDouble, client: Client) -> None:
    """A script without an event loop could not enqueue."""
    assert client.enqueue_sync("k", strict=True) == Enqueued(1)
    assert client.enqueue_many_sync([("a", {"n": 1}), JobSpec("b")]) == [Enqueued(1), Enqueued(2)]
    assert client.enqueue_many_sync([]) == []
    assert daemon.got == [
        control.Enqueue([JobSpec("k")], True),
        control.Enqueue([JobSpec("a", '{"n":1}'), JobSpec("b")]),
    ]


REQUESTS: list[tuple[str, tuple[Any, ...], Any]] = [
    ("get", (3,), control.GetJob(3)),
    ("list", (JobFilter(queue="q"),), control.ListJobs(JobFilter(queue="q"))),
    ("wait", ([1, 2],), control.WaitJobs([1, 2])),
    ("retry", ({1},), control.RetryJobs([1])),
    ("log", (1, 5), control.ReadLog(1, 5)),
    ("dead_get", (1,), control.GetDead(1)),
    ("queues", (), control.ListQueues()),
    ("kinds", (), control.ListKinds()),
    ("reload", (), control.Reload()),
    ("request", (control.GetJob(9),), control.GetJob(9)),
]
LISTS = (control.ListJobs, control.WaitJobs, control.CancelJobs, control.RetryJobs)
MORE_LISTS = (control.ListQueues, control.ListKinds, control.Reload, control.ListDead)
LISTS_OF_VERDICTS = (control.ReplayDead, control.DiscardDead)


def empty(request: Any) -> Any:
    """The emptiest answer of the right type."""
    if isinstance(request, (*LISTS, *MORE_LISTS, *LISTS_OF_VERDICTS)):
        return []
    return control.LogPiece(5, 5, "", True) if isinstance(request, control.ReadLog) else None


@pytest.mark.parametrize(("verb", "args", "request_"), REQUESTS, ids=[verb for verb, *_ in REQUESTS])
async def test_both_forms_send_the_same(
    daemon: DaemonDouble, client: Client, verb: str, args: tuple[Any, ...], request_: Any
) -> None:
    """A method and its `_sync` twin would drift apart."""
    daemon.answer = empty
    async with client:
        first = await getattr(client, verb)(*args)
    assert first == getattr(client, f"{verb}_sync")(*args)
    assert daemon.got == [request_, request_]


def test_every_method_has_its_twin() -> None:
    """A verb could be used from one world only."""
    public = {name for name in vars(Client) if not name.startswith("_")} - {"aclose", "close"}
    assert {f"{name}_sync" for name in public if not name.endswith("_sync")} == {
        n for n in public if n.endswith("_sync")
    }


def test_acts_name_their_user(daemon: DaemonDouble, client: Client) -> None:
    """Nobody could see who replayed a dead letter, or stopped a job."""
    daemon.answer = empty
    client.replay_sync(1, {"lang": "de"})
    client.cancel_sync(1)
    client.discard_sync([1])
    client.pause_sync("q")
    client.resume_sync("q")
    assert daemon.got[0].set_args == '{"lang":"de"}'
    assert all(request.who for request in daemon.got)


def test_errors_of_the_daemon_come_out_as_their_class(daemon: DaemonDouble, client: Client) -> None:
    """A producer could not tell a duplicate from a failure."""

    def refuse(_: Any) -> Any:
        raise Duplicate("job 7 has it")

    daemon.answer = refuse
    for _ in range(2):
        with pytest.raises(Duplicate, match="job 7 has it"):
            client.enqueue_sync("k", unique="u", strict=True)
    assert daemon.connections == 1


def test_nothing_is_sent_that_is_not_data(daemon: DaemonDouble, client: Client) -> None:
    """A bad job at the end of a list would be found after the first were sent."""
    client.batch_jobs = 1
    with pytest.raises(NotData, match=r"args\.f: builtin"):
        client.enqueue_many_sync([("k", {}), ("k", {"f": len})])
    with pytest.raises(InvalidOption, match="did you mean 'delay'"):
        client.enqueue_sync("k", dealy=1)
    assert daemon.got == []


def test_what_like_jobs_have_in_common_is_said_once(daemon: DaemonDouble, client: Client) -> None:
    """A thousand jobs of one kind would cost the daemon three times as much; or jobs that differ would become alike."""
    client.enqueue_many_sync([("k", {"n": n}) for n in range(3)])
    assert daemon.got == [control.EnqueueAlike(JobSpec("k"), ['{"n":0}', '{"n":1}', '{"n":2}'])]
    like = [JobSpec("k", '{"n":1}', queue="q", tags=["t"], delay_ms=5) for _ in range(2)]
    client.enqueue_many_sync(like, strict=True, patience=1)
    assert daemon.got[1] == control.EnqueueAlike(
        JobSpec("k", queue="q", tags=["t"], delay_ms=5), ['{"n":1}'] * 2, True, 1_000
    )
    for field, value in {"kind": "x", "queue": "x", "priority": 1, "unique": "x", "tags": ["x"], "at_ms": 1}.items():
        odd = [*like, msgspec.structs.replace(like[0], **{field: value})]
        client.enqueue_many_sync(odd)
        assert daemon.got[-1] == control.Enqueue(odd), field
    with_files = [JobSpec("k", blob=Blob(1, "00", path="/a"))] * 2
    client.enqueue_many_sync(with_files)
    assert daemon.got[-1] == control.Enqueue(with_files)


async def test_more_than_a_batch_is_split(daemon: DaemonDouble, client: Client) -> None:
    """A long list would be refused as a whole, or nobody would know how much of it is in the queue."""
    client.batch_jobs = 2
    async with client:
        assert len(await client.enqueue_many([("k", {"n": n}) for n in range(5)])) == 5
    assert [jobs_in(request) for request in daemon.got] == [2, 2, 1]

    def full(request: Any) -> Any:
        if len(daemon.got) == 5:
            raise InvalidOption("no")
        return place(request)

    daemon.answer = full
    with pytest.raises(InvalidOption, match=r"no \(the first 2 jobs of this call are in the queue"):
        client.enqueue_many_sync([("k", {})] * 5)


# --- connections that end


def test_a_restart_between_two_requests_is_not_noticed(daemon: DaemonDouble, client: Client) -> None:
    """A web process would fail its next enqueue after every deploy of the daemon."""
    client.enqueue_sync("k")
    daemon.restart()
    client.enqueue_sync("k")
    assert len(daemon.got) == 2


async def test_a_restart_is_not_noticed_on_a_loop_either(daemon: DaemonDouble, client: Client) -> None:
    """The same, where the loop had no turn to see that the connection has ended."""
    async with client:
        await client.enqueue("k")
        daemon.restart()
        await client.enqueue("k")
    assert len(daemon.got) == 2


async def test_reads_are_repeated_once(daemon: DaemonDouble, client: Client) -> None:
    """A look at a job would fail because the daemon was restarted meanwhile."""

    def once(_: Any) -> Any:
        return HANG_UP if len(daemon.got) in (1, 3, 4) else None

    daemon.answer = once
    async with client:
        assert await client.get(1) is None
        with pytest.raises(ChannelClosed):
            await client.get(1)
    assert len(daemon.got) == 4
    daemon.got.clear()
    assert client.get_sync(1) is None
    with pytest.raises(ChannelClosed):
        client.get_sync(1)
    assert len(daemon.got) == 4


async def test_an_enqueue_without_an_answer_is_never_sent_twice(daemon: DaemonDouble, client: Client) -> None:
    """One call would put two jobs into the queue."""
    daemon.answer = lambda _: HANG_UP
    async with client:
        with pytest.raises(ChannelClosed, match=r"is not known.*unique="):
            await client.enqueue("k")
    with pytest.raises(ChannelClosed, match=r"is not known.*unique="):
        client.enqueue_sync("k")
    with pytest.raises(ChannelClosed, match=r"is not known.*perdure jobs"):
        client.cancel_sync(1)
    assert len(daemon.got) == 3


async def test_timeouts(daemon: DaemonDouble) -> None:
    """A daemon that hangs would hang its producers; or the doubt about an enqueue would not be told."""
    daemon.answer = lambda _: SILENCE
    # Either side may be the first to say so.
    async with Client(daemon.path, timeout=0.05) as client:
        with pytest.raises(CallTimeout, match=r"within .*\. Whether the daemon took the request is not known"):
            await client.enqueue("k")
        with pytest.raises(CallTimeout, match=r"within (0\.05 s|the deadline)$"):
            await client.get(1)
        with pytest.raises(CallTimeout, match=r"within (0\.1 s|the deadline)$"):
            await client.wait(1, timeout=0.1)
        with client, pytest.raises(CallTimeout, match=r"within (0\.05 s|the deadline)$"):
            client.get_sync(1)
    assert len(daemon.got) == 4


def test_no_daemon(tmp_path: Path) -> None:
    """The error would be a socket's errno instead of what to do."""
    with pytest.raises(DaemonUnreachable, match="perdure run"):
        Client(tmp_path / "none").status_sync()


# --- loops, threads, forks


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_each_event_loop_has_its_own_connection(daemon: DaemonDouble, client: Client, new_loop: Any) -> None:
    """The second asyncio.run() of a script would use a dead loop's connection; or each would leave a descriptor."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        loop = new_loop()
        loop.run_until_complete(client.enqueue("k"))
        loop.close()
    asyncio.run(client.aclose())
    gc.collect()
    assert daemon.connections == 5
    assert len(os.listdir("/proc/self/fd")) <= before + 5  # the double's ends may close a moment later


async def test_many_tasks_share_a_connection(daemon: DaemonDouble, client: Client) -> None:
    """A burst of requests would open a connection each."""
    async with client:
        await asyncio.gather(*(client.enqueue("k") for _ in range(50)))
    assert (daemon.connections, len(daemon.got)) == (1, 50)


def test_threads_do_not_wait_for_each_other(daemon: DaemonDouble, client: Client) -> None:
    """One thread's long wait would hold up the enqueues of all others."""
    asked = threading.Event()

    def answer(request: Any) -> Any:
        if isinstance(request, control.WaitJobs):
            asked.set()
            return SILENCE
        return place(request)

    daemon.answer = answer

    def wait() -> None:
        with client, pytest.raises(DaemonUnreachable):
            client.wait_sync(1)

    thread = threading.Thread(target=wait)
    thread.start()
    assert asked.wait(10)
    assert client.enqueue_sync("k") == Enqueued(1)
    daemon.answer = lambda _: HANG_UP
    daemon.restart()
    thread.join(10)
    assert not thread.is_alive()


def test_after_a_fork_both_sides_can_go_on(daemon: DaemonDouble, client: Client) -> None:
    """Parent and child would read each other's answers from one socket."""

    async def twice() -> None:
        await client.enqueue("k")
        child = os.fork()
        if child == 0:
            status = 1
            try:
                fresh = asyncio.new_event_loop()
                asyncio.events._set_running_loop(None)
                fresh.run_until_complete(client.enqueue("k"))
                client.enqueue_sync("k")
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        await client.enqueue("k")
        await client.aclose()

    client.enqueue_sync("k")
    asyncio.run(twice())
    client.enqueue_sync("k")
    assert (daemon.connections, len(daemon.got)) == (4, 6)


# --- where the socket is


def test_where_the_socket_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client would talk to another daemon than the command line does."""
    monkeypatch.chdir(tmp_path)
    for name in ("PERDURE_SOCKET", "PERDURE_CONFIG", "RUNTIME_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    assert Client().socket_path == str(tmp_path / "perdure.sock")
    (tmp_path / "perdure.toml").write_text('[daemon]\nsocket = "x.sock"\n[limits]\nbatch = 7\n')
    assert Client().socket_path == str(tmp_path / "x.sock")
    assert Client().batch_jobs == 7
    other = tmp_path / "other.toml"
    other.write_text('[daemon]\nsocket = "y.sock"\n')
    monkeypatch.setenv("PERDURE_SOCKET", "/run/z.sock")
    assert Client().socket_path == "/run/z.sock"
    assert Client(config=other).socket_path == str(tmp_path / "y.sock")
    assert Client("/s").socket_path == "/s"


def test_the_default_client_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each enqueue of a handler would read the configuration and connect anew."""
    monkeypatch.setenv("PERDURE_SOCKET", "/run/z.sock")
    set_default_client(None)
    try:
        assert default_client() is default_client()
    finally:
        set_default_client(None)


@pytest.mark.parametrize("job_id", [0, -1, 10**30, True, "7", 1.0])
def test_what_cannot_be_an_id_is_refused_before_it_is_sent(job_id: Any) -> None:
    """An OverflowError of the encoder, or a complaint about `$[3].id`, says nothing to whoever passed it."""
    with Client("/nowhere/perdure.sock") as client, pytest.raises(InvalidOption, match="not the id of a job"):
        client.get_sync(job_id)


MISTAKES: list[tuple[Any, str]] = [
    (lambda client: client.enqueue_sync("k", blob=12), "blob: expected bytes or the path of a file, got int"),
    (lambda client: client.enqueue_sync("k", []), "pass a dict of arguments"),
    (lambda client: client.enqueue_many_sync([("a", {}), {"kind": "a"}]), "job 2: expected a JobSpec, .* got dict"),
    (lambda client: client.enqueue_many_sync([("a", {}, {})]), "job 1: expected a JobSpec, .* got tuple of 3"),
    (lambda client: client.enqueue_many_sync(JobSpec("a")), "expected a list of jobs, got JobSpec"),
    (lambda client: client.wait_sync(1, timeout="5s"), "timeout: expected a number of seconds"),
    (lambda client: client.list_sync({"queue": "q"}), "expected a JobFilter"),
    (lambda client: client.pause_sync(5), "queue: expected text, got int"),
    (lambda client: next(client.follow_sync(queues=5)), "queues: expected a name or several, got int"),
    (lambda _: Client(5), "socket_path: expected a path, got int"),  # type: ignore[arg-type]
    (lambda _: Client(config=5), "config: expected a path, got int"),  # type: ignore[arg-type]
    (lambda _: Client("s", timeout=-1), "timeout: expected a number of seconds"),
]


@pytest.mark.parametrize(("call", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_what_has_the_wrong_type_is_refused_with_what_was_expected(
    daemon: DaemonDouble, client: Client, call: Any, message: str
) -> None:
    """A TypeError from somewhere inside names nothing that the caller has written."""
    with pytest.raises(UsageError, match=message):
        call(client)
    assert daemon.got == []
