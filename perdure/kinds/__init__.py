"""Ready-made kinds for the shell: each in a module of its own, taken in when daemon.builtin_kinds names it.

This package imports nothing, so that the configuration can be checked without drivers.
"""

from __future__ import annotations

from typing import Final

#: The module of each kind. Importing it declares the kind.
BUILTIN: Final[dict[str, str]] = {
    "postgres.execute": "perdure.kinds.postgres_execute",
    "neo4j.execute": "perdure.kinds.neo4j_execute",
    "qdrant.upsert": "perdure.kinds.qdrant_upsert",
    "http.request": "perdure.kinds.http_request",
    "shell": "perdure.kinds.shell",
}
