"""`perdure dead replay` and `perdure dead discard`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure.cli import session
from perdure.cli.options import JOB_ID, config_option, json_option

if TYPE_CHECKING:
    from perdure.wire.control import Request


@click.command()
@click.argument("ids", metavar="[ID...]", type=JOB_ID, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that wait for a decision.")
@click.option("--kind", metavar="KIND", help="With --all: only those of this kind.")
@click.option(
    "--set", "pairs", metavar="KEY=VALUE", multiple=True, help="Change an argument (key:=json for other than text)."
)
@click.option("--json-set", metavar="OBJ", help="Change arguments: a JSON object that is merged into them.")
@json_option
@config_option
@click.pass_context
def replay(
    ctx: click.Context,
    ids: tuple[int, ...],
    everything: bool,
    kind: str | None,
    pairs: tuple[str, ...],
    json_set: str | None,
    as_json: bool,
    config: Path | None,
) -> None:
    """Give dead jobs another life.

    They keep their ids and get a fresh budget of attempts; one that killed its workers gets a single try.
    The arguments as first enqueued stay on record, whatever is changed with --set.
    """
    from perdure.cli.arguments import object_text, parse_object, parse_pairs
    from perdure.cli.verdicts import who
    from perdure.wire.control import ReplayDead

    _check_choice(ids, everything, kind)
    edits = parse_pairs(pairs, None if json_set is None else parse_object(json_set, "--json-set"))
    set_args = object_text(edits) if edits else None
    name = who()
    code = _act(config, ids, everything, kind, lambda some: ReplayDead(some, set_args, name), "replayed", as_json)
    ctx.exit(code)


@click.command()
@click.argument("ids", metavar="[ID...]", type=JOB_ID, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that wait for a decision.")
@click.option("--kind", metavar="KIND", help="With --all: only those of this kind.")
@json_option
@config_option
@click.pass_context
def discard(
    ctx: click.Context, ids: tuple[int, ...], everything: bool, kind: str | None, as_json: bool, config: Path | None
) -> None:
    """Decide that dead letters need nothing more.

    They stay on record for the retention time and can be listed with `perdure dead list --resolved`.
    """
    from perdure.cli.verdicts import who
    from perdure.wire.control import DiscardDead

    _check_choice(ids, everything, kind)
    name = who()
    ctx.exit(_act(config, ids, everything, kind, lambda some: DiscardDead(some, name), "discarded", as_json))


def _check_choice(ids: tuple[int, ...], everything: bool, kind: str | None) -> None:
    if bool(ids) == everything:
        raise click.UsageError(
            "name the dead letters by id, or say --all (one of the two)", click.get_current_context()
        )
    if kind is not None and not everything:
        raise click.UsageError("--kind goes with --all", click.get_current_context())


def _act(
    config: Path | None,
    ids: tuple[int, ...],
    everything: bool,
    kind: str | None,
    request: Callable[[list[int]], Request],
    done: str,
    as_json: bool,
) -> int:
    from perdure.cli.verdicts import act

    with session.open_queue(config) as opened:
        chosen = list(_waiting(opened, kind)) if everything else list(ids)
        if not chosen and not as_json:
            click.echo("no dead letter waits for a decision" + (f" among kind {kind}" if kind else ""))
        return act(opened, chosen, request, done, as_json=as_json)


def _waiting(opened: session.Session, kind: str | None) -> Iterator[int]:
    """The ids of all letters without a decision, found before the first is touched: each is touched once."""
    from perdure.cli.pages import dead_pages
    from perdure.wire.data import DeadFilter

    for page in dead_pages(opened, DeadFilter(kind=kind), None):
        yield from (letter.id for letter in page)
