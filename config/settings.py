"""The settings: one frozen object, made from perdure.toml and the environment.

Each key is declared once, below: its name, default and what is allowed; default.toml tells what it is for. An
attribute carries the unit that its key does not need: `drain_limit = "30s"` is `settings.daemon.drain_limit_ms`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Struct

from perdure.config.keys import Key, keys_of
from perdure.config.mistakes import BadConfig, Mistake
from perdure.config.parse import Reader, quoted
from perdure.config.paths import SOCKET_NAME, Paths, credentials_dir, find_config, runtime_dir, socket_path_problem
from perdure.config.queues import QueueLimits, QueueSettings, check_queues
from perdure.config.remote import (
    ADAPTERS,
    BUILTIN_KINDS,
    FAMILIES,
    BreakerSettings,
    DependencySettings,
    Neo4jSettings,
    Places,
    PostgresSettings,
    QdrantSettings,
    is_on,
    neo4j_options,
    policy,
    postgres_options,
    qdrant_options,
)
from perdure.config.remote_check import check_remote
from perdure.config.rules import Choice, Duration, Folders, Group, Mode, Modules, Name, PathText, Size, Whole
from perdure.config.rules_remote import Words
from perdure.config.shell import ShellSettings, check_shell
from perdure.wire.dependencies import Dependencies

__all__ = ["DEFAULT_TOML", "BadConfig", "Mistake", "Paths", "Settings", "find_config", "load_settings"]

#: The file that documents all keys.
DEFAULT_TOML: Final = Path(__file__).with_name("default.toml")

_SECOND, _MINUTE, _HOUR, _DAY = 1_000, 60_000, 3_600_000, 86_400_000
_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30


class DaemonSettings(Struct, frozen=True):
    """[daemon]: what it runs, and how it is reached."""

    handlers: Annotated[tuple[str, ...], Modules()] = ()
    path: Annotated[tuple[str, ...], Folders()] = (".",)
    socket: Annotated[str, PathText(may_be_empty=True)] = ""
    socket_mode: Annotated[int, Mode()] = 0o660
    socket_group: Annotated[str, Group()] = ""
    drain_limit_ms: Annotated[int, Duration(maximum_ms=_DAY)] = 30 * _SECOND
    builtin_kinds: Annotated[tuple[str, ...], Words(allowed=tuple(BUILTIN_KINDS))] = ()


class StoreSettings(Struct, frozen=True):
    """[store]: the queue's file."""

    path: Annotated[str, PathText()] = "perdure.db"
    durability: Annotated[Literal["full", "normal"], Choice(("full", "normal"))] = "full"
    full_disk_wait_ms: Annotated[int, Duration(maximum_ms=_DAY)] = 60 * _SECOND
    retention_age_ms: Annotated[int, Duration()] = 7 * _DAY
    retention_count: Annotated[int, Whole(0, 10**9)] = 100_000
    checkpoint_interval_ms: Annotated[int, Duration(_SECOND, _HOUR)] = 30 * _SECOND
    wal_limit_bytes: Annotated[int, Size(_MIB, 64 * _GIB)] = 64 * _MIB
    cache_bytes: Annotated[int, Size(_MIB, 64 * _GIB)] = 2 * _MIB


class WorkersSettings(Struct, frozen=True):
    """[workers]: the processes that run the handlers."""

    count: Annotated[int, Whole(0, 1_024)] = 0
    async_slots: Annotated[int, Whole(1, 10_000)] = 32
    prefetch_ms: Annotated[int, Duration(maximum_ms=10 * _SECOND)] = 20
    prefetch_jobs: Annotated[int, Whole(1, 65_536)] = 512
    restart_backoff_base_ms: Annotated[int, Duration(10, _MINUTE)] = 100
    restart_backoff_cap_ms: Annotated[int, Duration(10, _HOUR)] = 30 * _SECOND
    stuck_after_ms: Annotated[int, Duration(_SECOND, _DAY)] = 30 * _SECOND
    hard_grace_ms: Annotated[int, Duration(maximum_ms=10 * _MINUTE)] = 500
    cancel_grace_ms: Annotated[int, Duration(maximum_ms=10 * _MINUTE)] = 5 * _SECOND

    @property
    def most_processes(self) -> int:
        """Workers there may be at a time: old and new ones in a reload, and the one for jobs that run alone."""
        return 2 * self.effective_count + 1

    @property
    def effective_count(self) -> int:
        """The number of workers: `count`, or one for each core that this process may use."""
        return self.count or len(os.sched_getaffinity(0))


