"""The listening socket: its file, its owner, a shortage of descriptors, and the blocking client."""

from __future__ import annotations

import asyncio
import errno
import grp
import os
import pwd
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perdure.errors import CallTimeout, ChannelClosed, ConfigError, DaemonUnreachable, Forbidden, NotFound, UsageError
from perdure.wire import packet, reach
from perdure.wire.blocking import BlockingCaller
from perdure.wire.calls import connect
from perdure.wire.control import GetJob, ListQueues, PauseQueue, WaitJobs
from perdure.wire.data import QueueView
from perdure.wire.envelope import Event
from perdure.wire.peer import Peer, owner_or_group, peer_of
from perdure.wire.server import Server
from tests.support.wait import async_wait_until
from tests.wire.conftest import Pair, Run
from tests.wire.office import anybody


def handler(request: object, peer: Peer) -> Any:
    """Answers at once, with 10 MB, with an error, or never."""
    match request:
        case PauseQueue():
            return None
        case ListQueues():
            return [QueueView("q" * 10_000_000, {})]
        case GetJob():
            raise NotFound("no such job")
        case WaitJobs():
            return asyncio.get_running_loop().create_future()
    raise AssertionError(request)


def serving(path: Path, **options: Any) -> Server:
    """A server that listens."""
    server = Server(str(path), handler, options.pop("may_connect", anybody), **options)
    server.start()
    return server


# --- the file


def test_mode_and_group_are_set_whatever_the_umask(run: Run, path: Path) -> None:
    """The socket would be open to all, or closed to its group, by the umask of whoever starts the daemon."""

    async def work() -> None:
        before = os.umask(0o777)
        try:
            server = serving(path, mode=0o640, group=grp.getgrgid(os.getgid()).gr_name)
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert path.stat().st_gid == os.getgid()
        server.close()
        assert not path.exists()

    run(work())


def test_the_socket_of_a_dead_daemon_is_replaced(run: Run, path: Path) -> None:
    """After a kill -9 the daemon would not start again."""

    async def work() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
            dead.bind(str(path))
        server, caller = serving(path), await connect(str(path))
        assert await caller.request(PauseQueue("q")) is None
        caller.close()
        server.close()

    run(work())


def in_the_way(path: Path, what: str) -> Callable[[], object]:
    """Put something at the path; what removes it again."""
    if what == "file":
        path.write_text("precious")
        return path.unlink
    kind = socket.SOCK_STREAM if what == "foreign" else socket.SOCK_SEQPACKET
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.bind(str(path))
    sock.listen(0)
    return sock.close


@pytest.mark.parametrize("what", ["file", "daemon", "foreign"])
def test_what_is_not_ours_stays(run: Run, path: Path, what: str) -> None:
    """A second daemon, or a wrong path, would remove a file or a live socket of somebody else."""

    async def work() -> None:
        remove = in_the_way(path, what)
        with pytest.raises(ConfigError, match=r"daemon\.socket"):
            serving(path)
        assert path.exists()
        remove()

    run(work())


@pytest.mark.parametrize(("name", "group"), [("x" * 200, ""), ("s/nowhere", ""), ("s", "no such group")])
def test_a_path_or_group_that_cannot_be_is_explained(run: Run, path: Path, name: str, group: str) -> None:
    """The daemon would stop with a bare OSError."""

    async def work() -> None:
        with pytest.raises(ConfigError, match=r"daemon\.socket"):
            serving(path.parent / name, group=group)
        assert os.listdir(path.parent) == []

    run(work())


def test_closing_removes_only_ones_own_file(run: Run, path: Path) -> None:
    """A daemon that ends late would remove the socket of the one that took its place."""

    async def work() -> None:
        first = serving(path)
        path.unlink()
        second = serving(path)
        first.close()
        assert path.exists()
        second.close()
        assert not path.exists()

    run(work())


