"""The collections behind `qdrant_front`: each is a shard of qdrant-edge in a folder, with its description beside it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote
from uuid import UUID

import qdrant_edge as edge
from qdrant_client.http import models

from examples.demo.qdrant_words import to_filter, to_id, to_payload_selector, to_query, to_vector

Verb = Callable[..., Any]
SCROLL_LIMIT: Final = 10


class Trouble(Exception):
    """A request that is refused, with the HTTP status that says so."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Shelf:
    """All collections. Every method is called in one and the same thread, and returns what goes into `result`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shards: dict[str, tuple[edge.EdgeShard, models.CreateCollection]] = {}
        self._operations = 0
        folder.mkdir(parents=True, exist_ok=True)
        for place in sorted(folder.iterdir()):
            description = place / "collection.json"
            if description.exists():
                config = models.CreateCollection.model_validate_json(description.read_bytes())
                self._shards[unquote(place.name)] = (edge.EdgeShard.load(str(place / "shard")), config)
            else:
                shutil.rmtree(place)  # it was being made or deleted when the server was killed

    def close(self) -> None:
        """Write everything to disk."""
        for shard, _config in self._shards.values():
            shard.flush()
            shard.close()

    # --- collections

    def names(self) -> dict[str, Any]:
        """GET /collections."""
        return {"collections": [{"name": name} for name in self._shards]}

    def exists(self, name: str) -> dict[str, bool]:
        """GET /collections/NAME/exists."""
        return {"exists": name in self._shards}

    def create(self, name: str, config: models.CreateCollection) -> bool:
        """PUT /collections/NAME."""
        if name in self._shards:
            raise Trouble(409, f"Wrong input: Collection `{name}` already exists!")
        place = self._place(name)
        place.mkdir()
        shard = edge.EdgeShard.create(str(place / "shard"), _edge_config(config))
        half = place / "collection.json.half"
        half.write_text(config.model_dump_json(exclude_none=True))
        os.replace(half, place / "collection.json")
        self._shards[name] = (shard, config)
        return True

    def drop(self, name: str) -> bool:
        """DELETE /collections/NAME."""
        shard, _config = self._shards.pop(name, (None, None))
        if shard is None:
            return False
        shard.close()
        (self._place(name) / "collection.json").unlink()
        shutil.rmtree(self._place(name))
        return True

    def describe(self, name: str) -> dict[str, Any]:
        """GET /collections/NAME."""
        shard, config = self._open(name)
        info = shard.info()
        params = models.CollectionParams(vectors=config.vectors, sparse_vectors=config.sparse_vectors)
        described = models.CollectionInfo(
            status=models.CollectionStatus.GREEN,
            optimizer_status=models.OptimizersStatusOneOf.OK,
            points_count=info.points_count,
            indexed_vectors_count=info.indexed_vectors_count,
            segments_count=info.segments_count,
            config=models.CollectionConfig(
                params=params,
                hnsw_config=models.HnswConfig(m=16, ef_construct=100, full_scan_threshold=10_000),
                optimizer_config=models.OptimizersConfig(
                    deleted_threshold=0.2,
                    vacuum_min_vector_number=1_000,
                    default_segment_number=0,
                    flush_interval_sec=5,
                ),
            ),
            payload_schema={},
        )
        return described.model_dump(mode="json")

    def add_index(self, name: str, index: models.CreateFieldIndex) -> dict[str, Any]:
        """PUT /collections/NAME/index."""
        schema = index.field_schema
        kind = schema if isinstance(schema, models.PayloadSchemaType) else getattr(schema, "type", None)
        if kind is None:
            raise Trouble(400, "this front needs field_schema")
        word = str(kind.value).capitalize()
        return self._change(
            name, edge.UpdateOperation.create_field_index, index.field_name, getattr(edge.PayloadSchemaType, word)
        )

    def drop_index(self, name: str, field: str) -> dict[str, Any]:
        """DELETE /collections/NAME/index/FIELD."""
        return self._change(name, edge.UpdateOperation.delete_field_index, field)

    # --- points: writing

    def upsert(self, name: str, operations: models.PointInsertOperations) -> dict[str, Any]:
        """PUT /collections/NAME/points."""
        if isinstance(operations, models.PointsList):
            rows = [(point.id, point.vector, point.payload) for point in operations.points]
        else:
            batch = operations.batch
            payloads: list[Any] = list(batch.payloads or [None] * len(batch.ids))
            vectors = [_nth_vector(batch.vectors, n) for n in range(len(batch.ids))]
            rows = list(zip(batch.ids, vectors, payloads, strict=True))
        points = [edge.Point(to_id(point_id), to_vector(vector), payload) for point_id, vector, payload in rows]
        condition = to_filter(operations.update_filter)
        return self._change(name, edge.UpdateOperation.upsert_points, points, condition)

    def delete(self, name: str, selector: models.PointsSelector) -> dict[str, Any]:
        """POST /collections/NAME/points/delete."""
        if isinstance(selector, models.FilterSelector):
            return self._change(name, edge.UpdateOperation.delete_points_by_filter, to_filter(selector.filter))
        return self._change(name, edge.UpdateOperation.delete_points, _ids(selector.points))

    def set_payload(self, name: str, body: models.SetPayload) -> dict[str, Any]:
        """POST /collections/NAME/points/payload."""
        return self._change_payload(name, "set_payload", body, body.payload, body.key)

    def overwrite_payload(self, name: str, body: models.SetPayload) -> dict[str, Any]:
        """PUT /collections/NAME/points/payload."""
        return self._change_payload(name, "overwrite_payload", body, body.payload, body.key)

    def delete_payload(self, name: str, body: models.DeletePayload) -> dict[str, Any]:
        """POST /collections/NAME/points/payload/delete."""
        return self._change_payload(name, "delete_payload", body, body.keys)

    def clear_payload(self, name: str, selector: models.PointsSelector) -> dict[str, Any]:
        """POST /collections/NAME/points/payload/clear."""
        return self._change_payload(name, "clear_payload", selector)

    # --- points: reading

    def retrieve(self, name: str, body: models.PointRequest) -> list[dict[str, Any]]:
        """POST /collections/NAME/points."""
        shard, _config = self._open(name)
        with_payload = to_payload_selector(True if body.with_payload is None else body.with_payload)
        records = shard.retrieve(_ids(body.ids), with_payload, body.with_vector or False)
        return [_record(record) for record in records]

    def point(self, name: str, point_id: str) -> dict[str, Any]:
        """GET /collections/NAME/points/ID."""
        wanted = int(point_id) if point_id.isdigit() else point_id
        found = self.retrieve(name, models.PointRequest(ids=[wanted], with_vector=True))
        if not found:
            raise Trouble(404, f"Not found: Point with id {point_id} does not exists!")
        return found[0]

    def scroll(self, name: str, body: models.ScrollRequest) -> dict[str, Any]:
        """POST /collections/NAME/points/scroll."""
        if body.order_by is not None:
            raise Trouble(400, "this front does not know order_by")
        shard, _config = self._open(name)
        request = edge.ScrollRequest(
            offset=None if body.offset is None else to_id(body.offset),
            limit=body.limit or SCROLL_LIMIT,
            filter=to_filter(body.filter),
            with_payload=to_payload_selector(True if body.with_payload is None else body.with_payload),
            with_vector=body.with_vector or False,
        )
        records, following = shard.scroll(request)
        return {"points": [_record(record) for record in records], "next_page_offset": _plain_id(following)}

    def count(self, name: str, body: models.CountRequest) -> dict[str, int]:
        """POST /collections/NAME/points/count."""
        shard, _config = self._open(name)
        exact = True if body.exact is None else body.exact
        return {"count": shard.count(edge.CountRequest(exact, to_filter(body.filter)))}

    def query(self, name: str, body: models.QueryRequest) -> dict[str, Any]:
        """POST /collections/NAME/points/query."""
        shard, _config = self._open(name)
        if body.prefetch:
            raise Trouble(400, "this front does not know prefetch")
        try:
            request = edge.QueryRequest(
                limit=body.limit or SCROLL_LIMIT,
                offset=body.offset or 0,
                query=to_query(body.query, body.using),
                filter=to_filter(body.filter),
                score_threshold=body.score_threshold,
                with_vector=body.with_vector or False,
                with_payload=to_payload_selector(body.with_payload or False),
            )
            points = shard.query(request)
        except Exception as exc:
            raise _refused(exc) from exc
        return {"points": [{**_record(point), "version": point.version, "score": point.score} for point in points]}

    def query_batch(self, name: str, body: models.QueryRequestBatch) -> list[dict[str, Any]]:
        """POST /collections/NAME/points/query/batch."""
        return [self.query(name, one) for one in body.searches]

    # --- helpers

    def _place(self, name: str) -> Path:
        return self._folder / quote(name, safe="")

    def _open(self, name: str) -> tuple[edge.EdgeShard, models.CreateCollection]:
        try:
            return self._shards[name]
        except KeyError:
            raise Trouble(404, f"Not found: Collection `{name}` doesn't exist!") from None

    def _change(self, name: str, operation: Callable[..., edge.UpdateOperation], *args: Any) -> dict[str, Any]:
        shard, _config = self._open(name)
        try:
            shard.update(operation(*args))
        except Exception as exc:
            raise _refused(exc) from exc
        self._operations += 1
        return {"operation_id": self._operations, "status": "completed"}

    def _change_payload(self, name: str, verb: str, selected: Any, *args: Any) -> dict[str, Any]:
        """`selected` has `points` or `filter`."""
        points = getattr(selected, "points", None)
        if points is not None:
            return self._change(name, getattr(edge.UpdateOperation, verb), _ids(points), *args)
        by_filter = getattr(edge.UpdateOperation, f"{verb}_by_filter")
        return self._change(name, by_filter, to_filter(selected.filter), *args)


def _edge_config(config: models.CreateCollection) -> edge.EdgeConfig:
    given = config.vectors or {}
    vectors = {"": given} if isinstance(given, models.VectorParams) else given
    dense = {
        name: edge.EdgeVectorParams(params.size, getattr(edge.Distance, params.distance.value))
        for name, params in vectors.items()
    }
    sparse = {name: edge.EdgeSparseVectorParams() for name in config.sparse_vectors or {}}
    return edge.EdgeConfig(vectors=dense or None, sparse_vectors=sparse or None)


def _refused(exc: Exception) -> Exception:
    """The engine's word for bad input; the engine has one class for everything, so all of it is the caller's here."""
    return exc if isinstance(exc, Trouble) else Trouble(400, f"Wrong input: {exc}")


def _ids(ids: Sequence[Any]) -> list[Any]:
    return [to_id(point_id) for point_id in ids]


def _plain_id(point_id: Any) -> Any:
    return str(point_id) if isinstance(point_id, UUID) else point_id


def _nth_vector(vectors: Any, n: int) -> Any:
    return {name: rows[n] for name, rows in vectors.items()} if isinstance(vectors, dict) else vectors[n]


def _plain_vector(vector: Any) -> Any:
    if isinstance(vector, edge.SparseVector):
        return {"indices": vector.indices, "values": vector.values}
    if isinstance(vector, dict):
        return {name: _plain_vector(one) for name, one in vector.items()}
    return vector


def _record(record: Any) -> dict[str, Any]:
    return {"id": _plain_id(record.id), "payload": record.payload, "vector": _plain_vector(record.vector)}
