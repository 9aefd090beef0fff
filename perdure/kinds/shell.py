"""`shell`: a command as a job, as in a task spooler. Off unless configured, and only what shell.allow names."""

from __future__ import annotations

from typing import Any

from perdure.context import Context
from perdure.errors import UsageError
from perdure.job import job


# A command that failed half-way is not begun anew unless its producer says that it may be.
@job("shell", max_attempts=1, timeout=0, permanent=(UsageError,))
async def shell(ctx: Context, argv: list[str], cwd: str | None = None) -> dict[str, Any]:
    """Run a command: `perdure enqueue shell -- ./nightly.sh --fast`.

    `argv` is the program and its arguments; no shell looks at them, so there are no pipes and no wildcards (write a
    script). `cwd`: the folder to run in; the command line passes the one of its caller. The program must be allowed by
    shell.allow of the configuration. It gets a cleaned environment and no input; what it prints is the job's log. It is
    tried once and has no time limit, unless --max-attempts and --timeout say otherwise.

    Result: {"returncode": 0, "last_lines": "…"}. Any other exit status fails the job.
    """
    ended = await ctx._with_desk().run(tuple(argv), cwd=cwd, only_allowed=True)
    return {"returncode": ended.returncode, "last_lines": ended.last_lines}
