"""The log: its formats, what it keeps secret, and that it never stands in the way."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from perdure import log as log_module
from perdure.clock import ManualClock
from perdure.log import choose_format, configure_logging, get_logger
from perdure.log_render import JOURNAL_LINE_BYTES, as_text, quoted
from perdure.redact import REDACTED, looks_secret, redact, scrub

CLOCK = ManualClock(now_ms=1_700_000_000_123)


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave the process's logging as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    chatty = {name: logging.getLogger(name).level for name in ("aiosqlite", "asyncio")}
    monkeypatch.setattr(log_module, "_bound", None)
    monkeypatch.setattr(log_module, "_threshold", 0)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, previous in chatty.items():
        logging.getLogger(name).setLevel(previous)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def lines_of(format: str, level: str = "info", **options: Any) -> io.StringIO:
    stream = io.StringIO()
    configure_logging(level, format, stream, {}, clock=CLOCK, **options)
    return stream


def test_json_has_one_object_a_line() -> None:
    """A log collector could not read the daemon's log."""
    stream = lines_of("json", fields={"worker": 3})
    get_logger(queue="q").info("job.done", id=7, took=1.5, tags=["a"])
    assert json.loads(stream.getvalue()) == {
        "time": "2023-11-14T22:13:20.123Z",
        "level": "info",
        "event": "job.done",
        "queue": "q",
        "id": 7,
        "took": 1.5,
        "tags": ["a"],
        "worker": 3,
    }


def test_console_is_readable_and_without_colours_off_a_terminal() -> None:
    """A log in a file or pipe would be full of escape sequences."""
    stream = lines_of("console")
    get_logger().warning("worker.died", worker=1, reason="signal 9 (SIGKILL)")
    assert stream.getvalue() == '22:13:20.123 warning  worker.died worker=1 reason="signal 9 (SIGKILL)"\n'


def test_colours_only_on_a_terminal_that_wants_them() -> None:
    """NO_COLOR and dumb terminals would be ignored, or terminals have no colours."""
    parent, child = pty.openpty()
    with os.fdopen(child, "w") as terminal:
        for environ, coloured in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
            assert configure_logging("info", "auto", terminal, environ, clock=CLOCK) == "console"
            get_logger().info("here")
            assert (b"\x1b[" in os.read(parent, 1_000)) is coloured
    os.close(parent)


@pytest.mark.parametrize(
    ("level", "priority"), [("debug", 7), ("info", 6), ("warning", 4), ("error", 3), ("critical", 2)]
)
def test_journal_lines_carry_systemds_priority(level: str, priority: int) -> None:
    """`journalctl -p warning` would show everything or nothing."""
    stream = lines_of("journal", "debug")
    getattr(get_logger(), level)("store.opened", path="/var/lib/perdure/perdure.db")
    assert stream.getvalue() == f"<{priority}>store.opened path=/var/lib/perdure/perdure.db\n"


