"""Six kinds of jobs that feed three databases, and questions answered from all of them. The README walks through it.

Each says what it needs. While Postgres is away, `text` jobs wait, uncharged and without a worker; `vectors` and
`imports` go on. Each does its effect once, however often it is delivered.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qdrant_client.models import PointStruct

from examples.graphrag import embedding
from examples.graphrag.reading import Passage, imported, module_name, read, split
from perdure import Context, Permanent, Retry, job
from perdure.adapters.qdrant import point_id

COLLECTION = "graphrag_passages"
SCHEMA = Path(__file__).with_name("schema.sql")
EDGES = "MATCH (a:PyModule {name: $module}), (b:PyModule) WHERE b.name IN $targets CREATE (a)-[:IMPORTS]->(b)"
#: Points in one request: 256 numbers each are about 5 kB of JSON.
BATCH = 64
NEAREST = 3


@job("graphrag.prepare", queue="prepare", needs=("postgres", "qdrant"))
async def prepare(ctx: Context) -> None:
    """Tables and the collection. Running it again changes nothing."""
    async with ctx.postgres.transaction() as tx:
        await tx.execute(SCHEMA.read_text())
    await ctx.qdrant.ensure_collection(COLLECTION, embedding.SIZE, "Cosine")


@job("graphrag.modules", queue="prepare", needs=("neo4j",), timeout="5m")
async def modules(ctx: Context, paths: list[str]) -> int:
    """One node for each module, before the first edge is drawn between two of them."""
    await ctx.neo4j.write("CREATE INDEX py_module IF NOT EXISTS FOR (m:PyModule) ON (m.name)")
    rows = [{"name": module_name(path), "path": path} for path in paths]
    async with ctx.once("modules").neo4j() as tx:
        if tx.first:
            await tx.run("UNWIND $rows AS row CREATE (:PyModule {name: row.name, path: row.path})", rows=rows)
    return len(rows)


@job("graphrag.text", queue="text", needs=("postgres",), max_attempts=8, timeout="1m")
async def text(ctx: Context, root: str, path: str) -> int:
    """A document and its passages go to Postgres. The mark and the rows are one transaction: all of it, or nothing."""
    content = _read(root, path)
    passages = split(content)
    rows = [(_point(path, passage), path, passage.line, passage.text) for passage in passages]
    async with ctx.once("text").postgres() as tx:
        if tx.first:
            document = "INSERT INTO graphrag.documents (path, module, characters, passages) VALUES ($1, $2, $3, $4)"
            await tx.execute(document, path, module_name(path), len(content), len(passages))
            passage = "INSERT INTO graphrag.passages (point, path, line, text) VALUES ($1, $2, $3, $4)"
            await tx.executemany(passage, rows)
    return len(rows)


@job("graphrag.vectors", queue="vectors", needs=("qdrant",), max_attempts=8, timeout="2m")
def vectors(ctx: Context, root: str, path: str) -> int:
    """A point for each passage goes to Qdrant, which has no transactions: the same passage always gets the same id.

    A plain `def`, because embedding computes: it runs in the worker's main thread, and `ctx.blocking` has the same
    adapters for it.
    """
    passages = split(_read(root, path))
    for batch in _batches(passages):
        points = [
            PointStruct(id=_point(path, passage), vector=vector, payload={"path": path, "line": passage.line})
            for passage, vector in zip(batch, embedding.embed([passage.text for passage in batch]), strict=True)
        ]
        ctx.blocking.qdrant.upsert(COLLECTION, points)
    return len(passages)


@job("graphrag.imports", queue="imports", needs=("neo4j",), max_attempts=15, timeout="2m")
def imports(ctx: Context, root: str, path: str) -> int:
    """An edge to each module of the graph that this one imports.

    Everybody imports the same few modules, so transactions get in each other's way, and the database ends one of them
    as a deadlock. That job fails, and is run again a little later: hence the many attempts.
    """
    module = module_name(path)
    try:
        meanings = list(imported(_read(root, path), path))
    except SyntaxError as error:
        raise Permanent(f"Python cannot parse it: {error}") from error
    query = "MATCH (m:PyModule) WHERE m.name IN $names RETURN m.name AS name"
    found = ctx.blocking.neo4j.read(query, names=sorted({name for meaning in meanings for name in meaning}))
    known = {row["name"] for row in found}
    targets = {next((name for name in meaning if name in known), module) for meaning in meanings} - {module}
    with ctx.blocking.once("imports").neo4j() as tx:
        if tx.first:
            edges = (
                "MATCH (a:PyModule {name: $module}), (b:PyModule) WHERE b.name IN $targets CREATE (a)-[:IMPORTS]->(b)"
            )
            tx.run(edges, module=module, targets=sorted(targets))
    return len(targets)


@job("graphrag.related", queue="related", needs=("postgres", "qdrant"), max_attempts=8, timeout="1m")
async def related(ctx: Context, path: str) -> list[str]:
    """The documents most like this one, by its first passage: asked of Qdrant, kept in Postgres."""
    first = "SELECT point::text FROM graphrag.passages WHERE path = $1 ORDER BY line LIMIT 1"
    point = await ctx.postgres.fetchval(first, path)
    if point is None:
        return []
    found = await ctx.qdrant.retrieve(COLLECTION, [point], with_vectors=True)
    if not found:
        raise Retry("its vectors are not there yet", after="5s")
    near = await ctx.qdrant.query(COLLECTION, found[0].vector, limit=20)
    scores: dict[str, float] = {}
    for hit in near.points:
        scores.setdefault((hit.payload or {})["path"], hit.score)
    rows = [(path, other, score) for other, score in scores.items() if other != path][:NEAREST]
    async with ctx.once("related").postgres() as tx:
        if tx.first:
            await tx.executemany("INSERT INTO graphrag.related (path, other, score) VALUES ($1, $2, $3)", rows)
    return [other for _, other, _ in rows]


@job("graphrag.ask", queue="ask", needs=("postgres", "qdrant"), max_attempts=3, timeout="30s")
async def ask(ctx: Context, question: str, graph: bool = True) -> list[dict[str, Any]]:
    """Nearest passages (Qdrant), what they say and of which document they are (Postgres), who imports it (Neo4j)."""
    (vector,) = embedding.embed([question])
    near = (await ctx.qdrant.query(COLLECTION, vector, limit=NEAREST)).points
    query = """
        SELECT p.point::text AS point, p.path, p.line, p.text, d.module, d.passages
        FROM graphrag.passages p JOIN graphrag.documents d ON d.path = p.path
        WHERE p.point = ANY($1::uuid[])
    """
    rows = {row["point"]: row for row in await ctx.postgres.fetch(query, [str(hit.id) for hit in near])}
    return [
        {
            "score": round(hit.score, 3),
            "where": f"{row['path']}:{row['line']}",
            "says": _first_line(row["text"]),
            "passages": row["passages"],
            "imported_by": await _importers(ctx, row["module"]) if graph else None,
        }
        for hit in near
        if (row := rows.get(str(hit.id))) is not None
    ]


async def _importers(ctx: Context, module: str) -> list[str]:
    """The modules that import one."""
    query = "MATCH (a:PyModule)-[:IMPORTS]->(:PyModule {name: $module}) RETURN DISTINCT a.name AS name ORDER BY name"
    return [row["name"] for row in await ctx.neo4j.read(query, module=module)]


def _read(root: str, path: str) -> str:
    """A file's text. One that is not text will not become text by trying again: it goes to the dead letters at once."""
    try:
        return read(Path(root, path))
    except ValueError as error:
        raise Permanent(str(error)) from error


def _point(path: str, passage: Passage) -> str:
    """A passage's id in Qdrant, and in Postgres beside its text: always the same for the same place."""
    return point_id("graphrag", path, str(passage.line))


def _batches(passages: list[Passage]) -> Iterable[list[Passage]]:
    return (passages[start : start + BATCH] for start in range(0, len(passages), BATCH))


def _first_line(text: str) -> str:
    """What a passage begins with, comments above it left out."""
    lines = [line for line in text.splitlines() if line.strip()]
    return next((line for line in lines if not line.lstrip().startswith(("#", "@"))), lines[0])
