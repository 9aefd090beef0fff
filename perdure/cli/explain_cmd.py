"""`perdure explain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure.cli import session
from perdure.cli.options import JOB_ID, config_option, json_option

if TYPE_CHECKING:
    from perdure.wire.data import Explanation


@click.command()
@click.argument("job_id", metavar="ID", type=JOB_ID)
@json_option
@config_option
def explain(job_id: int, as_json: bool, config: Path | None) -> None:
    """Say why a job is where it is, and what it waits for.

    A breaker and the time left, a handler that is not loaded, a paused queue, the jobs before it, or those that hold
    the places it needs.
    """
    from perdure.wire.control import Explain

    with session.open_queue(config) as opened:
        found: Explanation = opened.request(Explain(job_id))
    if as_json:
        from perdure.cli.documents import document, print_document

        print_document(document(found))
        return
    from perdure.cli.text import clean, paint, paint_state

    click.echo(f"{paint(f'job {found.id}', bold=True)} is {paint_state(clean(found.state))}. {clean(found.text)}")
