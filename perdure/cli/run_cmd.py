"""`perdure run`."""

from __future__ import annotations

from pathlib import Path

import click

from perdure.cli import session
from perdure.cli.options import config_option


@click.command()
@click.argument("modules", metavar="[MODULE...]", nargs=-1)
@config_option
@click.pass_context
def run(ctx: click.Context, modules: tuple[str, ...], config: Path | None) -> None:
    """Run the daemon in the foreground.

    MODULE: where the handlers are (jobs, or jobs.py); instead of daemon.handlers. Needs no configuration file: then the
    queue is ./perdure.db. SIGTERM and Ctrl-C let running jobs finish, a second one hurries; SIGHUP loads the handlers
    anew.
    """
    names = [_module_name(module) for module in modules]
    settings = session.load(config)
    if names:
        settings = settings.with_overrides(handlers=names)
    if not names and settings.source is None and not settings.daemon.handlers:
        raise click.UsageError(_nothing_to_run(), ctx)
    from perdure.daemon.run import run as run_daemon

    ctx.exit(run_daemon(settings))


def _module_name(text: str) -> str:
    """`pkg/jobs.py`, as shells complete it, is the module pkg.jobs."""
    from perdure.errors import UsageError

    name = text
    if text.endswith(".py") or "/" in text:
        path = Path(text)
        if path.is_absolute() or ".." in path.parts:
            raise UsageError(
                f"{text!r} is not below this folder; go to its folder, and name the module: perdure run {path.stem}"
            )
        name = ".".join(path.with_suffix("").parts)
    if not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(f"{text!r} is not the name of a Python module")
    return name


def _nothing_to_run() -> str:
    if Path("jobs.py").is_file():
        return "there is no configuration file here, and no module is named. Try: perdure run jobs"
    return "there is no configuration file here, and no module is named. `perdure init` writes both to begin with"
