"""perdure: a job-runner daemon for one server that loses nothing.

The names below are the public API. Each is imported when it is first used, so that `import perdure` costs nothing and
the command line does not load what a command does not need.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.client import Client
    from perdure.context import Context
    from perdure.errors import (
        DaemonUnreachable,
        Duplicate,
        InvalidArguments,
        JobCancelled,
        JobFailed,
        JobTimeout,
        NotFound,
        PerdureError,
        Permanent,
        Refused,
        Retry,
    )
    from perdure.job import job

__version__ = "0.1.0"

__all__ = [
    "Client",
    "Context",
    "DaemonUnreachable",
    "Duplicate",
    "InvalidArguments",
    "JobCancelled",
    "JobFailed",
    "JobTimeout",
    "NotFound",
    "PerdureError",
    "Permanent",
    "Refused",
    "Retry",
    "__version__",
    "job",
]

#: Where a public name lives; those not named here are in perdure.errors.
_HOMES = {"Client": "perdure.client", "Context": "perdure.context", "job": "perdure.job"}


class _Package(ModuleType):
    """Keeps `perdure.job` the decorator.

    Importing the module perdure.job makes Python bind that module to the same name in this package; without this,
    `from perdure import job` would get the decorator or the module, depending on what was imported before.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name in _HOMES and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'perdure' has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, "perdure.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