def test_journal_is_chosen_only_when_stderr_is_the_journal(tmp_path: Path) -> None:
    """A redirected stderr would get priority prefixes, or the journal JSON."""
    with (tmp_path / "stream").open("w") as stream:
        status = os.fstat(stream.fileno())
        right = f"{status.st_dev}:{status.st_ino}"
        assert choose_format("auto", stream, {"JOURNAL_STREAM": right}) == "journal"
        assert choose_format("auto", stream, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"}) == "json"
        assert choose_format("auto", stream, {"JOURNAL_STREAM": "nonsense"}) == "json"
        assert choose_format("auto", stream, {}) == "json"
        assert choose_format("console", stream, {"JOURNAL_STREAM": right}) == "console"
    assert choose_format("auto", io.StringIO(), {"JOURNAL_STREAM": right}) == "json"
    assert choose_format("auto", stream, {}) == "json", "a closed stream"


@pytest.mark.parametrize("format", ["console", "json", "journal"])
def test_a_traceback_is_one_record(format: str) -> None:
    """A traceback would be torn into records that say nothing, or be lost."""
    stream = lines_of(format)
    try:
        raise ValueError("no such page: postgres://me:hunter2@db/pages")
    except ValueError:
        get_logger().exception("job.failed", id=7)
    text = stream.getvalue()
    assert "ValueError: no such page" in text
    assert "test_log.py" in text
    assert "hunter2" not in text
    if format != "console":
        assert text.count("\n") == 1


def test_the_records_of_logging_and_warnings_go_the_same_way() -> None:
    """Libraries would write in another format, or to another place."""
    stream = lines_of("json")
    logging.getLogger("some.library").error("cannot reach %s, token=abc", "host")
    logging.getLogger("some.library").debug("not worth writing")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old way", DeprecationWarning, stacklevel=1)
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first["event"] == "cannot reach host, token=***"
    assert (first["logger"], first["level"]) == ("some.library", "error")
    assert "old way" in second["event"]


def test_an_exception_in_logging_keeps_its_traceback() -> None:
    """A library's failure would be logged without its reason."""
    stream = lines_of("json")
    try:
        raise KeyError("x")
    except KeyError:
        logging.getLogger("lib").exception("failed")
    assert "KeyError: 'x'" in json.loads(stream.getvalue())["exception"]


def test_structlogs_own_loggers_and_contextvars_work() -> None:
    """A handler that uses structlog itself would write to stdout."""
    stream = lines_of("json")
    with structlog.contextvars.bound_contextvars(job=9):
        structlog.get_logger().info("direct")
        get_logger().info("ours")
    assert [json.loads(line)["job"] for line in stream.getvalue().splitlines()] == [9, 9]


def test_levels() -> None:
    """Events below the level would be written, or those above it lost."""
    stream = lines_of("journal", "error")
    logger = get_logger()
    for level in log_module.LEVELS:
        getattr(logger, level)(level)
    assert stream.getvalue() == "<3>error\n<2>critical\n"
    assert logger.enabled("error")
    assert not logger.enabled("warning")


def test_a_disabled_event_does_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Debug lines in the hot path would cost time although nobody reads them."""
    lines_of("json", "info")
    monkeypatch.setattr(log_module.Logger, "_write", lambda *_: pytest.fail("it was looked at"))
    get_logger().debug("claimed", jobs=object())


def test_it_can_be_set_up_again() -> None:
    """A worker would keep the log of the nursery it was forked from."""
    first = lines_of("journal")
    logger = get_logger()
    logger.info("one")
    second = lines_of("journal", "warning")
    logger.info("two")
    logger.warning("three")
    logging.getLogger("lib").warning("four")
    assert first.getvalue() == "<6>one\n"
    assert second.getvalue() == "<4>three\n<4>four logger=lib\n"


def test_unknown_level_and_format_are_refused() -> None:
    """A misspelt level would silence the log."""
    with pytest.raises(ValueError, match="unknown log level 'loud'"):
        configure_logging("loud", "json", io.StringIO())
    with pytest.raises(ValueError, match="unknown log format 'xml'"):
        configure_logging("info", "xml", io.StringIO())


def test_without_set_up_events_go_to_logging(caplog: pytest.LogCaptureFixture) -> None:
    """A program that uses the client would find our events on its stdout, or nowhere."""
    with caplog.at_level(logging.INFO, "perdure"):
        get_logger().info("client.connected", password="x", socket="/run/a b")
        get_logger().debug("not this")
    assert [(one.name, one.getMessage()) for one in caplog.records] == [
        ("perdure", 'client.connected password=*** socket="/run/a b"')
    ]


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class BrokenStream(io.StringIO):
    def write(self, _text: str) -> int:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("format", ["console", "json", "journal"])
def test_logging_never_raises(format: str) -> None:
    """A full disk, a closed stderr or an odd value would stop the daemon."""
    stream = lines_of(format)
    nested: list[Any] = []
    nested.append(nested)
    get_logger().info("odd", broken=Broken(), nan=float("nan"), nested=nested, keys={(1, 2): 3}, half="\ud800")
    get_logger().info("taken", event="x", level="y", time="z", self="s", method_name="m", name="n", args=1)
    assert stream.getvalue().count("\n") == 2
    assert "log.failed" not in stream.getvalue()
    configure_logging("info", format, BrokenStream(), {})
    get_logger().info("lost")
    closed = io.StringIO()
    closed.close()
    configure_logging("info", format, closed, {})
    get_logger().info("lost")
    logging.getLogger("lib").warning("lost")


def test_a_stream_that_is_not_utf8() -> None:
    """An umlaut would be lost together with its line where the locale is C."""
    raw = io.BytesIO()
    configure_logging("info", "journal", io.TextIOWrapper(raw, encoding="ascii"), {})
    get_logger().info("größe")
    assert raw.getvalue() == b"<6>gr\\xf6\\xdfe\n"


def test_long_journal_lines_are_cut_in_the_middle() -> None:
    """journald would break the line, and the second half would have no priority."""
    stream = lines_of("journal")
    get_logger().info("long", text="ä" * 100_000, last="here")
    line = stream.getvalue()
    assert len(line.encode()) < JOURNAL_LINE_BYTES + 100
    assert line.startswith("<6>long text=ää")
    assert "bytes cut" in line
    assert line.endswith("last=here\n")


@hypothesis_settings(deadline=None)
@given(st.text(), st.text(min_size=1), st.text())
def test_no_text_starts_a_line_of_its_own(event: str, key: str, value: str) -> None:
    """Somebody's arguments could forge log lines or move the terminal's cursor."""
    assert as_text(event, {key: value}).isprintable()


@hypothesis_settings(deadline=None)
@given(st.text())
def test_a_quoted_value_can_be_read_back(text: str) -> None:
    """Two values would look the same in the log."""
    shown = quoted(text)
    assert (json.loads(shown) if shown.startswith('"') else shown) == text


SECRET_KEYS = """
password db_password pgPassword SECRET client-secret token auth_token api_key apiKey APIKEY dsn postgres_dsn
private_key credentials Authorization cookie
"""


@pytest.mark.parametrize("key", SECRET_KEYS.split())
def test_secret_keys(key: str) -> None:
    """A secret would be in the log."""
    assert looks_secret(key)
    assert redact(key, "hunter2") == REDACTED
    assert redact("outer", {"inner": [{key: "hunter2"}]}) == {"inner": [{key: REDACTED}]}


@pytest.mark.parametrize("key", ["tokenizer", "key", "passage", "unique_key", "secretary", "bypass", "queue", ""])
def test_other_keys_are_left_alone(key: str) -> None:
    """The log would hide what one looks for."""
    assert not looks_secret(key)
    assert redact(key, "shown") == "shown"


def test_counts_of_tokens_are_shown() -> None:
    """The number of a text's tokens, or of a lease, is no secret; a password of digits is one."""
    assert redact("tokens", 512) == 512
    assert redact("lease_token", 4) == 4
    assert redact("token", "512") == REDACTED
    assert redact("password", 512) == REDACTED
    assert redact("password", None) is None


@pytest.mark.parametrize(
    "text",
    [
        "connect postgres://me:hunter2@db:5432/x failed",
        "https://:hunter2@host/",
        "host=db password=hunter2 user=me",
        "PGPASSWORD='hunter2 hunter2' x",
        "Options(api_key='hunter2', port=1)",
        "{'user': 'me', 'password': 'hunter2'}",
        '{"api_key": "hunter2"}',
        "/callback?token=hunter2&x=1",
    ],
)
def test_passwords_inside_texts(text: str) -> None:
    """A driver's error message would carry the password into the log."""
    assert "hunter2" not in scrub(text)
    assert REDACTED in scrub(text)
    assert "hunter2" not in str(redact("error", RuntimeError(text)))


@pytest.mark.parametrize("text", ["http://host:80/a@b", "mail me@host", "unexpected token: }", "a=b", "12:30"])
def test_texts_without_passwords_are_left_alone(text: str) -> None:
    """The log would be wrong where there is no secret."""
    assert scrub(text) == text


def test_importing_it_does_not_load_structlog() -> None:
    """Each `perdure enqueue` in a shell loop would take a tenth of a second longer."""
    code = "import sys, perdure.log as l; l.get_logger(); print([m for m in sys.modules if m in ('structlog', 'rich')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_setting_it_up_does_not_load_rich() -> None:
    """The supervisor would keep 5 MB for a console that it does not have; and a program that wants rich must get it."""
    code = (
        "import sys, perdure.log as l; l.configure_logging('info', 'json'); print('structlog' in sys.modules, "
        "'rich' in sys.modules); import rich; print(rich is None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True False\nFalse\n"
