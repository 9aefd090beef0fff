"""`perdure reload`."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import click

from perdure.cli import session
from perdure.cli.options import config_option

#: Handlers may import much.
_RELOAD_SECONDS = 300.0


@click.command()
@click.option(
    "--wait", is_flag=True, help="Return when the new handlers are at work, or with the reason why they are not."
)
@config_option
def reload(wait: bool, config: Path | None) -> None:
    """Load the handlers anew.

    Running jobs finish on the old code. If the new code cannot be loaded, the old stays at work.
    """
    from perdure.wire.control import GetStatus, Reload

    with session.open_queue(config, local=False) as opened:
        if wait:
            kinds = opened.request(Reload(), timeout_s=_RELOAD_SECONDS)
            click.echo(f"reloaded: {len(kinds)} kinds")
            return
        pid: int = opened.request(GetStatus()).pid
    _hang_up(pid)
    click.echo(f"asked the daemon (pid {pid}) to reload; `perdure kinds` shows what is loaded")


def _hang_up(pid: int) -> None:
    from perdure.errors import DaemonUnreachable, Forbidden

    try:
        os.kill(pid, signal.SIGHUP)
    except ProcessLookupError:
        raise DaemonUnreachable(f"the daemon (pid {pid}) has just gone. Start it with `perdure run`") from None
    except PermissionError:
        raise Forbidden(
            f"this user may not send a signal to the daemon (pid {pid}); `perdure reload --wait` asks over the socket"
        ) from None
