"""The schema: what is in the file, whether perdure can use it, and the migrations that are still to be applied."""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from perdure.errors import SchemaTooNew, StoreCorrupt, StoreError
from perdure.store.connection import database_uri, explain, transaction
from perdure.store.statements import SQL

#: 'perd' in ASCII: tells a queue file from any other SQLite database.
APPLICATION_ID: Final = 0x70657264
#: STRICT tables, RETURNING and unixepoch().
LOWEST_SQLITE: Final = (3, 38, 0)

_FILE_NAME = re.compile(r"^(\d{4})_(\w+)\.sql$")


class Migration(NamedTuple):
    """One step of the schema. Append-only: its checksum is kept in every file that it was applied to."""

    version: int
    name: str
    script: str
    sha256: str


class Schema(NamedTuple):
    """What a file says about itself: `applied` is version and checksum of its migrations; `tables` counts them all."""

    application_id: int
    version: int
    tables: int
    applied: list[tuple[int, str]]


def load_migrations() -> list[Migration]:
    """The migrations that belong to this version of perdure, in order. Raises ValueError when a number is missing."""
    found = []
    for entry in (Path(__file__).parent.parent / "migrations" / "sqlite").iterdir():
        match = _FILE_NAME.match(entry.name)
        if match:
            script = entry.read_text(encoding="utf-8")
            checksum = hashlib.sha256(script.encode()).hexdigest()
            found.append(Migration(int(match[1]), match[2], script, checksum))
    found.sort()
    if [one.version for one in found] != list(range(1, len(found) + 1)):
        raise ValueError("the migrations are not numbered 0001, 0002, … without a gap")
    return found


def inspect(path: str, migrations: Sequence[Migration]) -> Schema | None:
    """Look at a file without writing to it; None when there is nothing in it yet.

    Raises StoreCorrupt, StoreReadOnly, SchemaTooNew or StoreError when perdure must leave it alone.
    """
    if sqlite3.sqlite_version_info < LOWEST_SQLITE:
        needed = ".".join(map(str, LOWEST_SQLITE))
        raise StoreError(f"Python is linked to SQLite {sqlite3.sqlite_version}; perdure needs {needed} or newer")
    if os.path.isdir(path):
        raise StoreCorrupt(
            f"{path} is a folder: give the path of a file, for example {os.path.join(path, 'perdure.db')}"
        )
    if not os.path.exists(path) or os.path.getsize(path) == 0:
        return None
    try:
        with closing(sqlite3.connect(database_uri(path, "ro"), uri=True, isolation_level=None)) as connection:
            schema = read_schema(connection)
    except sqlite3.Error as error:
        raise explain(error, path) from error
    check(schema, migrations, path)
    return schema if schema.tables else None


def read_schema(connection: sqlite3.Connection) -> Schema:
    """What the file says about itself."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    tables, ours = connection.execute(SQL["count_tables"]).fetchone()
    applied = connection.execute(SQL["applied_migrations"]).fetchall() if ours else []
    return Schema(application_id, version, tables, applied)


def check(schema: Schema, migrations: Sequence[Migration], path: str) -> None:
    """Refuse a file that this version of perdure must not touch. Raises StoreCorrupt or SchemaTooNew."""
    if schema.application_id != APPLICATION_ID:
        if schema.tables or schema.application_id:
            raise StoreCorrupt(f"{path} is the database of another program: give perdure a path of its own")
        return
    if schema.version > len(migrations):
        raise SchemaTooNew(
            f"{path} has schema version {schema.version}, this perdure knows versions up to {len(migrations)}: "
            "install the perdure that wrote it, or a newer one"
        )
    if [version for version, _ in schema.applied] != list(range(1, schema.version + 1)):
        raise StoreCorrupt(f"{path} says schema version {schema.version} but lists other migrations: restore a backup")
    for migration, (version, sha256) in zip(migrations, schema.applied, strict=False):
        if migration.sha256 != sha256:
            raise StoreCorrupt(
                f"migration {version:04} was changed after {path} got it: install an unmodified perdure; "
                "a change of the schema belongs into a new migration"
            )


def apply(connection: sqlite3.Connection, migrations: Sequence[Migration], path: str) -> int:
    """Bring the file to the newest schema in one transaction; how many migrations that took."""
    if len(read_schema(connection).applied) == len(migrations):
        return 0

    def migrate(connection: sqlite3.Connection) -> int:
        schema = read_schema(connection)
        check(schema, migrations, path)
        pending = migrations[schema.version :]
        connection.execute(SQL["create_migrations"])
        for migration in pending:
            for statement in split(migration.script):
                connection.execute(statement)
            connection.execute(SQL["record_migration"], migration._asdict())
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
        return len(pending)

    return transaction(connection, migrate)


def split(script: str) -> Iterator[str]:
    """The statements of a script. sqlite3's executescript() would commit the transaction that is under way."""
    *pieces, tail = script.split(";")
    statement = ""
    for piece in pieces:
        statement += f"{piece};"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if (statement + tail).strip():
        yield statement + tail
