"""What `perdure doctor` looks at, one check after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from perdure.errors import ConfigError, PerdureError

if TYPE_CHECKING:
    from perdure.config.settings import Settings

OK: Final = "ok"
WARN: Final = "warn"
FAIL: Final = "FAIL"


class Finding(NamedTuple):
    """What a check found: its level, the fact, and what to do about it."""

    check: str
    level: str
    text: str
    advice: str | None = None


Check = Callable[["Settings"], Finding]


def findings(config: Path | None) -> Iterator[Finding]:
    """All findings, as they are made. A configuration with mistakes is the only one: the rest depends on it."""
    from perdure.cli import session

    try:
        settings = session.load(config)
    except ConfigError as error:
        for line in str(error).splitlines():
            yield Finding("config", FAIL, line, "correct it; `perdure config check` shows all mistakes")
        return
    yield Finding("config", OK, str(settings.source) if settings.source else "no file; the defaults hold")
    for name, check in _checks(settings):
        yield _carefully(name, check, settings)


def _checks(settings: Settings) -> list[tuple[str, Check]]:
    from perdure.cli import checks_daemon, checks_dependencies, checks_spool, checks_store

    return [
        ("folder", checks_store.folder),
        ("disk", checks_store.disk),
        ("sqlite", checks_store.sqlite),
        ("schema", checks_store.schema),
        ("integrity", checks_store.integrity),
        ("lock", checks_store.lock),
        ("spool", checks_spool.spool),
        ("daemon", checks_daemon.daemon),
        ("loops", checks_daemon.loops),
        ("handlers", checks_daemon.handlers),
        ("clock", checks_daemon.clock),
        *checks_dependencies.configured(settings),
    ]


def _carefully(name: str, check: Check, settings: Settings) -> Finding:
    """A check that cannot be made is a finding, too, and stops no other."""
    try:
        return check(settings)
    except PerdureError as error:
        return Finding(name, FAIL, str(error).replace("\n", "; "))
    except OSError as error:
        return Finding(name, FAIL, f"{error.filename or 'it'}: {error.strerror or error}", "see who may read it: ls -l")
