"""Commands on behalf of jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from perdure.wire.work import JobRow

if TYPE_CHECKING:
    from perdure.adapters.process import Completed
    from perdure.daemon.worker.lane import Bench


class CommandRules(msgspec.Struct, frozen=True):
    """What the configuration says about commands: see WorkerConfig."""

    owner: str = ""
    shell_allow: tuple[str, ...] = ()
    grace_seconds: float = 2.0


async def run_command(bench: Bench, row: JobRow, argv: tuple[str, ...], **options: Any) -> Completed:
    """See Context.run."""
    raise NotImplementedError
