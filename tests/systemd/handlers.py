"""Handlers that the service under test runs. Installed as /etc/perdure/jobs.py inside the machine."""

from __future__ import annotations

import os
import time

from perdure import Context, job

GREETING = "hello"


@job("greet")
def greet(ctx: Context, name: str) -> str:
    """Say who was greeted, on stdout and as the result."""
    print(f"greeting {name}")
    return f"{GREETING} {name}"


@job("nap")
def nap(ctx: Context, seconds: float) -> str:
    """Run for a while, as real work does."""
    time.sleep(seconds)
    return "rested"


@job("surroundings")
def surroundings(ctx: Context) -> dict[str, object]:
    """What a job can see and do."""
    refused = {}
    for path in ("/etc/perdure/written", "/usr/written", "/opt/perdure/written"):
        try:
            open(path, "w").close()
        except OSError as error:
            refused[path] = error.strerror
    return {
        "environment": sorted(os.environ),
        "user": os.getuid(),
        "refused": refused,
        "home": os.listdir("/home") if os.access("/home", os.R_OK) else [],
        "state": os.access(os.getcwd(), os.W_OK) and os.getcwd(),
    }
