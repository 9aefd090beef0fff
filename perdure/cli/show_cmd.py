"""`perdure show`."""

from __future__ import annotations

from pathlib import Path

import click

from perdure.cli import session
from perdure.cli.options import JOB_ID, config_option, json_option


@click.command()
@click.argument("job_id", metavar="ID", type=JOB_ID)
@json_option
@config_option
def show(job_id: int, as_json: bool, config: Path | None) -> None:
    """Show everything about one job.

    Its arguments, its times, and the error and traceback of each attempt that went wrong. A dead job is shown too.
    """
    from perdure.cli.documents import document, print_document
    from perdure.errors import NotFound
    from perdure.wire.control import GetDead, GetJob
    from perdure.wire.data import DeadView, JobView

    with session.open_queue(config) as opened:
        view: JobView | DeadView | None = opened.request(GetJob(job_id))
        if view is None:
            view = opened.request(GetDead(job_id))
    if view is None:
        raise NotFound(
            f"no job {job_id}; it never was, or it finished and was pruned. `perdure jobs` lists what there is"
        )
    if as_json:
        state = {"state": "dead"} if isinstance(view, DeadView) else {}
        print_document({**document(view), **state})
    elif isinstance(view, DeadView):
        from perdure.cli.dead_text import print_dead_letter

        print_dead_letter(view)
    else:
        from perdure.cli.job_text import print_job

        print_job(view)
