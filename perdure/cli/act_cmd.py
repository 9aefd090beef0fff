"""`perdure cancel` and `perdure retry`."""

from __future__ import annotations

from pathlib import Path

import click

from perdure.cli import session
from perdure.cli.options import JOB_ID, config_option, json_option


@click.command()
@click.argument("ids", metavar="ID...", type=JOB_ID, nargs=-1, required=True)
@json_option
@config_option
@click.pass_context
def cancel(ctx: click.Context, ids: tuple[int, ...], as_json: bool, config: Path | None) -> None:
    """Cancel jobs, also those that run.

    What waits is taken back at once. What runs is told to end, and has the time of workers.cancel_grace for that; then
    its worker is killed. Exit code 5 if a job had ended before, or completed all the same.
    """
    from perdure.cli.verdicts import act, who
    from perdure.wire.control import CancelJobs

    with session.open_queue(config) as opened:
        ctx.exit(act(opened, ids, lambda piece: CancelJobs(piece, who()), "cancelled", as_json=as_json))


@click.command()
@click.argument("ids", metavar="ID...", type=JOB_ID, nargs=-1, required=True)
@json_option
@config_option
@click.pass_context
def retry(ctx: click.Context, ids: tuple[int, ...], as_json: bool, config: Path | None) -> None:
    """Run jobs again, or now instead of later.

    For scheduled, retryable, cancelled and completed jobs; they get a fresh budget of attempts.
    Dead ones: `perdure dead replay`.
    """
    from perdure.cli.verdicts import act
    from perdure.wire.control import RetryJobs

    with session.open_queue(config) as opened:
        ctx.exit(act(opened, ids, RetryJobs, "available again", as_json=as_json))
