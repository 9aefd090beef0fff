"""The log: one event name and fields a line, `log.info("worker.started", worker=1, pid=4711)`.

    log = get_logger()

A logger may be made before the set-up, at import, and costs nothing then: structlog is loaded by configure_logging.
A process that never calls it, such as a program that uses perdure.Client, finds the events in its own `logging`,
under the name "perdure". A call never raises, whatever its fields are and wherever the stream has gone.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from typing import Any, Final, TextIO

from perdure.clock import Clock, SystemClock

#: The levels by their names in the configuration; the numbers are those of `logging`.
LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}

#: Names that a record, or a method of structlog, has for itself: a field of this name gets an underscore.
_TAKEN: Final = frozenset({"event", "level", "time", "self", "method_name"})

#: What is least worth writing in this process. Before the set-up `logging` decides.
_threshold = 0
#: structlog's logger once it is set up.
_bound: Any = None


class Logger:
    """Writes events, each with the fields that it is bound to."""

    __slots__ = ("_context",)

    def __init__(self, context: Mapping[str, object]) -> None:
        self._context = dict(context)

    def bind(self, **fields: object) -> Logger:
        """A logger that adds these fields to every event."""
        return Logger({**self._context, **fields})

    def enabled(self, level: str) -> bool:
        """Whether events of this level are written: ask before computing costly fields."""
        return LEVELS[level] >= _threshold

    def debug(self, event: str, /, **fields: object) -> None:
        """For those who look for a fault."""
        if _threshold <= 10:
            self._write("debug", event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        """Something worth knowing happened, as it should."""
        if _threshold <= 20:
            self._write("info", event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """Something is not as it should be, and is being dealt with."""
        if _threshold <= 30:
            self._write("warning", event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        """Something failed."""
        if _threshold <= 40:
            self._write("error", event, fields)

    def critical(self, event: str, /, **fields: object) -> None:
        """The daemon cannot go on."""
        self._write("critical", event, fields)

    def exception(self, event: str, /, **fields: object) -> None:
        """An error with the traceback of the exception that is being handled; or of that in `exc_info`."""
        if _threshold <= 40:
            self._write("error", event, {"exc_info": True, **fields})

    def _write(self, level: str, event: str, fields: dict[str, object]) -> None:
        merged = {**self._context, **fields}
        for taken in _TAKEN.intersection(merged):
            merged[f"{taken}_"] = merged.pop(taken)
        try:
            if _bound is None:
                _to_logging(level, event, merged)
            else:
                getattr(_bound, level)(event, **merged)
        except Exception as error:  # a log line must not be what stops a daemon
            _complain(event, error)


def get_logger(**fields: object) -> Logger:
    """A logger, with fields that it adds to every event."""
    return Logger(fields)


def configure_logging(
    level: str,
    format: str,
    stream: TextIO | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    fields: Mapping[str, object] | None = None,
    clock: Clock | None = None,
) -> str:
    """Set up this process's log, and send that of `logging` and `warnings` the same way; returns the format chosen.

    `level` and `format` as in the configuration's [logs]; `stream` is stderr and `environ` the process's, if not
    given. `fields` are added to every event of the process, such as {"worker": 3}. May be called again, as after a
    fork. Raises ValueError for an unknown level or format.
    """
    from perdure import log_setup

    global _threshold, _bound
    if level not in LEVELS:
        raise ValueError(f"unknown log level {level!r}: use {', '.join(LEVELS)}")
    stream = stream or sys.stderr
    environ = os.environ if environ is None else environ
    chosen = choose_format(format, stream, environ)
    colours = chosen == "console" and _wants_colours(stream, environ)
    writer = LineWriter(stream)
    _bound = log_setup.configure(LEVELS[level], chosen, colours, writer, fields or {}, clock or SystemClock())
    _threshold = LEVELS[level]
    return chosen


def choose_format(format: str, stream: TextIO, environ: Mapping[str, str]) -> str:
    """What "auto" means for this stream: "console", "journal" or "json"; other formats as they are.

    A process without JOURNAL_STREAM in its environment, such as a worker, is told the result of its parent.
    """
    if format in ("console", "json", "journal"):
        return format
    if format != "auto":
        raise ValueError(f"unknown log format {format!r}: use auto, console, json or journal")
    if _is_journal(stream, environ.get("JOURNAL_STREAM", "")):
        return "journal"
    return "console" if _is_terminal(stream) else "json"


class LineWriter:
    """Writes whole records, one write each, so that those of several processes do not mix on one stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, record: str) -> None:
        """Write one record; what cannot be written is lost, and that is all that happens."""
        text = record + "\n"
        try:
            text.encode(self._stream.encoding or "utf-8")
        except UnicodeError:
            encoding = self._stream.encoding or "utf-8"
            text = text.encode(encoding, "backslashreplace").decode(encoding)
        with _write_lock:
            try:
                self._stream.write(text)
                self._stream.flush()
            except (OSError, ValueError):  # a full disk, a reader that is gone, a closed stream
                pass


_write_lock = threading.Lock()


def _renew_lock() -> None:
    global _write_lock
    _write_lock = threading.Lock()


# A fork while another thread writes would leave the child's copy locked for ever.
os.register_at_fork(after_in_child=_renew_lock)


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def _is_journal(stream: TextIO, journal_stream: str) -> bool:
    """Whether JOURNAL_STREAM, "device:inode", is this stream: it may have been redirected since."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return journal_stream == f"{status.st_dev}:{status.st_ino}"


def _wants_colours(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """On a terminal that has them, unless the user wants none (no-color.org)."""
    return _is_terminal(stream) and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def _to_logging(level: str, event: str, fields: dict[str, object]) -> None:
    """An event of a process that has its own `logging`."""
    import logging

    logger = logging.getLogger("perdure")
    number = LEVELS[level]
    if logger.isEnabledFor(number):
        from perdure.log_render import as_text

        exc_info: Any = fields.pop("exc_info", None)
        logger.log(number, "%s", as_text(event, fields), exc_info=exc_info)


def _complain(event: str, error: Exception) -> None:
    """The last resort: an event that cannot be written says so."""
    try:
        sys.stderr.write(f"log.failed event={event!r} error={type(error).__name__}\n")
        sys.stderr.flush()
    except Exception:  # noqa: S110 - there is no place left to say it
        pass
