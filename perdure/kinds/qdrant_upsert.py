"""`qdrant.upsert`: points into a collection, as a job."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from perdure.adapters.qdrant_errors import is_bad_input, said
from perdure.context import Context
from perdure.errors import InvalidArguments, Permanent
from perdure.job import job
from perdure.kinds.plain import seconds

if TYPE_CHECKING:
    from qdrant_client.models import PointStruct

#: As Qdrant reads them: with hyphens or without, in braces, as a URN.
_UUID: Final = re.compile(
    r"(urn:uuid:|\{)?[0-9a-f]{8}(-?)[0-9a-f]{4}(\2[0-9a-f]{4}){2}\2[0-9a-f]{12}\}?", re.IGNORECASE
)


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

    Result: {"status": "completed", "points": 3}. Points that cannot be ones, and those that Qdrant does not take (of
    another size than the collection's), are permanent.
    """
    limit = seconds(timeout)
    made = [_point(ctx, place, point) for place, point in enumerate(points)]
    if not made:
        return {"status": "completed", "points": 0}
    if distance is not None:
        await ctx.qdrant.ensure_collection(collection, _size(made[0]), distance, timeout=limit)
    try:
        done = await ctx.qdrant.upsert(collection, made, wait=wait, timeout=limit)
    except Exception as error:
        if is_bad_input(error):
            raise Permanent(f"qdrant does not take these points: {said(error)}") from error
        raise
    return {"status": str(getattr(done.status, "value", done.status)), "points": len(made)}


def _point(ctx: Context, place: int, given: dict[str, Any]) -> PointStruct:
    """Raises InvalidArguments that names the point."""
    from qdrant_client.models import PointStruct

    if "id" not in given:
        given = {**given, "id": ctx.once("qdrant.upsert").point_id(place)}
    elif not _is_id(given["id"]):
        raise InvalidArguments(
            f"points[{place}]: the id {given['id']!r:.80} is neither a UUID nor a whole number from 0 to 2^64 - 1;"
            " leave it out, and it gets one that follows from the job"
        )
    try:
        return PointStruct(**given)
    except ValueError as error:  # pydantic's errors are ValueErrors
        raise InvalidArguments(f"points[{place}]: {error}") from error


def _is_id(given: object) -> bool:
    """Whether Qdrant takes it for an id: a number that fits 64 bits, or the text of a UUID."""
    if isinstance(given, int):
        return not isinstance(given, bool) and 0 <= given < 2**64
    return isinstance(given, str) and _UUID.fullmatch(given) is not None


def _size(point: PointStruct) -> int:
    if not isinstance(point.vector, list):
        raise InvalidArguments("distance: a collection can be made for plain vectors only; make it yourself")
    return len(point.vector)