def test_an_adopted_socket_is_served_and_its_file_stays(run: Run, path: Path) -> None:
    """systemd's socket would be removed when the daemon stops."""

    async def work() -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.bind(str(path))
        sock.listen()
        server = Server(str(path), handler, anybody)
        server.adopt(sock)
        caller = await connect(str(path))
        assert await caller.request(PauseQueue("q")) is None
        caller.close()
        server.close()
        assert path.exists()

    run(work())


def test_a_shortage_of_descriptors_does_not_spin(run: Run, path: Path) -> None:
    """With EMFILE the listening socket stays readable: the loop would take a whole core and log without end."""

    class Short:
        def __init__(self, sock: socket.socket) -> None:
            self.sock, self.attempts, self.over = sock, 0, False

        def __getattr__(self, name: str) -> Any:
            return getattr(self.sock, name)

        def accept(self) -> Any:
            self.attempts += 1
            if not self.over:
                asyncio.get_running_loop().call_later(0.05, setattr, self, "over", True)
                raise OSError(errno.EMFILE, "Too many open files")
            return self.sock.accept()

    async def work() -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.bind(str(path))
        sock.listen()
        short: Any = Short(sock)
        server = Server(str(path), handler, anybody)
        server.adopt(short)
        caller = await connect(str(path))
        assert await caller.request(PauseQueue("q"), 5) is None
        assert short.attempts <= 4
        caller.close()
        server.close()

    run(work())


