"""The settings for databases and other services: what is allowed, and what workers are told of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Struct

from perdure.config.rules import Duration, PathText, Whole
from perdure.config.rules_remote import Dsn, Flag, Ratio, Text, Url
from perdure.wire.dependencies import NEO4J, POSTGRES, QDRANT, Neo4jOptions, Policy, PostgresOptions, QdrantOptions

_SECOND, _MINUTE, _HOUR, _DAY = 1_000, 60_000, 3_600_000, 86_400_000

#: Dependencies that have a section, and an adapter, of their own.
ADAPTERS: Final = (POSTGRES, NEO4J, QDRANT)
#: Most connections that one worker opens to one server when its pool is not given a size.
_LARGEST_SHARE: Final = 10

#: The kinds that come with perdure, and the adapter that each of them needs.
BUILTIN_KINDS: Final = {
    "postgres.execute": POSTGRES,
    "neo4j.execute": NEO4J,
    "qdrant.upsert": QDRANT,
    "http.request": "",
    "shell": "",
}


class PostgresSettings(Struct, frozen=True):
    """[postgres]. Off without a `dsn`. `pool_max` 0: a fair share of `max_connections`."""

    dsn: Annotated[str, Dsn()] = ""
    password_file: Annotated[str, PathText(may_be_empty=True)] = ""
    max_connections: Annotated[int, Whole(1, 100_000)] = 100
    pool_min: Annotated[int, Whole(0, 1_000)] = 0
    pool_max: Annotated[int, Whole(0, 1_000)] = 0
    acquire_timeout_ms: Annotated[int, Duration(10, _HOUR)] = 5 * _SECOND
    connect_timeout_ms: Annotated[int, Duration(10, 10 * _MINUTE)] = 5 * _SECOND
    command_timeout_ms: Annotated[int, Duration(10, _DAY)] = _MINUTE
    idle_timeout_ms: Annotated[int, Duration(_SECOND, _DAY)] = 5 * _MINUTE
    keepalive_idle_ms: Annotated[int, Duration(_SECOND, 2 * _HOUR)] = 30 * _SECOND
    statement_cache: Annotated[int, Whole(0, 10_000)] = 100


class Neo4jSettings(Struct, frozen=True):
    """[neo4j]. Off without a `uri`."""

    uri: Annotated[
        str, Url(("neo4j", "neo4j+s", "neo4j+ssc", "bolt", "bolt+s", "bolt+ssc"), "neo4j://localhost:7687")
    ] = ""
    user: Annotated[str, Text()] = "neo4j"
    password_file: Annotated[str, PathText(may_be_empty=True)] = ""
    database: Annotated[str, Text("the name of a database")] = "neo4j"
    max_connections: Annotated[int, Whole(1, 100_000)] = 100
    pool_max: Annotated[int, Whole(0, 1_000)] = 0
    acquire_timeout_ms: Annotated[int, Duration(10, _HOUR)] = 5 * _SECOND
    connect_timeout_ms: Annotated[int, Duration(10, 10 * _MINUTE)] = 5 * _SECOND
    max_retry_time_ms: Annotated[int, Duration(maximum_ms=_HOUR)] = 10 * _SECOND
    max_lifetime_ms: Annotated[int, Duration(_SECOND, 7 * _DAY)] = 10 * _MINUTE
    liveness_check_ms: Annotated[int, Duration(maximum_ms=_DAY)] = 30 * _SECOND


class QdrantSettings(Struct, frozen=True):
    """[qdrant]. Off without a `url` or `path`; both together are a mistake."""

    url: Annotated[str, Url(("http", "https"), "http://localhost:6333")] = ""
    path: Annotated[str, PathText(may_be_empty=True)] = ""
    api_key_file: Annotated[str, PathText(may_be_empty=True)] = ""
    grpc: Annotated[bool, Flag()] = False
    grpc_port: Annotated[int, Whole(1, 65_535)] = 6334
    max_connections: Annotated[int, Whole(1, 100_000)] = 100
    pool_max: Annotated[int, Whole(0, 1_000)] = 0
    timeout_ms: Annotated[int, Duration(10, _HOUR)] = 5 * _SECOND


class BreakerSettings(Struct, frozen=True):
    """[breakers], and what [breakers.NAME] may set for one dependency: see perdure.wire.dependencies.Policy."""

    timeout_ms: Annotated[int, Duration(10, _HOUR)] = 3 * _SECOND
    window_ms: Annotated[int, Duration(_SECOND, _HOUR)] = 10 * _SECOND
    minimum_volume: Annotated[int, Whole(1, 1_000_000)] = 10
    failure_ratio: Annotated[float, Ratio()] = 0.5
    slow_after_ms: Annotated[int, Duration(1, _DAY)] = 2 * _SECOND
    slow_ratio: Annotated[float, Ratio()] = 0.8
    break_ms: Annotated[int, Duration(10, _DAY)] = 30 * _SECOND
    break_cap_ms: Annotated[int, Duration(10, _DAY)] = 5 * _MINUTE
    probe_deadline_ms: Annotated[int, Duration(10, _HOUR)] = 10 * _SECOND
    ramp_start: Annotated[int, Whole(1, 1_000_000)] = 10
    tries: Annotated[int, Whole(1, 100)] = 3
    retry_base_ms: Annotated[int, Duration(1, _HOUR)] = 50
    retry_cap_ms: Annotated[int, Duration(1, _HOUR)] = _SECOND


class DependencySettings(Struct, frozen=True):
    """[dependencies.NAME]: something else that jobs need, which they call through ctx.guard("NAME")."""

    about: Annotated[str, Text()] = ""


#: Sections that have sections of any name in them, and what may stand in these.
FAMILIES: Final[dict[str, type[Struct]]] = {"breakers": BreakerSettings, "dependencies": DependencySettings}

AdapterSettings = PostgresSettings | Neo4jSettings | QdrantSettings


def is_on(section: AdapterSettings) -> bool:
    """Whether the configuration says where the server is."""
    match section:
        case PostgresSettings():
            return bool(section.dsn)
        case Neo4jSettings():
            return bool(section.uri)
        case QdrantSettings():
            return bool(section.url or section.path)


def pool_size(section: AdapterSettings, processes: int) -> int:
    """The most connections of one worker: `pool_max`, or a share of `max_connections`, from 1 to 10."""
    return section.pool_max or max(1, min(_LARGEST_SHARE, section.max_connections // processes))


class Places(Struct, frozen=True):
    """What files are relative to: the configuration's folder, and systemd's for credentials, if there is one."""

    base: Path
    credentials: Path | None

    def of(self, file: str) -> str:
        """The absolute path of a folder or file; "" stays that."""
        return str((self.base / file).absolute()) if file else ""

    def of_secret(self, file: str) -> str:
        """That of a file with a secret: a bare name is looked for among the credentials first."""
        if file and self.credentials is not None and "/" not in file:
            credential = self.credentials / file
            if credential.exists():
                return str(credential)
        return self.of(file)


def postgres_options(section: PostgresSettings, processes: int, places: Places) -> PostgresOptions | None:
    """What workers are told; None: off."""
    if not is_on(section):
        return None
    changed = {
        "pool_max": pool_size(section, processes),
        "password_file": places.of_secret(section.password_file),
    }
    return PostgresOptions(**_fields(PostgresOptions, section, changed))


def neo4j_options(section: Neo4jSettings, processes: int, places: Places) -> Neo4jOptions | None:
    """What workers are told; None: off."""
    if not is_on(section):
        return None
    changed = {
        "pool_max": pool_size(section, processes),
        "password_file": places.of_secret(section.password_file),
    }
    return Neo4jOptions(**_fields(Neo4jOptions, section, changed))


def qdrant_options(section: QdrantSettings, processes: int, places: Places) -> QdrantOptions | None:
    """What workers are told; None: off."""
    if not is_on(section):
        return None
    changed = {
        "pool_max": pool_size(section, processes),
        "path": places.of(section.path),
        "api_key_file": places.of_secret(section.api_key_file),
    }
    return QdrantOptions(**_fields(QdrantOptions, section, changed))


def policy(defaults: BreakerSettings, overrides: Mapping[str, object]) -> Policy:
    """How calls to one dependency are limited: [breakers], with what [breakers.NAME] sets over it."""
    return Policy(**_fields(Policy, defaults, overrides))


def _fields(options: type[Struct], section: Struct, changed: Mapping[str, object]) -> dict[str, Any]:
    """The fields of `options`, by name, from a section that has the same ones."""
    values = msgspec.structs.asdict(section)
    return {name: changed.get(name, values[name]) for name in options.__struct_fields__}
