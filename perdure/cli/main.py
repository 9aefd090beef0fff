"""The entry point `perdure`: finds the command, runs it, and turns what goes wrong into a message and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from perdure.cli.lazy import Entry, LazyGroup

#: How a shell asks for completions: eval "$(_PERDURE_COMPLETE=bash_source perdure)"
_COMPLETION = "_PERDURE_COMPLETE"

SECTIONS: dict[str, dict[str, Entry]] = {
    "Begin": {
        "init": Entry("perdure.cli.init_cmd:init", "Write a perdure.toml and a jobs.py that run as they are."),
        "run": Entry("perdure.cli.run_cmd:run", "Run the daemon in the foreground."),
    },
    "Jobs": {
        "enqueue": Entry("perdure.cli.enqueue_cmd:enqueue", "Put jobs into the queue; prints their ids."),
        "jobs": Entry("perdure.cli.jobs_cmd:jobs", "List jobs, newest first."),
        "show": Entry("perdure.cli.show_cmd:show", "Show everything about one job."),
        "explain": Entry("perdure.cli.explain_cmd:explain", "Say why a job is where it is, and what it waits for."),
        "result": Entry("perdure.cli.result_cmd:result", "Print the result of a job that has completed."),
        "logs": Entry("perdure.cli.logs_cmd:logs", "Print what a job wrote."),
        "follow": Entry("perdure.cli.follow_cmd:follow", "Watch jobs while they run."),
        "wait": Entry("perdure.cli.wait_cmd:wait", "Wait until jobs have ended."),
        "attach": Entry("perdure.cli.attach_cmd:attach", "Connect stdin and stdout with a running job."),
        "cancel": Entry("perdure.cli.act_cmd:cancel", "Cancel jobs, also those that run."),
        "retry": Entry("perdure.cli.act_cmd:retry", "Run jobs again, or now instead of later."),
        "dead": Entry("perdure.cli.dead_cmd:dead", "Look at dead letters, replay or discard them."),
    },
    "Daemon": {
        "status": Entry("perdure.cli.status_cmd:status", "Show what the daemon does, and how it is."),
        "queue": Entry("perdure.cli.queue_cmd:queue", "List, pause and resume queues."),
        "breaker": Entry(
            "perdure.cli.breaker_cmd:breaker", "List, open and close the breakers of databases and other services."
        ),
        "kinds": Entry("perdure.cli.kinds_cmd:kinds", "List the kinds of jobs that the loaded handlers declare."),
        "reload": Entry("perdure.cli.reload_cmd:reload", "Load the handlers anew."),
        "config": Entry("perdure.cli.config_cmd:config", "Check the configuration."),
        "doctor": Entry("perdure.cli.doctor_cmd:doctor", "Look for what is wrong with this installation."),
        "systemd": Entry("perdure.cli.systemd_cmd:systemd", "Print or install the systemd unit.", optional=True),
        "bench": Entry("perdure.bench.command:bench", "Measure how fast this machine runs jobs.", optional=True),
    },
}


def _print_version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from perdure import __version__

    click.echo(f"perdure {__version__}")
    ctx.exit()


@click.group(
    cls=LazyGroup,
    sections=SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done; 1 it failed; 2 usage; 3 the daemon is not reachable; 4 the job waited for failed; "
    "5 refused.",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
def cli() -> None:
    """A job-runner daemon for one server that loses nothing."""


def main() -> NoReturn:
    """What the program `perdure` does."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code. Prints errors; raises none."""
    _be_forgiving(sys.stdout)
    _be_forgiving(sys.stderr)
    try:
        code = _invoke(list(arguments))
        if sys.stdout is not None:
            sys.stdout.flush()
    except BaseException as error:  # the one place where errors become exit codes
        from perdure.cli.failures import report

        return report(error)
    return code


def _invoke(arguments: list[str]) -> int:
    """What click's own main() does, without its way to handle errors."""
    if _COMPLETION in os.environ:
        cli.main(arguments, prog_name="perdure", complete_var=_COMPLETION)
    try:
        with cli.make_context("perdure", arguments) as ctx:
            cli.invoke(ctx)
    except click.exceptions.Exit as end:
        return end.exit_code
    return 0


def _be_forgiving(stream: Any) -> None:
    """Show characters that the terminal's encoding lacks as escapes, instead of failing on them."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
