"""`neo4j.execute`: one Cypher query as a job."""

from __future__ import annotations

from typing import Any, Literal

from perdure.context import Context
from perdure.job import job
from perdure.kinds.plain import bounded, seconds

try:
    from neo4j import exceptions
except ImportError as error:
    raise ImportError("the kind neo4j.execute needs its driver; install perdure[neo4j]") from error


@job("neo4j.execute", needs=("neo4j",), permanent=(exceptions.CypherSyntaxError, exceptions.CypherTypeError))
async def execute(
    ctx: Context,
    query: str,
    params: dict[str, Any] | None = None,
    access: Literal["write", "read"] = "write",
    once: str | None = None,
    timeout: str | float = "1m",
) -> dict[str, Any]:
    """Run a Cypher query on Neo4j, in a transaction of its own.

    `params` are the values of $name. `access`: "read" may be answered by any member of a cluster. `once`: a key; the
    query and its mark are one transaction, and of all jobs with this key one takes effect. Without it a job that is
    delivered twice runs its query twice; MERGE makes that harmless. `timeout` holds for the query; text such as "1m",
    or seconds.

    Result: {"counters": {"nodes_created": 1, …}}, and "rows" if it returns any (up to 1,000 rows or 256 KiB, then
    "truncated" is true), or {"done_before": true} when another job with the key was first. Mistakes in the query are
    permanent.
    """
    limit = seconds(timeout)
    if once is None:
        done = await ctx.neo4j.execute(query, params or {}, access=access, timeout=limit)
        return _result(done)
    # ctx.once() has the time limit of the configuration; a query of a ready-made kind may take longer.
    async with ctx.neo4j.once(ctx.once(once, scope="global").mark, timeout=limit) as tx:
        if not tx.first:
            return {"done_before": True}
        return _result(await tx.execute(query, params or {}))


def _result(done: Any) -> dict[str, Any]:
    rows = bounded(done.records) if done.records else {}
    return {"counters": dict(done.counters), **rows}
