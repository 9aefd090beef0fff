"""Where PostgreSQL is expected, as messages say it: never with a password."""

from __future__ import annotations

import getpass
import os
from typing import Final, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

_PORT: Final = 5432


class Address(NamedTuple):
    """What an administrator has to know to find it. `host` starts with "/" for the folder of a unix socket."""

    host: str
    port: int
    database: str
    user: str
    tls: str

    def __str__(self) -> str:
        return f"PostgreSQL at {self.place} (database {self.database!r}, user {self.user!r})"

    @property
    def place(self) -> str:
        """HOST:PORT, or the path of the socket."""
        if self.is_local:
            return f"{self.host}/.s.PGSQL.{self.port}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether it is a unix socket."""
        return self.host.startswith("/")


def parse_address(dsn: str) -> Address:
    """The address in a DSN; of several hosts the first. What is not there comes from PG… variables, as in the driver.

    Never raises: what cannot be read is shown as "?", and the driver says what is wrong with it.
    """
    try:
        parts = urlsplit(dsn)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        credentials, _, hosts = parts.netloc.rpartition("@")
        first = (unquote(hosts) or query.get("host") or os.environ.get("PGHOST") or "localhost").split(",")[0]
        host, port = _host_and_port(first, query.get("port") or os.environ.get("PGPORT") or "")
        user = unquote(credentials.partition(":")[0]) or query.get("user") or os.environ.get("PGUSER") or _me()
        named = unquote(parts.path.lstrip("/")) or query.get("database") or query.get("dbname")
        database = named or os.environ.get("PGDATABASE") or user
        tls = query.get("sslmode") or os.environ.get("PGSSLMODE") or "prefer"
    except ValueError:
        return Address("?", _PORT, "?", "?", "prefer")
    return Address(host, port, database, user, tls)


def _host_and_port(text: str, default: str) -> tuple[str, int]:
    if text.startswith("/"):
        host, port = text, ""
    elif text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.lstrip(":")
    else:
        host, _, port = text.partition(":")
    return host or "localhost", int(port or default.split(",")[0] or _PORT)


def _me() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "?"
