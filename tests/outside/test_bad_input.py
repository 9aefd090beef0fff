"""Bad input to real commands and a real daemon: a clear answer, the right exit code, nothing half done."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perdure.errors import InvalidArguments, InvalidOption, MessageTooLarge, NotData
from perdure.store.migrate import load_migrations
from perdure.wire.control import GetStatus, ListJobs
from perdure.wire.data import JobFilter
from perdure.wire.envelope import Call
from tests.support.daemon import Daemon
from tests.support.disks import small_disk_at

HANDLERS = """
from perdure import Context, job

@job("greet")
def greet(ctx: Context, name: str = "world", times: int = 1) -> str:
    return name * times

@job("anything")
def anything(**values: object) -> list[str]:
    return sorted(values)
"""
LETTERS_10_000 = "q" * 10_000


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One for all tests here: none of them may harm it."""
    folder = tmp_path_factory.mktemp("queue")
    (folder / "jobs.py").write_text(HANDLERS)
    one = Daemon(folder, ["jobs"], "[workers]\ncount = 1\n")
    try:
        one.start()
        yield one
        assert one.status() is not None
        assert one.stop() == 0
        assert "Traceback" not in one.log()
    finally:
        one.close()


@pytest.fixture
def place(tmp_path: Path) -> Daemon:
    """A folder with a configuration in which no daemon runs."""
    (tmp_path / "jobs.py").write_text(HANDLERS)
    return Daemon(tmp_path, ["jobs"])


def newest(daemon: Daemon) -> int:
    """The id of the job that came in last."""
    with daemon.client() as client:
        found = client.list_sync(JobFilter(limit=1))
    return found[0].id if found else 0


def told(done: subprocess.CompletedProcess[str], code: int) -> str:
    """What a refused command said; fails unless it said it as it should."""
    assert (done.returncode, done.stdout) == (code, ""), done
    assert done.stderr.startswith("perdure: "), done
    assert "Traceback" not in done.stderr
    assert len(done.stderr) < 1500
    return done.stderr


def refused(daemon: Daemon, *arguments: str, stdin: str | None = None, code: int = 2) -> str:
    """What a command said that must leave nothing in the queue."""
    before = newest(daemon)
    words = told(daemon.command(*arguments, stdin=stdin), code)
    assert newest(daemon) == before
    return words


# --- jobs


def test_unknown_kind(daemon: Daemon) -> None:
    """It may be known tomorrow: the job is kept, and says what it waits for."""
    done = daemon.command("enqueue", "nobody.knows", "a=1")
    assert done.returncode == 0
    shown = daemon.command("show", done.stdout.strip()).stdout
    assert "parked: no handler named nobody.knows is loaded" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nme=Ada"], 'unknown argument "nme" (did you mean "name"?)'),
        (["name:=3"], '"name": expected str, got int (3)'),
        (["times=3"], "use times:=3 to pass a number"),
        (["times:=3.5"], "expected int, got float"),
        (["times:=" + "9" * 30], "an integer beyond 64 bits"),
    ],
)
def test_wrong_arguments(daemon: Daemon, arguments: list[str], words: str) -> None:
    """A job that cannot run would be found at night."""
    assert words in refused(daemon, "enqueue", "greet", *arguments)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_nan(daemon: Daemon, value: str) -> None:
    """Not JSON; many writers produce it all the same."""
    assert "no NaN and no Infinity; write null" in refused(daemon, "enqueue", "anything", f"a:={value}")
    line = f'{{"a": [1, {value}]}}\n'
    words = refused(daemon, "enqueue", "anything", "--from", "-", stdin='{"a": 1}\n' + line)
    assert words.startswith("perdure: stdin:2: ")
    with daemon.client() as client, pytest.raises(NotData, match=r"args\.a\[0\]: "):
        client.enqueue_sync("anything", {"a": [float(value)]})