class JobsSettings(Struct, frozen=True):
    """[jobs]: what holds for jobs that do not say otherwise. `timeout_ms` None: no limit."""

    max_attempts: Annotated[int, Whole(1, 10_000)] = 5
    max_interruptions: Annotated[int, Whole(1, 1_000)] = 3
    timeout_ms: Annotated[int | None, Duration(1, zero_is_none=True)] = _HOUR
    backoff_base_ms: Annotated[int, Duration(1, 7 * _DAY)] = _SECOND
    backoff_cap_ms: Annotated[int, Duration(1, 365 * _DAY)] = 10 * _MINUTE
    queue: Annotated[str, Name()] = "default"


class LimitsSettings(Struct, frozen=True):
    """[limits]: what is refused because it is too much."""

    args_bytes: Annotated[int, Size(_KIB, 32 * _MIB)] = _MIB
    args_depth: Annotated[int, Whole(1, 500)] = 100
    result_bytes: Annotated[int, Size(_KIB, 32 * _MIB)] = _MIB
    blob_bytes: Annotated[int, Size(_KIB, 1024 * _GIB)] = 16 * _GIB
    batch: Annotated[int, Whole(1, 1_000_000)] = 10_000
    list: Annotated[int, Whole(1, 100_000)] = 1_000


class LogsSettings(Struct, frozen=True):
    """[logs]: the daemon's log and those of the jobs."""

    level: Annotated[str, Choice(("debug", "info", "warning", "error", "critical"))] = "info"
    format: Annotated[str, Choice(("auto", "console", "json", "journal"))] = "auto"
    # The key is "job_bytes" as well: the unit is part of it.
    job_bytes: Annotated[int, Size(_KIB, 16 * _GIB, unit_in_key=True)] = _MIB


_SECTIONS: Final[dict[str, type[Struct]]] = {
    "daemon": DaemonSettings,
    "store": StoreSettings,
    "workers": WorkersSettings,
    "jobs": JobsSettings,
    "limits": LimitsSettings,
    "logs": LogsSettings,
    "shell": ShellSettings,
    "postgres": PostgresSettings,
    "neo4j": Neo4jSettings,
    "qdrant": QdrantSettings,
    "breakers": BreakerSettings,
    "queues": QueueSettings,
}
_FAMILIES: Final[dict[str, type[Struct]]] = {**FAMILIES, "queues": QueueSettings}


class Settings(Struct, frozen=True):
    """All settings. `Settings()` has the defaults.

    `base` is the folder that relative paths start from: that of the file, or the one perdure was started in.
    `source` is the file, None without one. `runtime` is the folder that systemd gives to sockets, if it does, and
    `credentials` the one for secrets. `declared` has the sections [dependencies.NAME]; `breaker_overrides` and
    `queue_overrides` have what each [breakers.NAME] and [queues.NAME] sets, by attribute.
    """

    daemon: DaemonSettings = DaemonSettings()
    store: StoreSettings = StoreSettings()
    workers: WorkersSettings = WorkersSettings()
    jobs: JobsSettings = JobsSettings()
    limits: LimitsSettings = LimitsSettings()
    logs: LogsSettings = LogsSettings()
    shell: ShellSettings = ShellSettings()
    postgres: PostgresSettings = PostgresSettings()
    neo4j: Neo4jSettings = Neo4jSettings()
    qdrant: QdrantSettings = QdrantSettings()
    breakers: BreakerSettings = BreakerSettings()
    queues: QueueSettings = QueueSettings()
    breaker_overrides: dict[str, dict[str, object]] = {}
    queue_overrides: dict[str, dict[str, object]] = {}
    declared: dict[str, DependencySettings] = {}
    base: Path = Path()
    source: Path | None = None
    runtime: Path | None = None
    credentials: Path | None = None

    @property
    def paths(self) -> Paths:
        """Where the files are."""
        db = (self.base / self.store.path).absolute()
        if self.daemon.socket:
            socket = (self.base / self.daemon.socket).absolute()
        else:
            socket = (self.runtime or db.parent) / SOCKET_NAME
        return Paths(db, socket, tuple((self.base / folder).absolute() for folder in self.daemon.path))

    def dependencies(self) -> Dependencies:
        """What workers must know of databases and other services. Files of secrets are looked for now."""
        processes = self.workers.most_processes
        places = Places(self.base, self.credentials)
        names = [name for name in ADAPTERS if is_on(getattr(self, name))]
        return Dependencies(
            postgres=postgres_options(self.postgres, processes, places),
            neo4j=neo4j_options(self.neo4j, processes, places),
            qdrant=qdrant_options(self.qdrant, processes, places),
            policies={
                name: policy(self.breakers, self.breaker_overrides.get(name, {})) for name in (*names, *self.declared)
            },
        )

    def queue_limits(self) -> QueueLimits:
        """How full each queue may get."""
        return QueueLimits(self.queues, self.queue_overrides)

    def with_overrides(
        self,
        *,
        db: str | Path | None = None,
        handlers: Sequence[str] | None = None,
        values: Mapping[str, object] | None = None,
        source: str = "options",
    ) -> Settings:
        """These settings with some replaced, as options of the command line do.

        `db` is relative to the current folder. `handlers` are names of modules. `values` are by key, as they would
        stand in the file: {"workers.count": 2}. `source` is named in mistakes. Raises BadConfig with all of them.
        """
        given: dict[str, object] = dict(values or {})
        if db is not None:
            given["store.path"] = str(Path(db).absolute()) if str(db) else ""
        if handlers is not None:
            given["daemon.handlers"] = list(handlers)
        reader = Reader(all_keys(), family_keys())
        reader.read_overrides(given, source)
        return _finish(self, reader)

    def as_tables(self) -> dict[str, dict[str, object]]:
        """All settings as they would stand in a file: {"workers": {"count": 0, "prefetch": "20ms", …}, …}.

        `postgres.dsn` may hold a password: who shows it must blot that out (perdure.redact.scrub).
        """
        tables = {
            section: {key.name: key.rule.write(getattr(getattr(self, section), key.attribute)) for key in keys.values()}
            for section, keys in all_keys().items()
        }
        for family, members in (("breakers", self.breaker_overrides), ("queues", self.queue_overrides)):
            keys = family_keys()[family].values()
            for name, overrides in members.items():
                tables[f"{family}.{quoted(name)}"] = {
                    key.name: key.rule.write(overrides[key.attribute]) for key in keys if key.attribute in overrides
                }
        for name, section in self.declared.items():
            tables[f"dependencies.{quoted(name)}"] = {"about": section.about}
        return tables


