"""Commands on behalf of jobs: `ctx.run` and its blocking twin, with what the worker adds to adapters/process.py."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from perdure.adapters.output_pump import Sink
from perdure.adapters.process import KILL_SECONDS, LOOK_SECONDS, OUTPUT_SECONDS, Helpers, Surroundings, run
from perdure.adapters.program import Program, read_wishes
from perdure.errors import NotAllowed

if TYPE_CHECKING:
    from perdure.adapters.process import Completed
    from perdure.wire.work import JobRow, WorkerConfig

#: In the environment of each command: which queue, run and worker it belongs to, and which job and attempt.
OWNER_MARK: Final = "PERDURE_OWNER"
JOB_MARK: Final = "PERDURE_JOB_ID"
ATTEMPT_MARK: Final = "PERDURE_ATTEMPT"
KIND_MARK: Final = "PERDURE_JOB_KIND"
#: After the grace of a time limit, so much is left for what comes after SIGKILL.
_LIMIT_SHARE: Final = 0.5


class Commands:
    """What holds for all commands of a worker."""

    def __init__(self, config: WorkerConfig) -> None:
        self._owner = config.owner
        self._allow = tuple(config.shell_allow)
        self._grace_seconds = config.command_grace
        self._limit_grace_seconds = config.hard_grace * _LIMIT_SHARE
        self._reaper = config.supervisor_pid
        self._capture_bytes = config.result_bytes

    @cached_property
    def _helpers(self) -> Helpers:
        return Helpers()

    async def run(
        self,
        row: JobRow,
        sink: Sink,
        ends_at: float | None,
        argv: Sequence[str],
        *,
        only_allowed: bool = False,
        **options: Any,
    ) -> Completed:
        """See Context.run. `ends_at`: when the job's time is over, in seconds of time.monotonic().

        `only_allowed`: raises NotAllowed for programs that are not in the configuration's list.
        """
        marks = {
            OWNER_MARK: self._owner,
            JOB_MARK: str(row.id),
            ATTEMPT_MARK: str(row.attempt),
            KIND_MARK: row.kind,
        }
        wishes = read_wishes(argv, marks, **options)
        if only_allowed:
            wishes = wishes._replace(program=self._allowed(wishes.program))
        around = Surroundings(
            sink=sink,
            helpers=self._helpers,
            grace_seconds=self._grace_seconds,
            # The worker is killed if the job is not over soon after its limit: its command must be gone by then.
            until=None if ends_at is None else ends_at + self._limit_grace_seconds,
            reaper=self._reaper,
            capture_bytes=self._capture_bytes,
        )
        return await run(wishes, around)

    def most_seconds_to_end(self) -> float:
        """How long it takes at most until a command that is given up has ended."""
        return self._grace_seconds + KILL_SECONDS + LOOK_SECONDS + OUTPUT_SECONDS

    def _allowed(self, program: Program) -> Program:
        """The same program under a path without links back (..): what is compared is what is run."""
        path = os.path.normpath(program.path)
        if not is_allowed(path, self._allow):
            there = f"allowed: {', '.join(self._allow)}" if self._allow else "nothing is allowed"
            raise NotAllowed(f"{path!r:.200} may not be run ({there}); add it to shell.allow in the configuration")
        return program._replace(path=path)


def is_allowed(path: str, patterns: Sequence[str]) -> bool:
    """Whether an absolute path fits one of the patterns: `*` stands for any characters but "/", `**` for any."""
    return any(re.fullmatch(_as_regex(pattern), path, re.DOTALL) for pattern in patterns)


def _as_regex(pattern: str) -> str:
    parts = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(parts.get(part) or re.escape(part) for part in re.split(r"(\*\*|\*|\?)", pattern))
