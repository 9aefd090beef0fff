"""Commands: asynchronous, with live lines and bounded memory."""

from __future__ import annotations

import msgspec


class Completed(msgspec.Struct, frozen=True):
    """A command that has ended. `last_lines`: the end of what it printed; `stdout`: all of it, when captured."""

    command: str
    returncode: int
    last_lines: str
    stdout: bytes = b""
