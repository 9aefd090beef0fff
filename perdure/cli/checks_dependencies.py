"""Checks of the databases that the configuration names: each is asked once, as a worker would ask it."""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Awaitable, Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from perdure import errors
from perdure.cli.checks import FAIL, OK, WARN, Finding
from perdure.redact import scrub

if TYPE_CHECKING:
    from perdure.config.settings import Settings
    from perdure.wire.dependencies import Dependencies

#: The driver that each adapter needs.
DRIVERS: Final = {"postgres": "asyncpg", "neo4j": "neo4j", "qdrant": "qdrant_client"}
#: What a check may take, whatever the settings allow: somebody is waiting in front of it.
LIMIT_SECONDS: Final = 15.0

#: In the words of those who have to mend it. The first class that fits: the general one is the last.
_WHAT_IS_WRONG: Final[tuple[tuple[type[errors.Unavailable], str], ...]] = (
    (errors.WrongCredentials, "wrong credentials"),
    (errors.UnknownHost, "wrong host"),
    (errors.UnknownDatabase, "wrong database"),
    (errors.WrongProtocol, "another protocol"),
    (errors.TlsNotOffered, "TLS expected and not offered"),
    (errors.TlsRequired, "TLS required and not used"),
    (errors.CertificateRefused, "certificate refused"),
    (errors.PoolExhausted, "no connection left"),
    (errors.NoAnswer, "no answer"),
    (errors.Unavailable, "not available"),
)
#: "3 of 100 connections in use", as PostgreSQL's adapter says it.
_SERVER_LIMIT: Final = re.compile(r"\bof (\d+) connections\b")

Ask = Callable[[Any], Awaitable[str]]


def configured(settings: Settings) -> list[tuple[str, Callable[[Settings], Finding]]]:
    """A check for each adapter that is switched on."""
    found = settings.dependencies()
    return [(name, _check_of(name)) for name in DRIVERS if getattr(found, name) is not None]


def look(name: str, settings: Settings, ask: Ask | None = None, limit_seconds: float = LIMIT_SECONDS) -> Finding:
    """Whether an adapter can do its work. `ask` takes the place of its own `check`."""
    dependencies = settings.dependencies()
    options = getattr(dependencies, name)
    secret = getattr(options, "password_file", "") or getattr(options, "api_key_file", "")
    problem = _unreadable(name, secret) or (None if ask else _missing_driver(name)) or _unused_folder(name, options)
    if problem is not None:
        return problem
    try:
        line = asyncio.run(_ask(ask or _own_check(name), options, limit_seconds))
    except Exception as error:  # whatever it is, it is what was looked for
        return _failure(name, error, limit_seconds)
    return _warnings(name, scrub(line), settings, dependencies, secret)


def _check_of(name: str) -> Callable[[Settings], Finding]:
    return lambda settings: look(name, settings)


def _own_check(name: str) -> Ask:
    ask: Ask = import_module(f"perdure.adapters.{name}").check
    return ask


async def _ask(ask: Ask, options: Any, limit_seconds: float) -> str:
    async with asyncio.timeout(limit_seconds):
        return await ask(options)


# --- what can be seen without asking


def _missing_driver(name: str) -> Finding | None:
    driver = DRIVERS[name]
    if find_spec(driver) is not None:
        return None
    text = f"missing extra: [{name}] is configured, and its driver, {driver}, is not installed"
    return Finding(name, FAIL, text, f"pip install 'perdure[{name}]', into the environment of the daemon")


def _unreadable(name: str, secret: str) -> Finding | None:
    if not secret:
        return None
    key = f"{name}.{'api_key_file' if name == 'qdrant' else 'password_file'}"
    try:
        with open(secret, encoding="utf-8") as file:
            content = file.read(65_536)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        text = f"unreadable password file: {secret} ({key}): {reason}"
        return Finding(name, FAIL, text, "the daemon's user must be able to read it; try `perdure doctor` as that user")
    if not content.strip():
        return Finding(name, FAIL, f"unreadable password file: {secret} ({key}) is empty", "write the secret into it")
    return None


def _unused_folder(name: str, options: Any) -> Finding | None:
    """The embedded mode makes its folder when it is first used; looking must not."""
    path = getattr(options, "path", "")
    if not path or Path(path).exists():
        return None
    return Finding(name, OK, f"embedded; the folder {path} is made when it is first used")


# --- what became of it


def _failure(name: str, error: Exception, limit_seconds: float) -> Finding:
    advice = "see docs/adapters.md; `perdure doctor` again shows whether it is mended"
    if isinstance(error, errors.Unavailable):
        what = next(words for kind, words in _WHAT_IS_WRONG if isinstance(error, kind))
        return Finding(name, FAIL, f"{what}: {_line(error)}", advice)
    if isinstance(error, TimeoutError) and not isinstance(error, errors.PerdureError):
        return Finding(name, FAIL, f"no answer: nothing came within {limit_seconds:g} s", advice)
    if isinstance(error, ImportError):
        text = f"missing extra: {_line(error)}"
        return Finding(name, FAIL, text, f"pip install 'perdure[{name}]', into the environment of the daemon")
    if isinstance(error, errors.PerdureError):
        return Finding(name, FAIL, _line(error), advice)
    return Finding(name, FAIL, f"{type(error).__name__}: {_line(error)}", advice)


def _warnings(name: str, line: str, settings: Settings, dependencies: Dependencies, secret: str) -> Finding:
    """It works; is there anything to say all the same?"""
    said = _SERVER_LIMIT.search(line)
    pool = getattr(dependencies, name).pool_max
    processes = settings.workers.most_processes
    if said is not None and pool * processes > int(said[1]):
        text = (
            f"{line}; but up to {processes} workers (old and new ones in a reload) may open {pool} connections each, "
            f"{pool * processes} in all"
        )
        return Finding(name, WARN, text, f"lower {name}.max_connections, or raise the server's max_connections")
    if name == "postgres" and scrub(settings.postgres.dsn) != settings.postgres.dsn:
        advice = "move it to a file, and name that: postgres.password_file"
        return Finding(name, WARN, f"{line}; the password stands in the configuration (postgres.dsn)", advice)
    if secret and os.stat(secret).st_mode & stat.S_IROTH:
        return Finding(name, WARN, f"{line}; everybody may read {secret}", f"chmod o-rwx {secret}")
    return Finding(name, OK, line)


def _line(error: Exception) -> str:
    """A message on one line, without passwords."""
    return scrub(" ".join(str(error).split())) or type(error).__name__
