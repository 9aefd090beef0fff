"""Options and value types that commands share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

if TYPE_CHECKING:
    _Integer = click.ParamType[int]
else:
    _Integer = click.ParamType  # older clicks do not know it as a generic


def config_option(command: F) -> F:
    """`--config PATH`, as the parameter `config` (Path or None)."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="Configuration file. Default: $PERDURE_CONFIG, ./perdure.toml, /etc/perdure/perdure.toml.",
    )(command)


def json_option(command: F) -> F:
    """`--json`, as the parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on stdout.")(command)


class Duration(_Integer):
    """Text such as 30s, 5m or 1h30m, or a number of seconds; becomes milliseconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Milliseconds. Fails on what is no duration, and below zero."""
        if isinstance(value, int):
            return value
        from perdure.cli.times import duration_ms
        from perdure.errors import UsageError

        try:
            return duration_ms(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


class Moment(_Integer):
    """A point in time, see `perdure.cli.times.moment_ms`; becomes milliseconds since the epoch."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Milliseconds since the epoch. Fails on what is no time."""
        if isinstance(value, int):
            return value
        from perdure.cli.times import moment_ms
        from perdure.errors import UsageError

        try:
            return moment_ms(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


class Whole(_Integer):
    """A whole number between two others, both included. `what` names it in messages: "a job id"."""

    name = "integer"

    def __init__(self, what: str, low: int, high: int, shown: str) -> None:
        self._what, self._low, self._high, self._shown = what, low, high, shown

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number. Fails on what is none, and outside the range."""
        number = None
        with contextlib.suppress(ValueError):
            number = int(value)
        if number is None or not self._low <= number <= self._high:
            text = str(value)
            shown = text if len(text) <= 40 else f"{text[:40]}…"
            self.fail(f"{shown!r} is not {self._what}, which is a whole number {self._shown}", param, ctx)
        return number


DURATION = Duration()
MOMENT = Moment()
#: Ids are SQLite row ids.
JOB_ID = Whole("a job id", 1, 2**63 - 1, "from 1 (`perdure jobs` shows them)")
#: Like nice: lower runs first.
PRIORITY = Whole("a priority", -20, 19, "from -20 to 19")
#: As in perdure/names.py, whose import would cost more.
ATTEMPTS = Whole("a number of attempts", 1, 10_000, "from 1 to 10000")
#: How many changes of each breaker to show.
EVENTS = Whole("a number of changes", 0, 1_000, "from 0 to 1000")
#: For lists.
LIMIT = Whole("a limit", 1, 2**63 - 1, "from 1")
