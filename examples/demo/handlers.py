"""What the demo adds to the handlers of examples/graphrag: one that takes its whole process with it."""

from __future__ import annotations

import os

from perdure import job


@job("demo.aborts", queue="demo")
def aborts() -> None:
    """Abort, as a bug in a C extension would. It is quarantined, and its neighbours are not hurt."""
    os.abort()