@cache
def all_keys() -> dict[str, dict[str, Key]]:
    """Every key that a configuration may have, by section and name."""
    return keys_of(_SECTIONS)


@cache
def family_keys() -> dict[str, dict[str, Key]]:
    """Every key that a section such as [breakers.NAME] may have, by family and name."""
    return keys_of(_FAMILIES)


def load_settings(path: Path | None, environ: Mapping[str, str], *, cwd: Path | None = None) -> Settings:
    """The settings of a file (None: the defaults), with what the environment overrides.

    Raises BadConfig, a ConfigError, that has all mistakes of both.
    """
    folder = (cwd or Path.cwd()).absolute()
    reader = Reader(all_keys(), family_keys())
    file = folder / path if path is not None else None
    if file is not None:
        reader.read_file(file, name=file.name if file.parent == folder else str(file))
    reader.read_environ(environ)
    start = Settings(
        base=file.parent if file else folder,
        source=file,
        runtime=runtime_dir(environ),
        credentials=credentials_dir(environ),
    )
    return _finish(start, reader)


def _finish(start: Settings, reader: Reader) -> Settings:
    """`start` with what was read; raises BadConfig if there is any mistake."""
    sections = {
        name: msgspec.structs.replace(getattr(start, name), **values)
        for name, values in reader.values.items()
        if values
    }
    declared = {
        name: msgspec.structs.replace(DependencySettings(), **table)
        for name, table in reader.tables["dependencies"].items()
    }
    settings = msgspec.structs.replace(
        start,
        **sections,
        declared=start.declared | declared,
        breaker_overrides=start.breaker_overrides | reader.tables["breakers"],
        queue_overrides=start.queue_overrides | reader.tables["queues"],
    )
    _check_together(settings, reader)
    check_remote(settings, reader)
    check_queues(settings, reader)
    check_shell(settings, reader)
    if reader.mistakes:
        raise BadConfig(reader.mistakes)
    return settings


def _check_together(settings: Settings, reader: Reader) -> None:
    """What no key can tell alone. A value that is wrong by itself has its default here, and is not blamed twice."""
    for section, base, cap in (
        ("workers", "restart_backoff_base", "restart_backoff_cap"),
        ("jobs", "backoff_base", "backoff_cap"),
    ):
        values = getattr(settings, section)
        if getattr(values, f"{base}_ms") > getattr(values, f"{cap}_ms"):
            table = settings.as_tables()[section]
            blamed = base if reader.was_set(section, base) else cap
            reader.blame(
                section,
                blamed,
                table[blamed],
                f'{section}.{base} must not be above {section}.{cap}: here "{table[base]}" and "{table[cap]}"',
            )
    problem = socket_path_problem(settings.paths.socket)
    if problem:
        reader.blame("daemon", "socket", str(settings.paths.socket), problem)
