"""Sets up structlog and `logging`. Apart from perdure.log because importing structlog takes long."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from datetime import UTC, datetime
from typing import Any

from perdure.clock import Clock
from perdure.log_render import Event, Renderer, blot_secrets, console_line, journal_line, json_line
from perdure.redact import scrub


@contextlib.contextmanager
def _as_if_missing(name: str) -> Iterator[None]:
    """Imports in here do without the module `name`, unless it is loaded already."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # the documented way to make its import fail
    try:
        yield
    finally:
        del sys.modules[name]


# It takes rich in, for a console and for tracebacks of its own that nothing here uses: 5 MB of the supervisor's memory.
with _as_if_missing("rich"):
    import structlog

Processor = Callable[[Any, str, MutableMapping[str, Any]], Any]


def configure(level: int, format: str, colours: bool, writer: Any, fields: Mapping[str, object], clock: Clock) -> Any:
    """Everything that is logged in this process goes through one chain to `writer`; returns structlog's logger."""
    renderers: dict[str, Renderer] = {"console": console_line(colours), "journal": journal_line, "json": json_line}
    chain: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _process_fields(dict(fields)),
        structlog.processors.add_log_level,
        _stamp(clock),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.ExceptionRenderer(_traceback),
        blot_secrets,
        renderers[format],
    ]
    output = _Output(writer.write)
    structlog.configure(
        processors=chain,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: output,
        cache_logger_on_first_use=False,  # a cached logger would not learn of the next call, as after a fork
    )
    _route_logging(level, chain, writer.write)
    return structlog.get_logger().bind()


class _Output:
    """What structlog calls a logger: takes finished lines."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = self.msg = write
        self.warn = self.fatal = self.exception = self.failure = self.log = write


class _StandardHandler(logging.Handler):
    """Records of `logging`, through the same chain."""

    def __init__(self, chain: Sequence[Processor], write: Callable[[str], None]) -> None:
        super().__init__()
        self._chain = chain
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; as the base class asks, never raises."""
        try:
            level = _level_name(record.levelno)
            event: Any = {"event": record.getMessage(), "logger": record.name}
            if record.exc_info:
                event["exc_info"] = record.exc_info
            if record.stack_info:
                event["stack"] = record.stack_info
            for process in self._chain:
                event = process(None, level, event)
            self._write(event)
        except Exception:
            self.handleError(record)


def _route_logging(level: int, chain: Sequence[Processor], write: Callable[[str], None]) -> None:
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old, _StandardHandler) or type(old) is logging.StreamHandler:
            root.removeHandler(old)
    root.addHandler(_StandardHandler(chain, write))
    root.setLevel(level)
    logging.captureWarnings(True)
    # At "debug" they tell each statement and each select(): thousands of lines a second.
    for chatty in ("aiosqlite", "asyncio"):
        logging.getLogger(chatty).setLevel(max(level, logging.INFO))


def _process_fields(fields: dict[str, object]) -> Processor:
    """A processor: adds what holds for the whole process, such as the worker's number."""

    def add(_logger: Any, _method: str, event: Event) -> Event:
        for key, value in fields.items():
            event.setdefault(key, value)
        return event

    return add


def _stamp(clock: Clock) -> Processor:
    """A processor: adds the time, UTC, to the millisecond."""

    def add(_logger: Any, _method: str, event: Event) -> Event:
        now = datetime.fromtimestamp(clock.now_ms() / 1_000, tz=UTC)
        event["time"] = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return event

    return add


def _traceback(exc_info: Any) -> str:
    """The traceback as Python prints it, without the passwords that messages of drivers contain."""
    import traceback

    return scrub("".join(traceback.format_exception(*exc_info)).rstrip("\n"))


def _level_name(number: int) -> str:
    """The name of our level for any of `logging`, which knows numbers in between."""
    names = ((50, "critical"), (40, "error"), (30, "warning"), (20, "info"))
    return next((name for least, name in names if number >= least), "debug")
