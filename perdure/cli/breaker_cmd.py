"""`perdure breaker`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure.cli import session
from perdure.cli.lazy import Group
from perdure.cli.options import DURATION, EVENTS, config_option, json_option

if TYPE_CHECKING:
    from perdure.wire.data import BreakerInfo


@click.group(cls=Group)
def breaker() -> None:
    """List, open and close the breakers of databases and other services."""


@breaker.command("list")
@click.option("--events", type=EVENTS, metavar="N", default=0, help="Also the last N changes of each.")
@json_option
@config_option
def list_breakers(events: int, as_json: bool, config: Path | None) -> None:
    """List the breakers: state, calls of the last seconds, and how many jobs wait.

    When no daemon runs: as the last one left them. With --json, one object per line.
    """
    from perdure.cli.documents import document, print_documents
    from perdure.wire.control import ListBreakers

    with session.open_queue(config) as opened:
        infos: list[BreakerInfo] = opened.request(ListBreakers(events))
        live = opened.live
    if as_json:
        print_documents({**document(info), "events": [document(event) for event in info.events]} for info in infos)
        return
    if not infos:
        click.echo("no breakers: the configuration has no [postgres], [neo4j], [qdrant] or [dependencies.NAME]")
        return
    from perdure.cli.breaker_text import print_breakers

    print_breakers(infos)
    if not live:
        click.echo("perdure: no daemon is running; this is the state that was saved", err=True)


@breaker.command("open")
@click.argument("name", metavar="NAME")
@click.option("--for", "for_ms", type=DURATION, metavar="TIME", help="Only for so long; then one job tries it.")
@click.option("--reason", metavar="TEXT", default="", help="Why; `perdure breaker list` and the log show it.")
@config_option
def open_(name: str, for_ms: int | None, reason: str, config: Path | None) -> None:
    """Make no more calls to a dependency, as for its maintenance.

    Jobs that need it are parked, and it costs them no attempt; other jobs go on. Stays so, also over restarts, until
    `perdure breaker close`, or for the time that --for says.
    """
    from perdure.cli.text import span
    from perdure.cli.verdicts import who
    from perdure.errors import InvalidOption
    from perdure.wire.control import OpenBreaker

    if for_ms == 0:
        raise InvalidOption("--for 0 would not open it at all; give a duration such as 10m")
    with session.open_queue(config, create=True) as opened:
        opened.request(OpenBreaker(name, who(), reason, for_ms))
    until = f"until `perdure breaker close {name}`" if for_ms is None else f"for {span(for_ms)}"
    click.echo(f"{name} open {until}")


@breaker.command("close")
@click.argument("name", metavar="NAME")
@click.option("--reason", metavar="TEXT", default="", help="Why; `perdure breaker list` and the log show it.")
@config_option
def close(name: str, reason: str, config: Path | None) -> None:
    """Let calls to a dependency through again.

    The jobs that wait for it are released, slowly at first. If calls fail, it opens again by itself.
    """
    from perdure.cli.verdicts import who
    from perdure.wire.control import CloseBreaker

    with session.open_queue(config) as opened:
        opened.request(CloseBreaker(name, who(), reason))
    click.echo(f"{name} closed")
