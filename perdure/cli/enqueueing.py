"""What `perdure enqueue` does with jobs that it has read: send them, say their ids, wait for them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import click

from perdure.cli import session
from perdure.cli.bulk import Batch, send
from perdure.cli.text import clean, is_terminal, note, plural
from perdure.errors import PerdureError
from perdure.wire.data import Enqueued

if TYPE_CHECKING:
    from perdure.config.settings import Settings
    from perdure.payload import Payload
    from perdure.wire.control import JobEnd


class Wishes(NamedTuple):
    """How the command was asked to behave: see its options."""

    strict: bool
    wait: bool
    follow: bool
    as_json: bool
    payload: Payload | None = None
    patience_ms: int | None = None


def carry_out(batch: Batch, settings: Settings, wishes: Wishes) -> int:
    """Enqueue, print, and wait as wished; the exit code."""
    if not batch.jobs:
        note(f"{batch.source}: no jobs in it; nothing was enqueued")
        return 0
    opened = session.connect(settings, local=not wishes.wait, create=True)
    placed: Sequence[Enqueued] = ()
    try:
        placed = send(
            opened, batch, settings, strict=wishes.strict, payload=wishes.payload, patience_ms=wishes.patience_ms
        )
        if not (wishes.wait and wishes.as_json):
            _print_safely(placed, as_json=wishes.as_json, many=bool(batch.source))
        _note_duplicates(batch, placed)
        _note_shed(batch, placed)
        _note_unknown_kinds(opened, batch, waits=wishes.wait)
        if not wishes.wait:
            if not opened.live:
                note("no daemon is running; what is in the queue waits for one: perdure run")
            return 0
        if wishes.follow:
            from perdure.cli.following import print_log

            opened = print_log(opened, settings, placed[0].id, follow=True)
        from perdure.cli.following import wait_for

        ends, opened = wait_for(opened, settings, list(dict.fromkeys(one.id for one in placed)), None)
    except KeyboardInterrupt:
        if placed:
            _note_goes_on(placed)
        raise
    finally:
        opened.close()
    return _tell_ends(placed, ends, as_json=wishes.as_json)


def _print_safely(placed: Sequence[Enqueued], *, as_json: bool, many: bool) -> None:
    """A caller that sees this fail must not think that nothing was enqueued."""
    try:
        _print(placed, as_json=as_json, many=many)
    except BrokenPipeError:
        raise
    except OSError as error:
        first, last = placed[0].id, placed[-1].id
        which = f"job {first} is" if len(placed) == 1 else f"{len(placed):,} jobs ({first} to {last}) are"
        raise PerdureError(f"{which} in the queue, but stdout cannot be written: {error.strerror}") from None


def _print(placed: Sequence[Enqueued], *, as_json: bool, many: bool) -> None:
    """The ids on stdout, flushed: whatever happens from here on, the caller knows them."""
    if as_json:
        from perdure.cli.documents import print_documents

        print_documents(_document(one) for one in placed)
    elif many and is_terminal(sys.stdout):
        ids = [one.id for one in placed]
        where = f"id {ids[0]}" if len(ids) == 1 else f"ids {min(ids)} to {max(ids)}"
        click.echo(f"{plural(len(ids), 'job')} in the queue ({where})")
    else:
        click.echo("\n".join(str(one.id) for one in placed))


def _document(one: Enqueued) -> dict[str, object]:
    return {"id": one.id, "duplicate": one.duplicate, "shed": one.shed, "pressure": one.pressure}


def _note_duplicates(batch: Batch, placed: Sequence[Enqueued]) -> None:
    duplicates = [one.id for one in placed if one.duplicate]
    if duplicates and batch.source:
        note(f"{plural(len(duplicates), 'job')} not enqueued again: unfinished jobs have their unique keys")
    elif duplicates:
        note(f"not enqueued again: job {duplicates[0]} has this unique key and has not finished")


def _note_goes_on(placed: Sequence[Enqueued]) -> None:
    """Who stops waiting has not stopped the job."""
    first = placed[0].id
    if len(placed) == 1:
        note(f"\njob {first} goes on: perdure wait {first}, or perdure cancel {first}")
    else:
        note(f"\nthe {len(placed):,} jobs go on: perdure jobs")


def _note_shed(batch: Batch, placed: Sequence[Enqueued]) -> None:
    """Also for scripts: whoever looks at the exit code alone should find it in their log."""
    shed = [one.id for one in placed if one.shed]
    if shed and batch.source:
        click.echo(f"perdure: {plural(len(shed), 'job')} shed by full queues: see perdure dead list", err=True)
    elif shed:
        text = "its queue is full, and no job there is less urgent"
        click.echo(f"perdure: job {shed[0]} was shed: {text}. See: perdure dead show {shed[0]}", err=True)


def _note_unknown_kinds(opened: session.Session, batch: Batch, *, waits: bool) -> None:
    """Why the jobs do not run. Also for scripts that wait for them: they might wait for ever."""
    person = is_terminal(sys.stderr)
    if not (person or waits):
        return
    from perdure.wire.control import ListKinds

    try:
        known = [spec.name for spec in opened.request(ListKinds())]
    except PerdureError:
        return  # the jobs are in the queue; this is only a hint
    for kind in sorted({job.kind for job in batch.jobs} - set(known))[:5]:
        click.echo(("" if person else "perdure: ") + clean(unknown_kind(kind, known)), err=True)


def unknown_kind(kind: str, known: Sequence[str]) -> str:
    """That nobody handles this kind, and which one may have been meant."""
    from difflib import get_close_matches

    from perdure.kinds import BUILTIN

    if kind in BUILTIN:
        return f"{kind} is off; the job waits (parked) until daemon.builtin_kinds names it and the daemon starts anew"
    close = get_close_matches(kind, known, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    return f"no handler named {kind} is loaded; the job waits (parked) until one is.{hint}"


def _tell_ends(placed: Sequence[Enqueued], ends: Sequence[JobEnd], *, as_json: bool) -> int:
    from perdure.cli.following import end_document, end_text

    by_id = {end.id: end for end in ends}
    failed = [end for end in ends if end.state != "completed"]
    if as_json:
        from perdure.cli.documents import print_documents

        print_documents({**_document(one), **end_document(by_id[one.id])} for one in placed if one.id in by_id)
    for end in failed[:20]:
        click.echo(
            f"perdure: job {end.id} is {end.state}: {clean(end.error or 'no error')}. See: perdure show {end.id}",
            err=True,
        )
    if len(failed) > 20:
        click.echo(f"perdure: and {len(failed) - 20} more did not complete", err=True)
    if not failed and len(ends) == 1:
        text = end_text(ends[0])
        note(f"job {ends[0].id} completed" + (f": {clean(text)}" if text else ""))
    elif not failed:
        note(f"all {len(ends)} jobs completed")
    return 4 if failed else 0
