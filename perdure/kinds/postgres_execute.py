"""`postgres.execute`: one SQL statement as a job."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from perdure.context import Context
from perdure.errors import Permanent
from perdure.job import job
from perdure.kinds.plain import MOST_ROWS, bounded, seconds

try:
    import asyncpg
except ImportError as error:
    raise ImportError("the kind postgres.execute needs asyncpg; install perdure[postgres]") from error

from perdure.kinds.postgres_values import translate

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy


@job("postgres.execute", needs=("postgres",), permanent=(asyncpg.PostgresSyntaxError, asyncpg.DataError))
async def execute(
    ctx: Context, sql: str, args: list[Any] | None = None, once: str | None = None, timeout: str | float = "1m"
) -> dict[str, Any]:
    """Run an SQL statement on PostgreSQL.

    `args` are the values of $1, $2, …; cast what JSON does not have: `$1::text::timestamptz`; an object is passed as
    JSON text. `once`: a key; the statement and its mark are one transaction, and of all jobs with this key one takes
    effect. Without it a job that is delivered twice runs its statement twice. `timeout` holds for the statement; text
    such as "1m", or seconds. Without `args` and with nothing to return there may be several statements.

    Result: {"status": "INSERT 0 1"}, or {"rows": […]} (up to 1,000 rows or 256 KiB, then "truncated" is true), or
    {"done_before": true} when another job with the key was first. Values that JSON has no word for are text. Mistakes
    in statement or values are permanent.
    """
    limit = seconds(timeout)
    values = [json.dumps(value) if isinstance(value, dict) else value for value in args or []]
    run = ctx.guard("postgres", timeout=limit, retry=False)(_run)
    if once is None:
        async with ctx.postgres.connection() as connection:
            result = await run(connection, sql, values)
            if connection.is_in_transaction():
                # The connection goes back to the pool, which undoes what is open: it must not be told as done.
                raise Permanent(
                    "postgres.execute: the statement leaves a transaction open, so it is undone; leave BEGIN out: "
                    "several statements without `args` are one transaction, and `once` makes one"
                )
            return result
    async with ctx.once(once, scope="global").postgres() as tx:
        if not tx.first:
            return {"done_before": True}
        return await run(tx.connection, sql, values)


async def _run(connection: PoolConnectionProxy, sql: str, values: list[Any]) -> dict[str, Any]:
    """Run it as what it is: something that returns rows, a single command, or several."""
    try:
        # A failed prepare would end a transaction around it; this way it ends its own.
        statement = await _prepare(connection, sql)
    except asyncpg.PostgresSyntaxError as error:
        if values or "multiple commands" not in str(error):
            raise
        return {"status": await connection.execute(sql)}
    if not statement.get_attributes():
        await statement.fetch(*values)
        return {"status": statement.get_statusmsg()}
    async with connection.transaction():
        cursor = await statement.cursor(*values)
        return bounded(await cursor.fetch(MOST_ROWS + 1), translate)


async def _prepare(connection: PoolConnectionProxy, sql: str) -> Any:
    if not connection.is_in_transaction():
        return await connection.prepare(sql)
    async with connection.transaction():
        return await connection.prepare(sql)
