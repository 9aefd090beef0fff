"""`perdure result`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from perdure.cli import session
from perdure.cli.options import JOB_ID, config_option
from perdure.errors import UsageError

#: What is copied at once where the kernel cannot do it alone.
_CHUNK_BYTES = 1 << 20


@click.command()
@click.argument("job_id", metavar="ID", type=JOB_ID)
@config_option
def result(job_id: int, config: Path | None) -> None:
    """Print the result of a job that has completed.

    JSON text; or the bytes as they are, when the handler has returned bytes or written a file.
    """
    from perdure.cli.text import is_terminal
    from perdure.wire.control import GetResult, ResultView
    from perdure.wire.packet import close_all

    with session.open_queue(config) as opened:
        view: ResultView
        view, fds = opened.request_with_fds(GetResult(job_id))
    try:
        if view.blob is None:
            click.echo(view.json or "null")
        elif sys.stdout is None:
            raise UsageError(f"stdout is closed, so there is nowhere to write the result of job {job_id}")
        elif not view.blob.json and is_terminal(sys.stdout):
            raise UsageError(
                f"the result of job {job_id} is {view.blob.size:,} bytes, which are not for a terminal: "
                f"perdure result {job_id} > FILE"
            )
        else:
            sys.stdout.flush()
            _pass_on(fds[0], sys.stdout.fileno(), view.blob.size)
    finally:
        close_all(fds)


def _pass_on(source: int, target: int, size: int) -> None:
    """All of a file, by the kernel where it can: not to a file that is open for appending, for example."""
    offset = 0
    try:
        while offset < size and (count := os.sendfile(target, source, offset, size - offset)):
            offset += count
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
    while offset < size and (data := os.pread(source, _CHUNK_BYTES, offset)):
        offset += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]
    if offset < size:
        raise OSError(f"the file ended after {offset:,} of {size:,} bytes")