def test_lone_surrogates(daemon: Daemon) -> None:
    """Half a character can be in a Python text, in JSON and in argv, and in no file."""
    assert "a lone surrogate" in refused(daemon, "enqueue", "anything", "--json", '{"a": "\\ud800 and more"}')
    assert "stdin:1: " in refused(daemon, "enqueue", "anything", "--from", "-", stdin='{"\\udfff": 1}')
    assert "argument 'a' is not valid UTF-8" in refused(daemon, "enqueue", "anything", "a=\udcff")
    assert "'q\\udcff' is not valid UTF-8" in refused(daemon, "enqueue", "anything", "--queue", "q\udcff")
    with daemon.client() as client:
        with pytest.raises(NotData, match=r"args\.a: text with a lone surrogate"):
            client.enqueue_sync("anything", {"a": "\ud800"})
        for option in ("queue", "unique"):
            with pytest.raises(InvalidOption, match=rf"{option}: .* has a lone surrogate"):
                client.enqueue_sync("anything", {}, **{option: "\ud800"})
        with pytest.raises(InvalidOption, match=r"kind: .* has a lone surrogate"):
            client.enqueue_sync("\ud800", {})


def test_100_mb_of_json(daemon: Daemon, tmp_path: Path) -> None:
    """Neither the command nor the daemon may take it into memory, or hang over it."""
    big = tmp_path / "big.jsonl"
    with big.open("w") as file:
        file.write('{"name": "')
        file.writelines("x" * (1 << 20) for _ in range(100))
        file.write('"}\n')
    words = refused(daemon, "enqueue", "greet", "--from", str(big))
    assert "the line is longer than" in words
    assert "pass a path" in words
    with daemon.client() as client, pytest.raises(MessageTooLarge, match="pass paths instead of contents"):
        client.enqueue_sync("greet", {"name": "x" * (100 << 20)})
    with daemon.client() as client, pytest.raises(InvalidArguments, match=r"limits\.args"):
        client.enqueue_sync("greet", {"name": "x" * (2 << 20)})


def test_depth_10_000(daemon: Daemon) -> None:
    """Deep nesting breaks what recurses: parsers, printers, and those who read the queue later."""
    deep = "[" * 10_000 + "]" * 10_000
    assert "nested too deeply (limits.args_depth)" in refused(daemon, "enqueue", "anything", f"a:={deep}")
    assert "stdin:1: " in refused(daemon, "enqueue", "anything", "--from", "-", stdin=f'{{"a": {deep}}}')
    assert "101 deep" in refused(daemon, "enqueue", "anything", "a:=" + "[" * 100 + "]" * 100)
    value: list[Any] = []
    for _ in range(10_000):
        value = [value]
    with daemon.client() as client, pytest.raises(NotData, match="nested too deep"):
        client.enqueue_sync("anything", {"a": value})


def test_an_argument_named_like_a_keyword(daemon: Daemon) -> None:
    """`class` is a fine name for JSON, and cannot be written in a Python call."""
    done = daemon.command("enqueue", "anything", "class:=1", "a b=2", "self=3", "--wait", "--output", "json")
    assert msgspec.json.decode(done.stdout)["result"] == ["a b", "class", "self"]
    assert 'unknown argument "class"' in refused(daemon, "enqueue", "greet", "class:=1")


@pytest.mark.parametrize("value", ["-1", "-5m", "nan", "9999999999d"])
def test_a_delay_that_is_none(daemon: Daemon, value: str) -> None:
    """A negative delay that counts as none would hide a mistake; a huge one would overflow."""
    assert "'--delay'" in refused(daemon, "enqueue", "greet", f"--delay={value}")


@pytest.mark.parametrize("value", ["-1", "1969-01-01", "2027-02-30T10:00", "9" * 30])
def test_a_moment_that_is_none(daemon: Daemon, value: str) -> None:
    """A job at a moment that does not exist would never run, or at once."""
    assert "'--at'" in refused(daemon, "enqueue", "greet", f"--at={value}")


@pytest.mark.parametrize("name", ["a/b", LETTERS_10_000, "two\nlines", "\x1b[31mred", ""])
def test_a_queue_name_that_is_none(daemon: Daemon, name: str) -> None:
    """A name goes into file names, tables and terminals."""
    words = refused(daemon, "enqueue", "greet", f"--queue={name}")
    assert "a name has 1 to 128 letters, digits, and . _ : -" in words
    assert "\x1b" not in words
    with daemon.client() as client:
        with pytest.raises(InvalidOption, match="a name has 1 to 128"):
            client.enqueue_sync("greet", {}, queue=name)
        with pytest.raises(InvalidOption, match="a name has 1 to 128"):
            client.pause_sync(name)


def test_one_bad_queue_among_several(daemon: Daemon) -> None:
    """The first would be paused, the second refused, and nobody would know where it stopped."""
    assert 'queue "a/b"' in told(daemon.command("queue", "pause", "fine", "a/b"), 2)
    assert "fine" not in daemon.command("queue", "list").stdout


