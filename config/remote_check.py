"""Mistakes in the settings for databases and other services that no key can tell alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from perdure.config.parse import Reader, plain
from perdure.config.remote import ADAPTERS, BUILTIN_KINDS, AdapterSettings, QdrantSettings, is_on, policy, pool_size
from perdure.config.rules import NAME, did_you_mean, show
from perdure.duration import format_duration

if TYPE_CHECKING:
    from perdure.config.settings import Settings, WorkersSettings

#: Durations of [breakers] of which the first must not be above the second.
_ORDERED = (("break", "break_cap"), ("retry_base", "retry_cap"))
#: What switches an adapter on.
_ADDRESS_KEYS = {"postgres": "dsn", "neo4j": "uri", "qdrant": "url or path"}


def check_remote(settings: Settings, reader: Reader) -> None:
    """Note all of them."""
    _check_names(settings, reader)
    _check_postgres(settings, reader)
    _check_qdrant(settings, reader)
    for name in ADAPTERS:
        _check_budget(name, getattr(settings, name), settings.workers, reader)
    _check_breakers(settings, reader)
    _check_kinds(settings, reader)


def _check_names(settings: Settings, reader: Reader) -> None:
    """[dependencies.NAME] may not take a name that means something else; [breakers.NAME] needs one that exists."""
    keys = reader.keys["breakers"]
    for name in settings.declared:
        if name in ADAPTERS:
            reader.blame("dependencies", name, None, f"has a section of its own, [{name}]; it needs no declaration")
        elif name in keys:
            reader.blame("dependencies", name, None, f"must have another name: {show(name)} is a key of [breakers]")
        elif not NAME.fullmatch(name):
            reader.blame(
                "dependencies",
                name,
                None,
                "must be a name of 1 to 128 letters, digits, and . _ : - that begins with a letter or digit",
            )
    known = tuple(dict.fromkeys((*ADAPTERS, *settings.declared)))
    for name in settings.breaker_overrides:
        if name not in known:
            hint = did_you_mean(name, known) or f"; there are {', '.join(known)}."
            message = f"unknown dependency{hint} Others are declared with [dependencies.NAME]"
            reader.blame("breakers", name, None, message)


def _check_postgres(settings: Settings, reader: Reader) -> None:
    section = settings.postgres
    if section.password_file and _has_password(section.dsn):
        message = "postgres.dsn has a password in it, too; take it out there"
        reader.blame("postgres", "password_file", section.password_file, message)
    if not is_on(section):
        return
    most = pool_size(section, settings.workers.most_processes)
    if section.pool_min > most:
        reader.blame(
            "postgres",
            "pool_min",
            section.pool_min,
            f"must not be above the pool's maximum: {section.pool_min} and {most} (postgres.pool_max)",
        )


def _check_qdrant(settings: Settings, reader: Reader) -> None:
    section = settings.qdrant
    if section.url and section.path:
        message = "qdrant.url is set, too; set one of them: the url of a server, or the path for the embedded mode"
        reader.blame("qdrant", "path", section.path, message)
    elif section.path and settings.workers.effective_count > 1:
        reader.blame(
            "qdrant",
            "path",
            section.path,
            "the embedded mode locks its folder for one process, and there are "
            f"{settings.workers.effective_count} workers; set workers.count = 1, or run a server and set qdrant.url",
        )


def _check_budget(name: str, section: AdapterSettings, workers: WorkersSettings, reader: Reader) -> None:
    """All workers that there may be at a time, each with a full pool, stay within the budget."""
    embedded = isinstance(section, QdrantSettings) and section.path
    if not is_on(section) or embedded:
        return
    each = pool_size(section, workers.most_processes)
    total = each * workers.most_processes
    if total <= section.max_connections:
        return
    blamed = "pool_max" if section.pool_max else "max_connections"
    reader.blame(
        name,
        blamed,
        getattr(section, blamed),
        f"({workers.effective_count} workers, as many again during a reload, 1 for jobs that run alone) x {each} "
        f"connections (pool_max) = {total}, which is above "
        f"{name}.max_connections = {section.max_connections}; lower {name}.pool_max or workers.count, or raise "
        f"{name}.max_connections if the server allows it",
    )


def _check_breakers(settings: Settings, reader: Reader) -> None:
    """In [breakers], and in each [breakers.NAME] together with it; nothing is blamed twice."""
    _check_order("breakers", settings, {}, reader)
    for name, overrides in settings.breaker_overrides.items():
        if any(f"{key}_ms" in overrides for pair in _ORDERED for key in pair):
            _check_order(f"breakers.{plain(name)}", settings, overrides, reader)


def _check_order(section: str, settings: Settings, overrides: Mapping[str, object], reader: Reader) -> None:
    merged = policy(settings.breakers, overrides)
    for low, high in _ORDERED:
        least, most = getattr(merged, f"{low}_ms"), getattr(merged, f"{high}_ms")
        set_here = [key for key in (low, high) if reader.was_set(section, key)]
        if least > most and (set_here or section == "breakers"):
            blamed = (set_here or [high])[0]
            reader.blame(
                section,
                blamed,
                format_duration(least if blamed == low else most),
                f"{section}.{low} must not be above {section}.{high}: "
                f'here "{format_duration(least)}" and "{format_duration(most)}"',
            )


def _check_kinds(settings: Settings, reader: Reader) -> None:
    for kind in _without_adapter(settings):
        adapter = BUILTIN_KINDS[kind]
        message = f"{kind} needs [{adapter}], which is not configured; set its {_ADDRESS_KEYS[adapter]}"
        reader.blame("daemon", "builtin_kinds", kind, message)


def _without_adapter(settings: Settings) -> Iterable[str]:
    for kind in settings.daemon.builtin_kinds:
        adapter = BUILTIN_KINDS[kind]
        if adapter and not is_on(getattr(settings, adapter)):
            yield kind


def _has_password(dsn: str) -> bool:
    user, at, _ = dsn.partition("://")[2].partition("@")
    return bool(at) and ":" in user
