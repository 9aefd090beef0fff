"""`ctx.log`: readable lines in the log of the job."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any

from perdure.daemon.worker.output import Output
from perdure.log import LEVELS


class JobLogger:
    """An event's name, then fields: `10:15:00 info    fetched rows=12`. One for all jobs: the output routes it."""

    __slots__ = ("_fields", "_lowest", "_output")

    def __init__(self, output: Output, level: str, fields: Mapping[str, Any] | None = None) -> None:
        self._output = output
        self._lowest = level
        self._fields = fields or {}

    def debug(self, event: str, /, **fields: Any) -> None:
        """Something for whoever hunts a bug."""
        self._write("debug", event, fields)

    def info(self, event: str, /, **fields: Any) -> None:
        """Something worth reading later."""
        self._write("info", event, fields)

    def warning(self, event: str, /, **fields: Any) -> None:
        """Something odd that did not stop the job."""
        self._write("warning", event, fields)

    def error(self, event: str, /, **fields: Any) -> None:
        """Something that went wrong."""
        self._write("error", event, fields)

    def exception(self, event: str, /, **fields: Any) -> None:
        """Something that went wrong, with the exception that is being handled."""
        self._write("error", event, fields)
        if sys.exc_info()[0] is not None:
            self._output.write(traceback.format_exc().encode("utf-8", "backslashreplace"), 2)

    def bind(self, **fields: Any) -> JobLogger:
        """A logger that adds these fields to each line."""
        return JobLogger(self._output, self._lowest, {**self._fields, **fields})

    def _write(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        if LEVELS[level] >= LEVELS.get(self._lowest, 0):
            line = format_line(time.localtime(), level, event, {**self._fields, **fields})
            self._output.write(line.encode("utf-8", "backslashreplace"), 2)


def format_line(when: time.struct_time, level: str, event: str, fields: Mapping[str, object]) -> str:
    """`HH:MM:SS level event key=value …`, in one line whatever the values are. Never raises for a bad value."""
    words = [f"{time.strftime('%H:%M:%S', when)} {level:<7} {_one_line(str(event))}"]
    words += [f"{key}={_value(value)}" for key, value in fields.items()]
    return " ".join(words) + "\n"


def _value(value: object) -> str:
    if isinstance(value, str):
        return repr(value) if not value or not value.isprintable() or " " in value else value
    try:
        return _one_line(repr(value))
    except Exception as error:
        return f"<{type(value).__name__}: repr raised {type(error).__name__}>"


def _one_line(text: str) -> str:
    return text.replace("\n", "\\n").replace("\r", "\\r")