@pytest.mark.parametrize("kind", ["", LETTERS_10_000, "\x1b]0;title\x07"])
def test_a_kind_that_is_none(daemon: Daemon, kind: str) -> None:
    """The same for kinds."""
    words = refused(daemon, "enqueue", kind)
    assert "a name has 1 to 128" in words
    assert "\x1b" not in words


@pytest.mark.parametrize(
    ("option", "value"),
    [("--max-attempts", "0"), ("--max-attempts", "9" * 30), ("--priority", "20"), ("--timeout", "-1"), ("--tag", "")],
)
def test_options_out_of_range(daemon: Daemon, option: str, value: str) -> None:
    """Numbers beyond 64 bits break whatever packs them."""
    assert option.strip("-") in refused(daemon, "enqueue", "greet", f"{option}={value}")


@pytest.mark.parametrize("job_id", ["abc", "0", "9" * 30, "\udcff"])
def test_ids_that_are_none(daemon: Daemon, job_id: str) -> None:
    """The message must say what an id is."""
    assert "is not a job id, which is a whole number from 1" in told(daemon.command("show", "--", job_id), 2)


def test_ids_that_nobody_has(daemon: Daemon) -> None:
    """A typing error must not read like the history of a job."""
    for command in (["show"], ["logs"], ["wait"]):
        words = told(daemon.command(*command, "987654321"), 1)
        assert "no job 987654321; it never was, or it finished and was pruned" in words


def test_a_bad_line_in_a_file(daemon: Daemon) -> None:
    """Half a file in the queue is worse than none."""
    lines = ['{"kind": "greet"}'] * 50 + ['{"kind": "greet", "priority": "high"}']
    words = refused(daemon, "enqueue", "--from", "-", stdin="\n".join(lines))
    assert words == "perdure: stdin:51: priority: expected int | null, got str. Nothing was enqueued\n"


# --- the socket


def raw(daemon: Daemon) -> socket.socket:
    """A connection by hand."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(10)
    sock.connect(str(daemon.socket))
    return sock


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 90_000, b"\x91" * 60_000, b"\xdd\xff\xff\xff\xff", os.urandom(500)],
    ids=["http", "large", "deep", "huge array", "random"],
)
def test_garbage_on_the_socket(daemon: Daemon, garbage: bytes) -> None:
    """Whoever may connect can send anything; only its own connection may end."""
    with raw(daemon) as sock:
        sock.send(garbage)
        assert b"ProtocolError" in sock.recv(100_000)
        assert sock.recv(100_000) == b""
    assert daemon.status() is not None


def test_a_client_that_never_reads(daemon: Daemon) -> None:
    """Its answers pile up: others must be served all the same, and it must be held up, not the daemon."""
    with raw(daemon) as sock:
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            for number in range(1, 20_000):
                sock.send(msgspec.msgpack.encode(Call(number, None, ListJobs(JobFilter()))))
        assert number < 20_000 - 1
        assert daemon.command("status").returncode == 0
    with raw(daemon) as sock:
        sock.send(msgspec.msgpack.encode(Call(1, None, GetStatus())))  # gone before the answer
    assert daemon.status() is not None


def test_values_that_no_message_can_hold(daemon: Daemon) -> None:
    """The client's own errors name the option, not the encoder."""
    with daemon.client() as client:
        for options in ({"priority": 10**30}, {"delay": math.nan}, {"at": math.inf}, {"tags": "abc"}):
            with pytest.raises(InvalidOption, match=f"^{next(iter(options))}: "):
                client.enqueue_sync("greet", {}, **options)  # type: ignore[arg-type]


# --- files and folders


def test_a_configuration_that_is_a_folder(place: Daemon) -> None:
    """As when the file's name was forgotten."""
    assert "is a folder; name the file in it" in told(place.command("run", "--config", str(place.folder)), 2)
    assert "is a folder; name the file in it" in told(place.command("enqueue", "greet", "--config", "."), 2)


