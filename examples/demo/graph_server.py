"""A graph server of the demo's own: ArcadeDB from the wheel `arcadedb-embedded`, which brings its own Java.

It speaks Bolt 5.4 and Cypher, so Neo4j's official driver talks to it; it is not Neo4j.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

USER = "root"
DATABASE = "neo4j"
#: Enough for some ten thousand nodes and edges.
HEAP = "384m"


class NoGraph(RuntimeError):
    """The wheel is not installed."""


def graph_command(folder: Path, bolt_port: int, http_port: int) -> list[str]:
    """What starts the server on `folder`; it is ready when GET /api/v1/ready answers 204. Raises NoGraph."""
    found = importlib.util.find_spec("arcadedb_embedded")
    if found is None or found.origin is None:
        raise NoGraph("pip install arcadedb-embedded")
    package = Path(found.origin).parent
    settings = {
        "server.name": "demo",
        "server.mode": "production",
        "server.rootPath": folder,
        "server.databaseDirectory": folder / "databases",
        "server.defaultDatabases": f"{DATABASE}[]",
        "server.httpIncomingHost": "127.0.0.1",
        "server.httpIncomingPort": http_port,
        "server.plugins": "Bolt:com.arcadedb.bolt.BoltProtocolPlugin",
        "bolt.host": "127.0.0.1",
        "bolt.port": bolt_port,
    }
    # It runs for a minute: the second compiler would cost more than it gives.
    virtual_machine = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Xmx{HEAP}"]
    java = [str(package / "jre/bin/java"), *virtual_machine, "-cp", f"{package / 'jars'}/*"]
    return [
        *java,
        *(f"-Darcadedb.{key}={value}" for key, value in settings.items()),
        "com.arcadedb.server.ArcadeDBServer",
    ]


def graph_environment(password: str) -> dict[str, str]:
    """The environment for that: it has the password, which other users could read on a command line."""
    return {**os.environ, "JDK_JAVA_OPTIONS": f"-Darcadedb.server.rootPassword={password}"}
