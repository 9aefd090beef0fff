"""Options and value types that commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

if TYPE_CHECKING:
    _Milliseconds = click.ParamType[int]
else:
    _Milliseconds = click.ParamType  # older clicks do not know it as a generic


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


class Duration(_Milliseconds):
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


class Moment(_Milliseconds):
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


DURATION = Duration()
MOMENT = Moment()
#: Ids are SQLite row ids.
JOB_ID = click.IntRange(1, 2**63 - 1)
#: Like nice: lower runs first.
PRIORITY = click.IntRange(-20, 19)
