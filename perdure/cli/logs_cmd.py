"""`perdure logs`."""

from __future__ import annotations

from pathlib import Path

import click

from perdure.cli import session
from perdure.cli.options import JOB_ID, config_option


@click.command()
@click.argument("job_id", metavar="ID", type=JOB_ID)
@click.option("--follow", "-f", is_flag=True, help="Go on printing until the job has ended.")
@config_option
def logs(job_id: int, follow: bool, config: Path | None) -> None:
    """Print what a job wrote.

    Its log lines, and what it printed to stdout and stderr. Old output of a talkative job may have been rotated away.
    """
    from perdure.cli.following import print_log

    settings = session.load(config)
    opened = session.connect(settings, local=not follow)
    try:
        opened = print_log(opened, settings, job_id, follow=follow)
    finally:
        opened.close()