def test_what_a_slow_client_has_not_taken_is_waited_for(run: Run, path: Path) -> None:
    """The end of its job would be dropped with the connection, right when the daemon stops."""

    async def work() -> None:
        server = serving(path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.setblocking(False)
            client.connect(str(path))
            await async_wait_until(lambda: bool(server.clients))
            peer = server.clients[0]
            while not server.pending_bytes(peer):
                server.send(peer, Event("x" * 50_000))
            server.send(peer, Event("the end"))
            await server.settle(0.01)
            assert server.pending_bytes(peer), "it has waited for one who does not read"
            settling = asyncio.create_task(server.settle(10))
            taken = b""
            while b"the end" not in taken:
                taken = await asyncio.get_running_loop().sock_recv(client, 100_000)
            await settling
            assert not server.pending_bytes(peer)
            server.close()

    run(work())


# --- peers


def test_the_kernel_names_the_peer(pair: Pair) -> None:
    """Who connects would be unknown, or known by what it says of itself."""
    peer = peer_of(pair[0])
    assert (peer.pid, peer.uid, peer.gid) == (os.getpid(), os.getuid(), os.getgid())
    assert peer.groups == {os.getgid(), *os.getgroups()}


def test_groups_come_from_the_user_database_if_need_be() -> None:
    """Where the kernel does not tell, members of the group would be refused."""
    user = pwd.getpwuid(os.getuid())
    assert Peer(1, user.pw_uid, user.pw_gid).groups == {user.pw_gid, *os.getgrouplist(user.pw_name, user.pw_gid)}
    assert Peer(1, 3_999_999_999, 5).groups == {5}


@pytest.mark.parametrize(
    ("uid", "groups", "expected"), [(0, [], True), (7, [], True), (8, [], False), (8, [50], True), (8, [51], False)]
)
def test_owner_root_and_group_may_connect(uid: int, groups: list[int], expected: bool) -> None:
    """The wrong people would be let in or kept out."""
    assert owner_or_group(7, 50)(Peer(1, uid, 1, frozenset(groups))) is expected


def test_without_a_group_only_owner_and_root() -> None:
    """No configured group would mean any group."""
    assert not owner_or_group(7)(Peer(1, 8, 8, frozenset((8,))))


# --- reaching it


def nothing(path: Path) -> None:
    """There is no socket."""


def left_behind(path: Path) -> None:
    """A socket that nobody listens at."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(str(path))


def a_file(path: Path) -> None:
    """A plain file."""
    path.touch()


@pytest.mark.parametrize(
    ("prepare", "message"),
    [(nothing, "perdure run"), (left_behind, "left the socket .* behind"), (a_file, "is not a socket")],
)
def test_no_daemon_is_explained(path: Path, prepare: Callable[[Path], None], message: str) -> None:
    """People would see `[Errno 111] Connection refused`."""
    prepare(path)
    with pytest.raises(DaemonUnreachable, match=message) as caught:
        BlockingCaller.connect(str(path))
    assert caught.value.exit_code == 3


def test_other_reasons_are_explained() -> None:
    """A socket that may not be opened would look like a daemon that does not run."""
    assert isinstance(reach.unreachable("/s", PermissionError(errno.EACCES, "no")), Forbidden)
    assert "another program" in str(reach.unreachable("/s", OSError(errno.EPROTOTYPE, "no")))
    with pytest.raises(ConfigError, match="107"):
        BlockingCaller.connect("/" + "x" * 200)


def test_a_daemon_that_does_not_accept_is_given_up(run: Run, path: Path) -> None:
    """A stopped daemon (SIGSTOP) would make every command hang."""

    async def work() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.bind(str(path))
            sock.listen(0)
            waiting = reach.connect_once(str(path))
            assert waiting is not None
            with waiting, pytest.raises(DaemonUnreachable, match="did not accept"):
                await connect(str(path), 0.01)
            with pytest.raises(DaemonUnreachable, match="did not accept"):
                BlockingCaller.connect(str(path), 0.01)

    run(work())


# --- the blocking client


def test_the_blocking_client_does_what_the_other_does(run: Run, path: Path) -> None:
    """The command line would get other answers than the Python client."""

    async def work() -> None:
        server = serving(path)
        await asyncio.to_thread(talk, path)
        await async_wait_until(lambda: server.calls_in_flight == 0 and not server.clients)
        server.close()

    run(work())


def talk(path: Path) -> None:
    """A conversation with each kind of answer."""
    with BlockingCaller.connect(str(path)) as caller:
        assert caller.request(PauseQueue("q"), 5) is None
        assert len(caller.request(ListQueues())[0].name) == 10_000_000
        with pytest.raises(NotFound, match="no such job"):
            caller.request(GetJob(1))
        with pytest.raises(CallTimeout):
            caller.request(WaitJobs([1]), 0.01)
        assert caller.request(PauseQueue("q" * 10_000_000)) is None
        with pytest.raises(UsageError):
            caller.request(PauseQueue("q" * packet.CLIENT_MESSAGE_BYTES))
        assert caller.request(PauseQueue("q")) is None
    with pytest.raises(ChannelClosed):
        caller.request(PauseQueue("q"))


def test_the_blocking_client_hears_that_it_is_refused(run: Run, path: Path) -> None:
    """It would see a broken pipe and not the reason."""

    async def work() -> None:
        refused = threading.Event()
        server = serving(path, may_connect=lambda _: False, report=lambda *_: refused.set())
        await asyncio.to_thread(be_refused, path, refused)
        server.close()

    run(work())


def be_refused(path: Path, refused: threading.Event) -> None:
    """Try to talk when the connection has ended already."""
    with BlockingCaller.connect(str(path)) as caller:
        assert refused.wait(5)
        with pytest.raises(Forbidden):
            caller.request(PauseQueue("q"))
        with pytest.raises(ChannelClosed):
            caller.request(PauseQueue("q"))


def test_a_daemon_that_dies_ends_the_wait(path: Path) -> None:
    """A command would wait for ever for a daemon that was killed."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(path))
    listener.listen()

    def die() -> None:
        with listener, listener.accept()[0] as sock:
            sock.recv(1000)

    thread = threading.Thread(target=die)
    thread.start()
    with BlockingCaller.connect(str(path)) as caller, pytest.raises(ChannelClosed):
        caller.request(WaitJobs([1]))
    thread.join()


def test_the_blocking_client_does_not_load_asyncio() -> None:
    """Every `perdure enqueue` in a shell loop would pay for an event loop that it does not use."""
    code = "import sys, perdure.wire.blocking; sys.exit('asyncio' in sys.modules or 'traceback' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
