"""`perdure kinds`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure.cli import session
from perdure.cli.options import config_option, json_option

if TYPE_CHECKING:
    from perdure.wire.data import KindSpec

#: Columns of text where there is no terminal that has a width.
_WIDTH = 100
_LONG_NAME = 32


@click.command()
@json_option
@config_option
def kinds(as_json: bool, config: Path | None) -> None:
    """List the kinds of jobs that the loaded handlers declare.

    Lane, module and what a narrow terminal cuts off are in the output of --json, one object per line.
    """
    from perdure.wire.control import ListKinds

    with session.open_queue(config) as opened:
        specs: list[KindSpec] = opened.request(ListKinds())
    if as_json:
        from perdure.cli.documents import print_documents

        print_documents(_document(spec) for spec in specs)
    elif specs:
        _print(specs)
    else:
        click.echo(
            "no handlers are loaded; name their modules: `perdure run MODULE`, or daemon.handlers in perdure.toml"
        )


def _document(spec: KindSpec) -> dict[str, object]:
    import msgspec

    params = [{"name": param.name, "type": param.type, "required": param.required} for param in spec.params]
    return {**msgspec.structs.asdict(spec), "params": params}


def _print(specs: list[KindSpec]) -> None:
    from perdure.cli.table import Column, table_lines, terminal_width
    from perdure.cli.text import span

    columns = (
        # A name is there to be copied: it gives way only when it leaves no room for the rest.
        Column("KIND", flexible=any(len(spec.name) > _LONG_NAME for spec in specs)),
        Column("ARGUMENTS", flexible=True),
        Column("NEEDS", flexible=True),
        Column("QUEUE", flexible=True),
        Column("TRIES", right=True),
        Column("TIMEOUT", right=True),
        Column("WHAT IT DOES", flexible=True),
    )
    rows = [
        (
            spec.name,
            _signature(spec) or None,
            ", ".join(spec.needs) or None,
            spec.queue,
            spec.max_attempts,
            span(spec.timeout_ms) if spec.timeout_ms else None,
            spec.doc.strip().split("\n")[0] or None,
        )
        for spec in sorted(specs, key=lambda spec: spec.name)
    ]
    # Signatures are long: without a terminal the lines would have no end. Programs take --json, which cuts nothing.
    for line in table_lines(columns, rows, terminal_width() or _WIDTH):
        click.echo(line)


def _signature(spec: KindSpec) -> str:
    parts = [
        f"{param.name}{'' if param.required else '?'}" + (f": {param.type}" if param.type else "")
        for param in spec.params
    ]
    return ", ".join(parts + (["…"] if spec.accepts_extra else []))
