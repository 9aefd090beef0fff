"""`perdure follow`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure.cli import session
from perdure.cli.options import JOB_ID, config_option, json_option

if TYPE_CHECKING:
    from perdure.wire.streams import Topic

#: States that nothing follows.
ENDS = frozenset({"completed", "cancelled", "dead"})


@click.command()
@click.argument("ids", metavar="[ID]...", type=JOB_ID, nargs=-1)
@click.option("--queue", "queues", metavar="QUEUE", multiple=True, help="All jobs of this queue; may be repeated.")
@click.option("--all", "everything", is_flag=True, help="All jobs of all queues.")
@click.option(
    "--topic",
    "topics",
    type=click.Choice(["state", "progress", "log", "emit"]),
    multiple=True,
    help="Only this: states, progress, log lines, or values that jobs emit; may be repeated.",
)
@json_option
@config_option
@click.pass_context
def follow(
    ctx: click.Context,
    ids: tuple[int, ...],
    queues: tuple[str, ...],
    everything: bool,
    topics: tuple[Topic, ...],
    as_json: bool,
    config: Path | None,
) -> None:
    """Watch jobs while they run.

    Prints their states, progress, log lines and the values that they emit, what was there before first. With IDs it
    ends when all of these have ended, and exits with 4 if one of them did not complete. A restart of the daemon is
    waited through.
    """
    from perdure.cli.follow_text import Documents, Lines, Memory
    from perdure.cli.following import Stream
    from perdure.cli.text import is_terminal
    from perdure.wire.control import Subscribe
    from perdure.wire.streams import TOPICS, StateChange

    if bool(ids) + bool(queues) + everything != 1:
        raise click.UsageError("which jobs? perdure follow ID..., --queue QUEUE or --all: one of these", ctx)
    wanted: list[Topic] = list(topics or TOPICS)
    memory = Memory()
    bars = is_terminal(sys.stdout) and os.environ.get("TERM") != "dumb"
    show = (Documents(memory) if as_json else Lines(memory, alone=len(set(ids)) == 1, bars=bars)).show
    settings = session.load(config)
    opened = session.connect(settings, local=False)
    # States are needed in any case: for the exit code, and to know what need not be remembered any more.
    request = Subscribe(list(ids), list(queues), everything, wanted if "state" in wanted else [*wanted, "state"])
    stream = Stream(opened, settings, request)
    ends: dict[int, str] = {}
    try:
        for message in stream:
            if message is None:
                memory.restarted()
                continue
            changes = [entry for entry in message.entries if isinstance(entry, StateChange)]
            if "state" not in wanted:
                message.entries = [entry for entry in message.entries if not isinstance(entry, StateChange)]
            show(message)
            ends |= {change.id: change.state for change in changes if ids}
            for change in changes if not ids else ():
                if change.state in ENDS:  # whoever follows a queue for weeks must not remember all of its jobs
                    memory.forget(change.id)
                    stream.forget(change.id)
    finally:
        stream.session.close()
    if any(state != "completed" for state in ends.values()):
        ctx.exit(4)
