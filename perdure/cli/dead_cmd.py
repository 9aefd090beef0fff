"""`perdure dead`: the group, and what reads dead letters."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import click

from perdure.cli import session
from perdure.cli.lazy import Entry, LazyGroup
from perdure.cli.options import JOB_ID, LIMIT, config_option, json_option

SECTIONS = {
    "Commands": {
        "list": Entry("perdure.cli.dead_cmd:list_dead", "List dead letters, newest first."),
        "show": Entry("perdure.cli.dead_cmd:show", "Show the whole story of a dead letter."),
        "replay": Entry("perdure.cli.dead_acts:replay", "Give dead jobs another life."),
        "discard": Entry("perdure.cli.dead_acts:discard", "Decide that dead letters need nothing more."),
        "export": Entry("perdure.cli.dead_cmd:export", "Write dead letters as JSON lines."),
    }
}


@click.group(cls=LazyGroup, sections=SECTIONS)
def dead() -> None:
    """Look at dead letters, replay or discard them.

    A job becomes a dead letter when its handler says that it can never succeed, when its attempts are used up, or when
    its worker died too often while it ran. It waits here for a decision.
    """


@click.command("list")
@click.option("--queue", metavar="QUEUE", help="Only those of this queue.")
@click.option("--kind", metavar="KIND", help="Only those of this kind.")
@click.option("--resolved", is_flag=True, help="Also those that were replayed or discarded.")
@click.option("--limit", type=LIMIT, metavar="N", default=50, show_default=True, help="At most so many.")
@json_option
@config_option
def list_dead(
    queue: str | None, kind: str | None, resolved: bool, limit: int, as_json: bool, config: Path | None
) -> None:
    """List dead letters, newest first.

    With --json, one object per line.
    """
    from perdure.cli.documents import document, print_document
    from perdure.cli.pages import dead_pages
    from perdure.wire.data import DeadFilter

    which = DeadFilter(queue=queue, kind=kind, include_resolved=resolved)
    with session.open_queue(config) as opened:
        pages = dead_pages(opened, which, limit)
        if as_json:
            for page in pages:
                for letter in page:
                    print_document(document(letter))
            return
        letters = [letter for page in pages for letter in page]
    from perdure.cli.dead_text import print_dead_letters

    print_dead_letters(letters, filtered=not queue is kind is None, resolved=resolved)


@click.command()
@click.argument("job_id", metavar="ID", type=JOB_ID)
@json_option
@config_option
def show(job_id: int, as_json: bool, config: Path | None) -> None:
    """Show the whole story of a dead letter.

    Its arguments as first enqueued and as last run, every error with its traceback, and who replayed it
    with which edits.
    """
    from perdure.cli.documents import document, print_document
    from perdure.errors import NotFound
    from perdure.wire.control import GetDead

    with session.open_queue(config) as opened:
        letter = opened.request(GetDead(job_id))
    if letter is None:
        raise NotFound(
            f"no dead letter {job_id}. `perdure dead list` lists them; for other jobs: perdure show {job_id}"
        )
    if as_json:
        print_document(document(letter))
        return
    from perdure.cli.dead_text import print_dead_letter

    print_dead_letter(letter)


@click.command()
@click.option("--queue", metavar="QUEUE", help="Only those of this queue.")
@click.option("--kind", metavar="KIND", help="Only those of this kind.")
@click.option("--resolved", is_flag=True, help="Also those that were replayed or discarded.")
@click.option(
    "--output",
    "-o",
    metavar="FILE",
    default="-",
    help="Write to this file, not to stdout; it appears when it is complete.",
)
@config_option
def export(queue: str | None, kind: str | None, resolved: bool, output: str, config: Path | None) -> None:
    """Write dead letters as JSON lines.

    One object a line, newest first, with everything that `dead show` tells.
    """
    import msgspec

    from perdure.cli.documents import document
    from perdure.cli.pages import dead_pages
    from perdure.wire.data import DeadFilter

    which = DeadFilter(queue=queue, kind=kind, include_resolved=resolved)
    with session.open_queue(config) as opened, _whole_file(output) as file:
        for page in dead_pages(opened, which, None):
            file.write(b"".join(msgspec.json.encode(document(letter)) + b"\n" for letter in page))


@contextlib.contextmanager
def _whole_file(path: str) -> Iterator[IO[bytes]]:
    """A file that takes its name when the block ends well, and is gone when it does not. "-": stdout."""
    if path == "-":
        with click.open_file("-", "wb") as stdout:
            yield stdout
            stdout.flush()
        return
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe, or /dev/stdout
        with open(path, "wb") as special:
            yield special
        return
    folder, name = os.path.split(os.path.realpath(path))
    draft = os.path.join(folder, f".{name}.{os.getpid()}")
    try:
        with open(draft, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        if isinstance(error, OSError) and error.filename == draft:
            error.filename, error.filename2 = path, None  # the name that the user knows
        raise
