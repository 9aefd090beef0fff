"""The command as a process: what it imports, and what the system can do to it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perdure.wire import packet
from perdure.wire.data import Enqueued
from perdure.wire.envelope import Call, Cancel, Reply
from tests.support.wait import wait_until

ROOT = Path(__file__).parents[2]
#: What `perdure enqueue` must not load while the daemon runs: each costs tens of milliseconds in every turn of a loop.
HEAVY = {
    "asyncio",
    "uvloop",
    "aiosqlite",
    "sqlite3",
    "structlog",
    "rich",
    "psutil",
    "tenacity",
    "pybreaker",
    "traceback",
}
SHOW_IMPORTS = (
    "import sys\nfrom perdure.cli.main import run\ncode = run(sys.argv[1:])\n"
    "sys.stderr.write(' '.join(sorted({name.partition('.')[0] for name in sys.modules})))\nsys.exit(code)"
)


def start(*arguments: str, folder: Path, **options: Any) -> subprocess.Popen[bytes]:
    """Start a command in a process of its own."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
    environ["PYTHONPATH"] = str(ROOT)
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    command = [sys.executable, *(arguments if arguments[0] == "-c" else ("-m", "perdure", *arguments))]
    return subprocess.Popen(command, cwd=folder, env=environ, **options)


def finish(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    out, err = process.communicate(timeout=30)
    return process.returncode, (out or b"").decode(), (err or b"").decode()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[list[Any]]:
    """A stand-in for the daemon on ./perdure.sock: answers Enqueue, is silent about the rest; gives what was asked."""
    asked: list[Any] = []
    decoder = msgspec.msgpack.Decoder(Call[Any] | Cancel)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(tmp_path / "perdure.sock"))
    listener.listen()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                while message := connection.recv(1 << 20):
                    call = decoder.decode(message)
                    if isinstance(call, Cancel):
                        continue
                    asked.append(call.body)
                    if call.body["type"] == "enqueue":
                        connection.send(packet.encode(Reply(call.id, [Enqueued(7)])))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield asked
    # Wakes the accept; closing alone does not.
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(10)


def test_enqueue_imports_nothing_heavy(tmp_path: Path, daemon: list[Any]) -> None:
    """`perdure enqueue` is run in shell loops: start-up is its cost."""
    code, out, err = finish(start("-c", SHOW_IMPORTS, "enqueue", "hello", "name=Ada", folder=tmp_path))
    assert (code, out) == (0, "7\n")
    assert daemon[0]["jobs"][0]["kind"] == "hello"
    assert not HEAVY & set(err.split())


def test_help_imports_no_command(tmp_path: Path) -> None:
    """`perdure --help` and shell completion would be slow."""
    script = SHOW_IMPORTS.replace(".partition('.')[0]", "")
    code, _, err = finish(start("-c", script, "--help", folder=tmp_path))
    assert code == 0
    assert not [name for name in err.split() if name.endswith("_cmd") or name in HEAVY | {"msgspec"}]


def test_a_reader_that_leaves_early(tmp_path: Path) -> None:
    """`perdure … | head -1` must end quietly."""
    reader, writer = os.pipe()
    os.close(reader)
    process = start("config", "check", "--show", folder=tmp_path, stdout=writer)
    os.close(writer)
    assert finish(process) == (141, "", "")


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    """A full disk behind `> file` must be said, in one line."""
    with open("/dev/full", "wb") as full:
        code, _, err = finish(start("config", "check", "--show", folder=tmp_path, stdout=full))
    assert code == 1
    assert err.startswith("perdure: ")
    assert "No space left on device" in err
    assert len(err.splitlines()) == 1


def test_ids_that_cannot_be_printed(tmp_path: Path, daemon: list[Any]) -> None:
    """Whoever sees this fail would enqueue again what is in the queue."""
    with open("/dev/full", "wb") as full:
        code, _, err = finish(start("enqueue", "hello", folder=tmp_path, stdout=full))
    assert code == 1
    assert re.fullmatch(r"perdure: job \d+ is in the queue, but stdout cannot be written: No space .*\n", err)


def test_without_stdout_and_stderr(tmp_path: Path, daemon: list[Any]) -> None:
    """A command of cron or a service manager may have no streams at all."""
    process = start(
        "-c",
        "import os, sys\nos.close(1); os.close(2); os.close(0)\nos.execv(sys.argv[1], sys.argv[1:])",
        *(sys.executable, "-m", "perdure", "enqueue", "hello"),
        folder=tmp_path,
    )
    assert finish(process) == (0, "", "")
    assert daemon[0]["jobs"][0]["kind"] == "hello"


def test_ctrl_c_ends_with_130(tmp_path: Path, daemon: list[Any]) -> None:
    """An interrupted wait must show no traceback, and stop a shell script."""
    process = start("wait", "1", folder=tmp_path)
    wait_until(lambda: daemon, what="the request")
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    assert (code, out, err.strip()) == (130, "", "")


def test_bytes_that_are_no_text(tmp_path: Path, daemon: list[Any]) -> None:
    """Shells pass any bytes; the queue takes text only."""
    for arguments in (
        [b"hel\xfflo"],
        [b"hello", b"x=\xff"],
        [b"hello", b"--tag", b"\xff"],
        [b"hello", b"--from", b"\xff"],
    ):
        process = subprocess.Popen(
            [os.fsencode(sys.executable), b"-m", b"perdure", b"enqueue", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        code, out, err = finish(process)
        assert code in (1, 2)
        assert out == ""
        assert err.startswith("perdure: ")
        assert "Traceback" not in err
    assert not daemon


def test_a_locale_without_unicode(tmp_path: Path) -> None:
    """A character that the terminal lacks must not hide the rest of the output."""
    script = (
        "import sys; sys.stdout.reconfigure(encoding='latin-1')\n"
        "from perdure.cli.main import run; sys.exit(run(['init', '\\u6f22']))"
    )
    code, out, err = finish(start("-c", script, folder=tmp_path))
    assert (code, err) == (0, "")
    assert "wrote \\u6f22/jobs.py" in out


def test_exit_code_of_the_program(tmp_path: Path) -> None:
    """`python -m perdure` must pass the code on."""
    code, _, err = finish(start("jbos", folder=tmp_path))
    assert code == 2
    assert err == "perdure: there is no command 'jbos'. Did you mean jobs or logs?\nTry `perdure --help`.\n"
    code, out, _ = finish(start("--version", folder=tmp_path))
    assert code == 0
    assert out.startswith("perdure ")


def test_json_is_utf8_everywhere(tmp_path: Path) -> None:
    """A program reads JSON as UTF-8, whatever the locale is."""
    (tmp_path / "perdure.toml").write_text('[store]\npath = "é.db"\n', encoding="utf-8")
    process = start("config", "check", "--show", "--json", folder=tmp_path)
    out, _ = process.communicate(timeout=30)
    assert json.loads(out.decode("utf-8"))["settings"]["store"]["path"] == "é.db"