def test_a_configuration_with_many_mistakes(place: Daemon) -> None:
    """One at a time would be ten rounds."""
    text = (
        '[daemon]\nhandlers = "jobs"\nsockt = "x"\n[store]\npath = ""\n[workers]\ncount = -1\n[jobs]\nqueue = "a/b"\n'
    )
    (place.folder / "perdure.toml").write_text(text)
    lines = told(place.command("run"), 2).splitlines()
    assert [line.split("perdure.toml:")[1].split(":")[0] for line in lines] == ["2", "3", "5", "7", "9"]


def test_a_configuration_that_is_no_text(place: Daemon) -> None:
    """A binary file named by mistake."""
    (place.folder / "perdure.toml").write_bytes(b"\x7fELF\xff\x00")
    assert "perdure.toml:1: " in told(place.command("jobs"), 2)


def a_text_file(path: Path) -> None:
    """Somebody's notes."""
    path.write_text("These are my notes.\n" * 100)


def a_newer_schema(path: Path) -> None:
    """What a later perdure wrote."""
    _make_queue(path)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA user_version = 99")


def somebody_elses(path: Path) -> None:
    """Another program's database."""
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE songs (title TEXT)")


def cut_off(path: Path) -> None:
    """A copy that was interrupted."""
    _make_queue(path)
    path.write_bytes(path.read_bytes()[:30_000])


def _make_queue(path: Path) -> None:
    assert Daemon(path.parent, ["jobs"]).command("enqueue", "greet").returncode == 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (a_text_file, "is not a database: give perdure another path, or move that file away"),
        (
            a_newer_schema,
            f"has schema version 99, this perdure knows versions up to {len(load_migrations())}: install the perdure",
        ),
        (somebody_elses, "is the database of another program: give perdure a path of its own"),
        (cut_off, "is damaged"),
        (Path.mkdir, "is a folder: give the path of a file"),
    ],
)
def test_a_queue_that_is_none(place: Daemon, make: Any, words: str) -> None:
    """It must be left as it is, and nobody may work on it."""
    path = place.folder / "perdure.db"
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    assert words in told(place.command("enqueue", "greet"), 1)
    done = place.command("run")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert words in done.stderr
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_a_socket_path_over_107_bytes(tmp_path: Path) -> None:
    """The system would cut it off or refuse it with two words."""
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    place = Daemon(folder, ["jobs"])
    for command in (["run"], ["enqueue", "greet"], ["config", "check"]):
        assert "the system allows 107; set daemon.socket" in told(place.command(*command), 2)


def test_a_second_daemon(daemon: Daemon) -> None:
    """Two writers would be the end of every guarantee; the message names the first."""
    done = daemon.command("run")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert f"perdure is already running (pid {daemon.pid})" in done.stderr
    assert daemon.status() is not None


def test_something_else_at_the_sockets_place(place: Daemon) -> None:
    """A file of somebody's must not be deleted to make room."""
    place.socket.write_text("precious")
    done = place.command("run")
    assert done.returncode == 2
    assert "exists and is not a socket. Remove it or choose another path" in done.stderr
    assert place.socket.read_text() == "precious"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    with small_disk_at(tmp_path / "disk", "2m") as folder:
        yield folder


def test_a_full_disk(small_disk: Path) -> None:
    """Nothing may be acknowledged that is not on disk, and what is there must survive."""
    place = Daemon(small_disk, ["jobs"])
    assert place.command("enqueue", "greet").stdout == "1\n"
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(b"x" * 1024):
            pass
    words = told(place.command("enqueue", "greet", "name=" + "x" * 50_000), 1)
    assert "is full: free some space; every job is where it was" in words
    ballast.unlink()
    assert place.command("enqueue", "greet").stdout == "2\n"


def test_a_read_only_folder(small_disk: Path) -> None:
    """Neither a command nor the daemon can do anything there; both must say why."""
    place = Daemon(small_disk, ["jobs"])
    assert place.command("enqueue", "greet").returncode == 0
    place.log_path = small_disk.parent / "daemon.log"
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    words = "cannot be written"
    assert words in told(place.command("enqueue", "greet"), 1)
    done = place.command("run")
    assert (done.returncode, words in done.stderr, "Traceback" in done.stderr) == (1, True, False)
    assert "FAIL" in place.command("doctor").stdout


def test_no_bad_input_has_harmed_the_daemon(daemon: Daemon) -> None:
    """After all of the above it still works."""
    with daemon.client() as client:
        found = client.enqueue_sync("greet", {"name": "Ada"})
        assert [end.state for end in client.wait_sync(found.id, timeout=20)] == ["completed"]
