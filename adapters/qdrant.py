"""Qdrant for jobs: the driver's methods, each behind the guard.

One client a worker, opened by the first call. Arguments and results are the driver's own (`qdrant_client.models`), so
what its documentation says holds here. Every call takes `timeout` (seconds, for the whole call); reading ones also take
`fallback` and `cache`, see Guard.call.

Give points ids that follow from their content (`point_id`): then upsert, delete and ensure_collection may be repeated,
and are, within a call and when a job is delivered twice. A write that timed out may still be applied by the server.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

from perdure.adapters.bridge import Bridge
from perdure.adapters.call import CONNECTING_SHARE, JobCall
from perdure.adapters.guard import NO_FALLBACK, Repeat
from perdure.adapters.qdrant_errors import (
    classify,
    diagnose,
    is_collection_known,
    is_collection_unknown,
    is_hang_up,
    is_unsent,
    look_behind,
)
from perdure.adapters.qdrant_ids import point_id
from perdure.adapters.qdrant_open import connect_seconds, is_locked, load_driver, open_client, place_of
from perdure.adapters.qdrant_pool import QdrantPool
from perdure.errors import NoAnswer, UsageError
from perdure.wire.dependencies import QdrantOptions

if TYPE_CHECKING:
    from qdrant_client import AsyncQdrantClient, models
    from qdrant_client.conversions.common_types import PointId, Points, PointsSelector

__all__ = ["BlockingQdrant", "Qdrant", "QdrantPool", "check", "classify", "point_id"]

P = ParamSpec("P")
R = TypeVar("R")

#: The least that making a connection may take, seconds.
_LEAST_SECONDS: Final = 0.01


class Qdrant:
    """The methods, on behalf of one job. See the module's docstring; `options` are the driver's further arguments."""

    __slots__ = ("_job", "_pool")

    def __init__(self, pool: QdrantPool, job: JobCall) -> None:
        self._pool = pool
        self._job = job

    # --- writing

    async def upsert(
        self,
        /,
        collection_name: str,
        points: Points,
        *,
        wait: bool = True,
        timeout: float | None = None,
        retry: Repeat = True,
        **options: Any,
    ) -> models.UpdateResult:
        """Insert points, or overwrite those with the same ids. `wait`: return when it is applied, not only received."""

        def ask(client: AsyncQdrantClient, limit: int) -> Awaitable[models.UpdateResult]:
            return client.upsert(collection_name, points, wait=wait, timeout=limit, **options)

        return await self._call(ask, timeout=timeout, retry=retry)

    async def delete(
        self,
        /,
        collection_name: str,
        points_selector: PointsSelector,
        *,
        wait: bool = True,
        timeout: float | None = None,
        retry: Repeat = True,
        **options: Any,
    ) -> models.UpdateResult:
        """Delete points by ids (a list) or by a filter."""

        def ask(client: AsyncQdrantClient, limit: int) -> Awaitable[models.UpdateResult]:
            return client.delete(collection_name, points_selector, wait=wait, timeout=limit, **options)

        return await self._call(ask, timeout=timeout, retry=retry)

    # --- reading

    async def query_points(
        self,
        /,
        collection_name: str,
        query: Any = None,
        *,
        limit: int = 10,
        query_filter: models.Filter | None = None,
        with_payload: bool | list[str] | models.PayloadSelector = True,
        with_vectors: bool | list[str] = False,
        timeout: float | None = None,
        fallback: Any = NO_FALLBACK,
        cache: Hashable | None = None,
        **options: Any,
    ) -> models.QueryResponse:
        """The points that are nearest to `query` (a vector, the id of a point, or one of the driver's queries)."""

        def ask(client: AsyncQdrantClient, seconds: int) -> Awaitable[models.QueryResponse]:
            return client.query_points(
                collection_name,
                query,
                limit=limit,
                query_filter=query_filter,
                with_payload=with_payload,
                with_vectors=with_vectors,
                timeout=seconds,
                **options,
            )

        return await self._call(ask, timeout=timeout, fallback=fallback, cache=cache)

    #: The short name.
    query = query_points

    async def retrieve(
        self,
        /,
        collection_name: str,
        ids: Sequence[PointId],
        *,
        with_payload: bool | list[str] | models.PayloadSelector = True,
        with_vectors: bool | list[str] = False,
        timeout: float | None = None,
        fallback: Any = NO_FALLBACK,
        cache: Hashable | None = None,
        **options: Any,
    ) -> list[models.Record]:
        """The points with these ids, as far as they exist."""

        def ask(client: AsyncQdrantClient, limit: int) -> Awaitable[list[models.Record]]:
            return client.retrieve(
                collection_name, ids, with_payload=with_payload, with_vectors=with_vectors, timeout=limit, **options
            )

        return await self._call(ask, timeout=timeout, fallback=fallback, cache=cache)

    async def scroll(
        self,
        /,
        collection_name: str,
        scroll_filter: models.Filter | None = None,
        *,
        limit: int = 10,
        offset: PointId | None = None,
        timeout: float | None = None,
        fallback: Any = NO_FALLBACK,
        cache: Hashable | None = None,
        **options: Any,
    ) -> tuple[list[models.Record], PointId | None]:
        """A page of points, and the `offset` of the next one (None: that was the last)."""

        def ask(client: AsyncQdrantClient, seconds: int) -> Awaitable[tuple[list[models.Record], PointId | None]]:
            return client.scroll(collection_name, scroll_filter, limit, offset=offset, timeout=seconds, **options)

        return await self._call(ask, timeout=timeout, fallback=fallback, cache=cache)

    async def count(
        self,
        /,
        collection_name: str,
        count_filter: models.Filter | None = None,
        *,
        exact: bool = True,
        timeout: float | None = None,
        fallback: Any = NO_FALLBACK,
        cache: Hashable | None = None,
        **options: Any,
    ) -> int:
        """How many points there are, as a number; the driver wraps it in a CountResult."""

        async def ask(client: AsyncQdrantClient, limit: int) -> int:
            return (await client.count(collection_name, count_filter, exact=exact, timeout=limit, **options)).count

        return await self._call(ask, timeout=timeout, fallback=fallback, cache=cache)

    # --- collections

    async def collection_exists(self, collection_name: str, *, timeout: float | None = None) -> bool:
        """Whether there is such a collection."""

        def ask(client: AsyncQdrantClient, _limit: int) -> Awaitable[bool]:
            return client.collection_exists(collection_name)

        return await self._call(ask, timeout=timeout)

    async def create_collection(
        self,
        /,
        collection_name: str,
        vectors_config: models.VectorParams | dict[str, models.VectorParams] | None = None,
        *,
        timeout: float | None = None,
        retry: Repeat = is_unsent,
        **options: Any,
    ) -> bool:
        """Create a collection; it is an error if it exists. So it is repeated only when it was never sent."""

        def ask(client: AsyncQdrantClient, limit: int) -> Awaitable[bool]:
            return client.create_collection(collection_name, vectors_config, timeout=limit, **options)

        return await self._call(ask, timeout=timeout, retry=retry)

    async def ensure_collection(
        self,
        /,
        collection_name: str,
        size: int,
        distance: str | models.Distance = "Cosine",
        *,
        timeout: float | None = None,
        **options: Any,
    ) -> bool:
        """Have a collection for vectors of this size; whether it was made here. Any number of callers may race.

        `options` are those of create_collection. Raises UsageError when it exists with another size or distance.
        """

        async def ask(client: AsyncQdrantClient, limit: int) -> bool:
            from qdrant_client import models

            wanted = models.VectorParams(size=size, distance=models.Distance(distance))
            is_made = not await _fits(client, collection_name, wanted)
            if is_made:
                try:
                    await client.create_collection(collection_name, wanted, timeout=limit, **options)
                except Exception as exc:
                    if not is_collection_known(exc):
                        raise
                    is_made = not await _fits(client, collection_name, wanted)
            return is_made

        return await self._call(ask, timeout=timeout)

    # --- everything else

    async def call(
        self,
        ask: Callable[[AsyncQdrantClient], Awaitable[R]],
        *,
        timeout: float | None = None,
        retry: Repeat = True,
        fallback: Any = NO_FALLBACK,
        cache: Hashable | None = None,
    ) -> R:
        """Any other method of the driver, guarded like the ones here, in the embedded mode too.

        `await ctx.qdrant.call(lambda client: client.set_payload("docs", {"seen": True}, points=[7]))`. `retry=False`
        for what must not be done twice.
        """
        return await self._call(
            lambda client, _limit: ask(client), timeout=timeout, retry=retry, fallback=fallback, cache=cache
        )

    async def client(self) -> AsyncQdrantClient:
        """The driver's own client, without breaker, retry, deadline and diagnosis.

        Not to be kept beyond the job: it is another one after the key has changed. Raises UsageError in the embedded
        mode, where it would stop the loop: use `call`.
        """
        return await self._pool.native()

    async def _call(
        self,
        ask: Callable[[AsyncQdrantClient, int], Awaitable[R]],
        *,
        timeout: float | None,
        retry: Repeat = True,
        fallback: Any = NO_FALLBACK,
        cache: Hashable | None = None,
    ) -> R:
        pool = self._pool
        await pool.load()
        ends = self._now() + self._limit(timeout)

        async def ask_now(client: AsyncQdrantClient) -> R:
            token = connect_seconds.set(CONNECTING_SHARE * max(_LEAST_SECONDS, ends - self._now()))
            try:
                return await ask(client, max(1, math.ceil(ends - self._now())))
            finally:
                connect_seconds.reset(token)

        return await pool.guard.call(
            self._job, pool.use, ask_now, timeout=timeout, retry=retry, fallback=fallback, cache=cache
        )

    def _limit(self, timeout: float | None) -> float:
        """Seconds that a call has. The driver and the server are told whole ones, so the guard's limit comes first."""
        if timeout is None:
            timeout = min(self._pool.options.timeout_ms, self._pool.guard.policy.timeout_ms) / 1000
        return timeout if self._job.deadline is None else min(timeout, self._job.deadline - self._now())

    def _now(self) -> float:
        return self._pool.clock.monotonic_ns() / 1e9


async def _fits(client: AsyncQdrantClient, collection_name: str, wanted: models.VectorParams) -> bool:
    """Whether the collection is there. Raises UsageError when it is one for other vectors."""
    try:
        found = (await client.get_collection(collection_name)).config.params.vectors
    except Exception as exc:
        if is_collection_unknown(exc):
            return False
        raise
    size, distance = getattr(found, "size", None), getattr(found, "distance", None)
    if (size, distance) == (wanted.size, wanted.distance):
        return True
    has = "named vectors" if distance is None else f"vectors of size {size} ({distance.value})"
    raise UsageError(
        f"the collection {collection_name} exists with {has}, not with vectors of size {wanted.size}"
        f" ({wanted.distance.value}); choose another name, or delete it"
    )


def _blocking(
    method: Callable[Concatenate[Qdrant, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[BlockingQdrant, P], R]:
    """The same method for another thread, which waits."""

    @wraps(method)
    def wait(self: BlockingQdrant, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.bridge.run(method, self.bound, *args, **kwargs)

    return wait


class BlockingQdrant:
    """The methods of Qdrant for synchronous handlers: without `await`, otherwise the same. Raises the same."""

    __slots__ = ("bound", "bridge")

    def __init__(self, bound: Qdrant, bridge: Bridge) -> None:
        self.bound = bound
        self.bridge = bridge

    upsert = _blocking(Qdrant.upsert)
    delete = _blocking(Qdrant.delete)
    query_points = _blocking(Qdrant.query_points)
    query = query_points
    retrieve = _blocking(Qdrant.retrieve)
    scroll = _blocking(Qdrant.scroll)
    count = _blocking(Qdrant.count)
    collection_exists = _blocking(Qdrant.collection_exists)
    create_collection = _blocking(Qdrant.create_collection)
    ensure_collection = _blocking(Qdrant.ensure_collection)

    def call(self, ask: Callable[[AsyncQdrantClient], Awaitable[R]], **options: Any) -> R:
        """See Qdrant.call; `ask` runs on the worker's loop."""
        result: R = self.bridge.run(self.bound.call, ask, **options)
        return result


async def check(options: QdrantOptions) -> str:
    """Connect, and say in a line what is there: for `perdure doctor`. Raises Unavailable, UsageError."""
    await load_driver()
    place = place_of(options)
    in_use = bool(options.path) and await asyncio.to_thread(is_locked, Path(options.path))
    if in_use:
        return f"embedded in {place.address}, in use by another process (the daemon, if it runs)"
    client = await open_client(options)
    try:
        async with asyncio.timeout(options.timeout_ms / 1000):
            return await client.run(partial(_describe, options))
    except TimeoutError as exc:
        raise NoAnswer(f"qdrant at {place.address} did not answer within {options.timeout_ms} ms") from exc
    except Exception as exc:
        error = diagnose(exc, place)
        if error is None:
            raise
        raise (await look_behind(place) if is_hang_up(error) else None) or error from exc
    finally:
        await client.close()


async def _describe(options: QdrantOptions, client: AsyncQdrantClient) -> str:
    # Anybody may ask for the version; only the list of the collections shows that the key is right.
    collections = len((await client.get_collections()).collections)
    holds = f"{collections} collection{'' if collections == 1 else 's'}"
    place = place_of(options)
    if options.path:
        return f"embedded in {place.address}, {holds}; for one worker process only"
    info = await client.info()
    warning = "; the key travels unencrypted (http)" if options.api_key_file and not place.https else ""
    return f"{info.title} {info.version} at {place.address}, {holds}{warning}"
