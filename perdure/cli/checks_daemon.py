"""Checks of the daemon, the handlers and the clock."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from perdure.cli.checks import FAIL, OK, WARN, Finding
from perdure.cli.checks_store import is_locked
from perdure.cli.text import ago
from perdure.errors import DaemonUnreachable, PerdureError

if TYPE_CHECKING:
    from perdure.config.settings import Settings
    from perdure.wire.control import Status

#: What the daemon may take to answer, and handlers to be imported.
_ANSWER_SECONDS = 5.0
_IMPORT_SECONDS = 60.0
#: A clock that shows less than this year has lost its time.
_YEAR = 2025
#: By so much a file may come from the future before it means something.
_AHEAD_MS = 60_000


def daemon(settings: Settings) -> Finding:
    """Whether the daemon answers on its socket."""
    socket = settings.paths.socket
    try:
        status = _ask(settings)
    except DaemonUnreachable as error:
        return _silent(settings, error)
    except PerdureError as error:
        return Finding("daemon", FAIL, str(error))
    mode = stat.S_IMODE(os.stat(socket).st_mode)
    text = f"{status.state} (pid {status.pid}, perdure {status.version}), answers on {socket} (mode {mode:04o})"
    if status.version != _version():
        return Finding("daemon", WARN, text, f"this command is perdure {_version()}: restart the daemon")
    if status.warnings:
        return Finding("daemon", WARN, f"{text}; it warns: {'; '.join(status.warnings)}")
    return Finding("daemon", OK, text)


def loops(settings: Settings) -> Finding:
    """Whether everything that waits for an event in the daemon or a worker gets its turn at once."""
    from perdure.cli.lag_text import WORTH_MS, lagging

    try:
        found = lagging(_ask(settings))
    except PerdureError:
        return Finding("loops", OK, "no daemon that answers, so none that lags")
    if found is None:
        return Finding("loops", OK, f"none stood still for more than {WORTH_MS:.0f} ms in the last minute")
    advice = (
        "`loop.blocked` in the daemon's log names the job and the line; blocking calls of async handlers belong into"
        " asyncio.to_thread. If nothing is named, the machine has too few CPUs"
    )
    return Finding("loops", WARN, found, advice)


def handlers(settings: Settings) -> Finding:
    """Whether the handlers' modules can be imported; tried in another process."""
    modules = settings.daemon.handlers
    if not modules:
        text = "no modules are named"
        return Finding("handlers", WARN, text, "name them: daemon.handlers in perdure.toml, or `perdure run MODULE`")
    found = _import(list(modules), [str(folder) for folder in settings.paths.import_path], str(settings.base))
    if isinstance(found, str):
        return Finding(
            "handlers",
            FAIL,
            f"{', '.join(modules)}: {found}",
            "import them by hand: python -X faulthandler -c 'import …'",
        )
    if found["errors"]:
        text = "; ".join(
            f"{one['module']}: {one['error']}" + (f" ({one['where']})" if one["where"] else "")
            for one in found["errors"]
        )
        return Finding(
            "handlers", FAIL, text, f"correct it; looked in {', '.join(map(str, settings.paths.import_path))}"
        )
    if not found["kinds"]:
        return Finding("handlers", WARN, f"{', '.join(modules)}: no @job in there", "declare handlers with @job")
    return Finding(
        "handlers", OK, f"{', '.join(modules)}: {len(found['kinds'])} kinds ({', '.join(found['kinds'][:8])})"
    )


def clock(settings: Settings) -> Finding:
    """Whether the wall clock is believable: delays and schedules hang on it."""
    now = datetime.now(UTC)
    if now.year < _YEAR:
        return Finding("clock", FAIL, f"it is not {now:%Y-%m-%d %H:%M} UTC", "set the time; let NTP keep it")
    try:
        written_ms = int(settings.paths.db.stat().st_mtime * 1000)
    except OSError:
        written_ms = 0
    now_ms = int(time.time() * 1000)
    if written_ms > now_ms + _AHEAD_MS:
        text = f"the queue was last written {ago(written_ms, now_ms)}: the clock was stepped back"
        return Finding("clock", WARN, text, "jobs that were scheduled meanwhile run later than meant; check NTP")
    return Finding("clock", OK, f"{now:%Y-%m-%d %H:%M:%S} UTC")


def _ask(settings: Settings) -> Status:
    from perdure.wire.blocking import BlockingCaller
    from perdure.wire.control import GetStatus

    with BlockingCaller.connect(str(settings.paths.socket), timeout_s=_ANSWER_SECONDS) as caller:
        status: Status = caller.request(GetStatus(), timeout_s=_ANSWER_SECONDS)
        return status


def _silent(settings: Settings, error: DaemonUnreachable) -> Finding:
    if is_locked(settings.paths.lock):
        advice = (
            "if it is not just starting: see its log, and what it does (py-spy, strace); or stop it and start it anew"
        )
        return Finding("daemon", FAIL, f"{error} Yet somebody holds the lock", advice)
    return Finding("daemon", WARN, str(error), "commands work on the file meanwhile; jobs wait for the daemon")


def _import(modules: list[str], path: list[str], folder: str) -> dict[str, Any] | str:
    """What import_check found, or how it ended instead."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as answer:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "perdure.cli.import_check", str(writer)],
                input=json.dumps({"modules": modules, "path": path}).encode(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd=folder,
                pass_fds=(writer,),
                timeout=_IMPORT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"not imported after {_IMPORT_SECONDS:.0f}s"
        finally:
            os.close(writer)
        text = answer.read()
    if text:
        found: dict[str, Any] = json.loads(text)
        return found
    last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
    how = f"signal {-done.returncode}" if done.returncode < 0 else f"status {done.returncode}"
    return f"the process that imported them ended with {how}: {last[0]}"


def _version() -> str:
    from perdure import __version__

    return __version__
