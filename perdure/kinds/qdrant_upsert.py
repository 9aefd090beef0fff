"""`qdrant.upsert`: points into a collection, as a job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perdure.context import Context
from perdure.errors import InvalidArguments
from perdure.job import job
from perdure.kinds.plain import seconds

if TYPE_CHECKING:
    from qdrant_client.models import PointStruct


@job("qdrant.upsert", needs=("qdrant",))
async def upsert(
    ctx: Context,
    collection: str,
    points: list[dict[str, Any]],
    distance: str | None = None,
    wait: bool = True,
    timeout: str | float = "1m",
) -> dict[str, Any]:
    """Insert points into a collection of Qdrant, or overwrite those with the same ids.

    A point is {"id": …, "vector": […], "payload": {…}}. One without an id gets one that follows from the job and its
    place in the list, so a job that is delivered twice writes the same points twice, which is once. `distance` (Cosine,
    Dot, Euclid, Manhattan): make the collection if it is missing, for vectors as long as the first one. `wait`: until
    the points are applied, not only received. `timeout` holds for each call; text such as "1m", or seconds.

    Result: {"status": "completed", "points": 3}. Points that cannot be ones are permanent.
    """
    limit = seconds(timeout)
    made = [_point(ctx, place, point) for place, point in enumerate(points)]
    if not made:
        return {"status": "completed", "points": 0}
    if distance is not None:
        await ctx.qdrant.ensure_collection(collection, _size(made[0]), distance, timeout=limit)
    done = await ctx.qdrant.upsert(collection, made, wait=wait, timeout=limit)
    return {"status": str(getattr(done.status, "value", done.status)), "points": len(made)}


def _point(ctx: Context, place: int, given: dict[str, Any]) -> PointStruct:
    """Raises InvalidArguments that names the point."""
    from qdrant_client.models import PointStruct

    if "id" not in given:
        given = {**given, "id": ctx.once("qdrant.upsert").point_id(place)}
    try:
        return PointStruct(**given)
    except ValueError as error:  # pydantic's errors are ValueErrors
        raise InvalidArguments(f"points[{place}]: {error}") from error


def _size(point: PointStruct) -> int:
    if not isinstance(point.vector, list):
        raise InvalidArguments("distance: a collection can be made for plain vectors only; make it yourself")
    return len(point.vector)
