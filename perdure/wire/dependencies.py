"""What workers must know about databases and other services: options and policies as data, made from the settings.

Times are milliseconds. A secret never stands in here: `*_file` names a file, read when a connection is opened, so a
changed password is taken up without a restart.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

POSTGRES: Final = "postgres"
NEO4J: Final = "neo4j"
QDRANT: Final = "qdrant"


class Policy(Struct, frozen=True):
    """When a dependency's breaker opens and closes, and how calls to it are limited and repeated.

    `timeout_ms` holds for a whole call, its retries included. The window rolls: the breaker opens when, of at least
    `minimum_volume` calls in the last `window_ms`, a share of `failure_ratio` failed, or `slow_ratio` took longer than
    `slow_after_ms`. A break lasts `break_ms` at first and doubles with every probe that fails, up to `break_cap_ms`.
    A probe that has called nothing after `probe_deadline_ms` gives way to another. `ramp_start`: jobs a second that
    are released at first after a break. `tries`, `retry_base_ms`, `retry_cap_ms`: full jitter within one call.
    """

    timeout_ms: int = 3_000
    window_ms: int = 10_000
    minimum_volume: int = 10
    failure_ratio: float = 0.5
    slow_after_ms: int = 2_000
    slow_ratio: float = 0.8
    break_ms: int = 30_000
    break_cap_ms: int = 300_000
    probe_deadline_ms: int = 10_000
    ramp_start: int = 10
    tries: int = 3
    retry_base_ms: int = 50
    retry_cap_ms: int = 1_000


class PostgresOptions(Struct, frozen=True):
    """How to reach PostgreSQL. `dsn` is a libpq URL without a password (or, if its owner wants so, with one)."""

    dsn: str
    password_file: str = ""
    pool_min: int = 0
    pool_max: int = 4
    acquire_timeout_ms: int = 5_000
    connect_timeout_ms: int = 5_000
    command_timeout_ms: int = 60_000
    idle_timeout_ms: int = 300_000
    keepalive_idle_ms: int = 30_000
    statement_cache: int = 100


class Neo4jOptions(Struct, frozen=True):
    """How to reach Neo4j. `database` is always named."""

    uri: str
    user: str = "neo4j"
    password_file: str = ""
    database: str = "neo4j"
    pool_max: int = 10
    acquire_timeout_ms: int = 5_000
    connect_timeout_ms: int = 5_000
    max_retry_time_ms: int = 10_000
    max_lifetime_ms: int = 600_000
    liveness_check_ms: int = 30_000


class QdrantOptions(Struct, frozen=True):
    """How to reach Qdrant: a `url`, or the `path` of a folder for the embedded local mode."""

    url: str = ""
    path: str = ""
    api_key_file: str = ""
    grpc: bool = False
    grpc_port: int = 6334
    timeout_ms: int = 5_000
    pool_max: int = 10


class Dependencies(Struct, frozen=True):
    """All that the configuration says. `policies` has an entry for each dependency there is, adapters and declared."""

    postgres: PostgresOptions | None = None
    neo4j: Neo4jOptions | None = None
    qdrant: QdrantOptions | None = None
    policies: dict[str, Policy] = {}


#: As a probe's job: any job of the one worker that is told so. For a breaker that no job waits for, because all who
#: call have something to fall back on.
ANY_JOB: Final = -1

BreakerWord = Literal["closed", "open", "half_open"]


class BreakerState(Struct, array_like=True):
    """What workers know of a breaker. `until_ns` (CLOCK_MONOTONIC) is when an open one's break is over, 0 if unknown.

    `probe_job` is the one job that may call while it is half open; 0: none yet; ANY_JOB: whichever calls first here.
    """

    name: str
    state: BreakerWord
    until_ns: int = 0
    probe_job: int = 0
