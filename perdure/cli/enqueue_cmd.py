"""`perdure enqueue`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perdure.cli import session
from perdure.cli.after_dashes import AfterDashes, from_here, shell_arguments, words_after_dashes
from perdure.cli.options import ATTEMPTS, DURATION, MOMENT, PRIORITY, config_option

if TYPE_CHECKING:
    from perdure.wire.data import JobSpec


_EXAMPLES = """\b
Examples:
  perdure enqueue mail.send to=ada@example.org copies:=2
  perdure enqueue report --json '{"month": "2027-01"}' --delay 10m
  perdure enqueue ingest --from files.jsonl
  perdure enqueue shell --follow -- ./nightly.sh --fast
"""

#: The kind whose arguments are a command (config/shell.py).
_SHELL = "shell"


@click.command(cls=AfterDashes, epilog=_EXAMPLES)
@click.argument("kind", metavar="[KIND]", required=False)
@click.argument("pairs", metavar="[KEY=VALUE | KEY:=JSON]... [-- COMMAND...]", nargs=-1)
@click.option("--json", "args_json", metavar="OBJ", help="The arguments as a JSON object; KEY=VALUE is added to it.")
@click.option(
    "--from",
    "source",
    metavar="FILE",
    help="Many jobs, one a line ('-': stdin): with KIND the arguments of each, without it whole jobs.",
)
@click.option("--queue", metavar="QUEUE", help="Queue; default: what the kind declares.")
@click.option("--priority", type=PRIORITY, metavar="N", help="-20 to 19, like nice: lower runs first.")
@click.option("--delay", type=DURATION, metavar="TIME", help="Not before this time has passed (5m, 1h30m).")
@click.option(
    "--at", type=MOMENT, metavar="TIME", help="Not before this moment (14:30, 2027-01-31T14:30, epoch seconds)."
)
@click.option("--unique", metavar="KEY", help="If an unfinished job of this kind has this key, enqueue nothing.")
@click.option("--unique-strict", is_flag=True, help="With a unique key that is taken: fail with exit code 5.")
@click.option("--max-attempts", type=ATTEMPTS, metavar="N", help="How often it may fail.")
@click.option("--timeout", type=DURATION, metavar="TIME", help="How long an attempt may take; 0: no limit.")
@click.option(
    "--payload-file",
    type=click.Path(),
    metavar="FILE",
    help="The job's payload; it must stay as it is until the job has ended.",
)
@click.option("--spool", is_flag=True, help="Copy the payload first, so that the file may change or go.")
@click.option(
    "--patience", type=DURATION, metavar="TIME", help="How long to wait for room in a full queue; 0: not at all."
)
@click.option("--tag", "tags", metavar="TAG", multiple=True, help="A tag to find it by; may be repeated.")
@click.option("--wait", is_flag=True, help="Return when it has ended; exit code 4 if it did not complete.")
@click.option("--follow", is_flag=True, help="Print what the job writes until it ends; exit code as with --wait.")
@click.option("--output", type=click.Choice(["id", "json"]), default="id", show_default=True, help="What to print.")
@config_option
@click.pass_context
def enqueue(
    ctx: click.Context,
    /,
    kind: str | None,
    pairs: tuple[str, ...],
    args_json: str | None,
    source: str | None,
    config: Path | None,
    **options: Any,
) -> None:
    """Put jobs into the queue; prints their ids.

    A job is on disk when its id is printed. Without a daemon the job is written into the file and waits for one.
    """
    from perdure.cli.enqueueing import Wishes, carry_out

    _check(ctx, kind, pairs, args_json, source, options)
    settings = session.load(config)
    template = _template(kind, options)
    payload = None
    if source is None:
        from perdure.cli.bulk import Batch

        batch = Batch([_one(ctx, template, pairs, args_json)], "", [])
        if options["payload_file"] is not None:
            from perdure.payload import prepare

            payload = prepare(options["payload_file"], options["spool"])
            payload.put_into(batch.jobs[0])
    else:
        from perdure.cli.bulk import read_jobs

        batch = read_jobs(source, template, settings)
    wishes = Wishes(
        strict=options["unique_strict"],
        wait=options["wait"] or options["follow"],
        follow=options["follow"],
        as_json=options["output"] == "json",
        payload=payload,
        patience_ms=options["patience"],
    )
    ctx.exit(carry_out(batch, settings, wishes))


def _check(
    ctx: click.Context,
    kind: str | None,
    pairs: tuple[str, ...],
    args_json: str | None,
    source: str | None,
    options: dict[str, Any],
) -> None:
    """Refuse combinations that have no meaning."""
    if options["delay"] is not None and options["at"] is not None:
        raise click.UsageError("--delay and --at: choose one of them", ctx)
    if options["payload_file"] == "":
        raise click.UsageError("--payload-file: the path is empty; was a variable not set?", ctx)
    if options["spool"] and options["payload_file"] is None:
        raise click.UsageError("--spool goes with --payload-file FILE", ctx)
    if source is None:
        if kind is None:
            raise click.UsageError("which kind of job? perdure enqueue KIND [key=value]...", ctx)
        if "=" in kind:
            raise click.UsageError(f"the kind of job comes first: perdure enqueue KIND {kind}", ctx)
        if options["unique_strict"] and options["unique"] is None:
            raise click.UsageError("--unique-strict goes with --unique KEY", ctx)
        return
    if pairs or args_json is not None:
        raise click.UsageError("with --from, the arguments come from the file", ctx)
    if options["unique"] is not None:
        raise click.UsageError("with --from, a unique key goes into each line (whole jobs, without KIND)", ctx)
    if options["payload_file"] is not None:
        raise click.UsageError("--payload-file is for a single job, not for those of --from", ctx)
    if options["follow"]:
        raise click.UsageError("--follow is for a single job; with --from, use --wait", ctx)


def _template(kind: str | None, options: dict[str, Any]) -> JobSpec:
    """What the options say about every job."""
    from perdure.wire.data import JobSpec

    return JobSpec(
        kind=kind or "",
        queue=options["queue"],
        priority=options["priority"],
        max_attempts=options["max_attempts"],
        timeout_ms=options["timeout"],
        delay_ms=options["delay"],
        at_ms=options["at"],
        unique=options["unique"],
        tags=list(options["tags"]),
    )


def _one(ctx: click.Context, template: JobSpec, pairs: tuple[str, ...], args_json: str | None) -> JobSpec:
    from msgspec.structs import replace

    from perdure.cli.arguments import object_text, parse_object, parse_pairs

    base = None if args_json is None else parse_object(args_json, "--json")
    if template.kind == _SHELL:
        words = words_after_dashes(ctx)
        if words is None and pairs and not any("=" in pair for pair in pairs):
            shown = " ".join(pairs)
            raise click.UsageError(f"a command stands after two dashes: perdure enqueue shell -- {shown}", ctx)
        # With the kind after the dashes, too, all the others are the command.
        count = min(len(words or ()), len(pairs))
        pairs, command = pairs[: len(pairs) - count], pairs[len(pairs) - count :]
        if not command and not pairs and not base:
            raise click.UsageError("which command? perdure enqueue shell -- PROGRAM [ARGUMENT]...", ctx)
        if command:
            base = shell_arguments(command) | (base or {})
        pairs = tuple(map(from_here, pairs))
    return replace(template, args=object_text(parse_pairs(pairs, base)))
