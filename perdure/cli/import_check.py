"""Imports handler modules in a process of its own, for `perdure doctor`: what they do then must not hit the command.

Usage: python -m perdure.cli.import_check FD, with {"modules": […], "path": […]} on stdin. What is found goes to FD as
JSON, so that modules may print what they like.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from typing import Any


def check(modules: list[str], path: list[str]) -> dict[str, Any]:
    """The kinds that the modules declare, and for each module that fails its error."""
    sys.path[:0] = [folder for folder in path if folder not in sys.path]
    errors = []
    for module in modules:
        try:
            importlib.import_module(module)
        except BaseException as error:  # SystemExit at import is an error like any other
            errors.append({"module": module, "error": _last_line(error), "where": _where(error)})
    from perdure.registry import registry

    return {"kinds": [job.kind for job in registry], "errors": errors}


def _last_line(error: BaseException) -> str:
    return traceback.format_exception_only(error)[-1].strip()


def _where(error: BaseException) -> str:
    """The innermost line of the user's code: the import machinery tells nobody anything."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    ours = ("<frozen", __file__, importlib.__file__)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(ours)]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


if __name__ == "__main__":
    wanted = json.load(sys.stdin)
    answer = json.dumps(check(wanted["modules"], wanted["path"])).encode()
    with os.fdopen(int(sys.argv[1]), "wb") as channel:
        channel.write(answer)
    # A module may have left threads behind that would keep the process alive.
    os._exit(0)
