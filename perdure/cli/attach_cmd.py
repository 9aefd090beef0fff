"""`perdure attach`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from perdure.cli import session
from perdure.cli.options import DURATION, JOB_ID, config_option
from perdure.errors import CallTimeout, PerdureError, TimeGivenIsOver, UsageError

#: As long as a socket can wait (INT_MAX milliseconds), nearly.
_FOREVER_SECONDS = 24 * 86_400.0


@click.command()
@click.argument("job_id", metavar="ID", type=JOB_ID)
@click.option(
    "--timeout", type=DURATION, metavar="TIME", help="Wait no longer than this for the job's port, then exit with 1."
)
@config_option
def attach(job_id: int, timeout: int | None, config: Path | None) -> None:
    """Connect stdin and stdout with a running job.

    The job opens a port for that, with ctx.port(); until it does, this waits. The end of stdin is passed on; the
    command ends when the job has closed its end.
    """
    import socket

    from perdure.cli.piping import connect_streams
    from perdure.cli.text import is_terminal
    from perdure.wire.control import AttachPort

    if sys.stdout is None:  # the job has its port for one client: do not become it in vain
        raise UsageError("stdout is closed, so there is nowhere to write what the job says")
    if is_terminal(sys.stderr):
        click.echo(f"waiting for the port of job {job_id}", err=True)
    seconds = _FOREVER_SECONDS if timeout is None else max(0.001, timeout / 1000)
    with session.open_queue(config) as opened:
        try:
            _, (fd,) = opened.request_with_fds(AttachPort(job_id), timeout_s=seconds)
        except CallTimeout:
            raise TimeGivenIsOver(
                f"job {job_id} has opened no port within the time given; nothing was cancelled. "
                f"See `perdure explain {job_id}`"
            ) from None
    if is_terminal(sys.stderr):
        click.echo("attached; Ctrl-D ends what you say", err=True)
    with socket.socket(fileno=fd) as line:
        try:
            connect_streams(line, 0, 1)
        except ConnectionResetError:
            raise PerdureError(
                f"job {job_id} hung up before it had read everything; see `perdure show {job_id}`"
            ) from None
