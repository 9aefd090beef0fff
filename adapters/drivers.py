"""Which modules an adapter needs when it is used: the nursery imports them, so that all workers share their memory.

The adapters import them late, because a driver is an extra, and takes up to a second and many megabytes. None of these
imports starts a thread of Python's. (numpy, which two of the drivers take in where it is installed, starts OpenBLAS's;
that one knows how to be forked.)
"""

from __future__ import annotations

from importlib import import_module
from typing import Final

#: Brings tenacity, which would otherwise be imported on the loop when the first call fails.
_REPEAT: Final = "perdure.adapters.repeat"
_NEEDED: Final[dict[str, tuple[str, ...]]] = {
    "perdure.adapters.postgres": ("perdure.adapters.postgres_connect", _REPEAT),
    "perdure.adapters.neo4j": (
        "perdure.adapters.neo4j_driver",
        "perdure.adapters.neo4j_errors",
        "perdure.adapters.neo4j_values",
        _REPEAT,
    ),
    "perdure.adapters.qdrant": ("qdrant_client", _REPEAT),
}


def preload(module: str) -> None:
    """Import what comes with `module`, if it is an adapter.

    Raises ImportError when its driver is not installed: jobs that need it could only fail.
    """
    for needed in _NEEDED.get(module, ()):
        try:
            import_module(needed)
        except ModuleNotFoundError as error:
            if error.name and error.name.startswith("perdure"):
                raise
            name = module.rpartition(".")[2]
            advice = f"pip install 'perdure[{name}]', or take [{name}] out of the configuration"
            raise ImportError(f"[{name}] is configured, but {error.name} is not installed: {advice}") from error
