"""`perdure wait`."""

from __future__ import annotations

from pathlib import Path

import click

from perdure.cli import session
from perdure.cli.options import DURATION, JOB_ID, config_option, json_option


@click.command()
@click.argument("ids", metavar="ID...", type=JOB_ID, nargs=-1, required=True)
@click.option("--timeout", type=DURATION, metavar="TIME", help="Wait no longer than this, then exit with 1.")
@json_option
@config_option
@click.pass_context
def wait(ctx: click.Context, ids: tuple[int, ...], timeout: int | None, as_json: bool, config: Path | None) -> None:
    """Wait until jobs have ended.

    Prints how each one ended, also when others have not by the time given. Exits with 4 if one of them is dead or
    cancelled. A restart of the daemon is waited through.
    """
    from perdure.cli.documents import print_document
    from perdure.cli.following import end_document, end_text, time_is_over, wait_for

    settings = session.load(config)
    opened = session.connect(settings)
    seconds = None if timeout is None else timeout / 1000
    try:
        ends, opened = wait_for(opened, settings, list(dict.fromkeys(ids)), seconds)
    finally:
        opened.close()
    for end in ends:
        if as_json:
            print_document(end_document(end))
        else:
            _print_end(end.id, end.state, end_text(end) if end.error is None else end.error)
    ended = {end.id for end in ends}
    if seconds is not None and (left := [job_id for job_id in dict.fromkeys(ids) if job_id not in ended]):
        raise time_is_over(left, seconds)
    if any(end.state != "completed" for end in ends):
        ctx.exit(4)


def _print_end(job_id: int, state: str, detail: str | None) -> None:
    from perdure.cli.text import clean, fit, paint_state

    click.echo(f"{job_id} {paint_state(state)}" + (f"  {fit(clean(detail), 200)}" if detail else ""))
