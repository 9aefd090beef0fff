"""`perdure jobs`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perdure.cli import session
from perdure.cli.options import LIMIT, config_option, json_option

if TYPE_CHECKING:
    _Choice = click.Choice[str]
else:
    _Choice = click.Choice  # older clicks do not know it as a generic

#: As in store/states.py, whose import would cost more than the list.
STATES = ("scheduled", "available", "running", "retryable", "parked", "completed", "cancelled")


class State(_Choice):
    """One of the states of a job that is not dead."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The state. Fails on what is none."""
        if value == "dead":
            self.fail("dead jobs are listed by `perdure dead list`", param, ctx)
        return str(super().convert(value, param, ctx))


@click.command()
@click.option("--state", "states", multiple=True, type=State(STATES), help="Only jobs in this state; may be repeated.")
@click.option("--queue", metavar="QUEUE", help="Only jobs of this queue.")
@click.option("--kind", metavar="KIND", help="Only jobs of this kind.")
@click.option("--tag", metavar="TAG", help="Only jobs with this tag.")
@click.option("--limit", type=LIMIT, metavar="N", default=50, show_default=True, help="At most so many.")
@json_option
@config_option
def jobs(
    states: tuple[str, ...],
    queue: str | None,
    kind: str | None,
    tag: str | None,
    limit: int,
    as_json: bool,
    config: Path | None,
) -> None:
    """List jobs, newest first.

    Dead ones are listed by `perdure dead list`. With --json, one object per line.
    """
    from perdure.cli.documents import document, print_document
    from perdure.cli.pages import dead_pages, job_pages
    from perdure.cli.text import is_terminal, note
    from perdure.wire.data import DeadFilter, JobFilter

    which = JobFilter(states=list(states), queue=queue, kind=kind, tag=tag, limit=limit)
    with session.open_queue(config) as opened:
        pages = job_pages(opened, which)
        if as_json:
            for page in pages:
                for view in page:
                    print_document(document(view))
            return
        views = [view for page in pages for view in page]
        # Who looks for a job that has died would not find it here.
        filtered = bool(states) or not queue is kind is tag is None
        some_died = not filtered and is_terminal(sys.stderr) and any(dead_pages(opened, DeadFilter(), 1))
    from perdure.cli.job_text import print_jobs

    print_jobs(views, filtered=filtered, limit=limit)
    if some_died:
        note("dead jobs are in another list: perdure dead list")
