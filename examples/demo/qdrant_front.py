"""A small REST server over qdrant-edge: what the demo and the tests use where no Qdrant is installed.

Storage, write-ahead log, filters and scoring are Qdrant's own (the Rust engine of `qdrant-edge-py`); the HTTP layer is
ours and knows the routes of `ROUTES` only. So this is not Qdrant, though the official client talks to it. Bodies are
checked with the client's own models. What it does not know (prefetch, fusion, facets, snapshots, aliases, clusters) is
refused with status 400. An acknowledged write survives kill -9.

    python -m examples.demo.qdrant_front FOLDER --port 6333 [--api-key-file FILE] [--until-stdin-closes]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hmac
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import uvicorn
from pydantic import TypeAdapter, ValidationError
from qdrant_client.http import models
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from examples.demo.qdrant_store import Shelf, Trouble, Verb

VERSION: Final = "0.0.0-front"
#: What answers without a key, as Qdrant does.
OPEN_PATHS: Final = frozenset({"/", "/healthz", "/livez", "/readyz"})

_COLLECTION: Final = "/collections/{name}"
#: Method, path, the model of the body (None: there is none), what does it.
ROUTES: Final[list[tuple[str, str, Any, Verb]]] = [
    ("GET", "/collections", None, Shelf.names),
    ("GET", _COLLECTION, None, Shelf.describe),
    ("PUT", _COLLECTION, models.CreateCollection, Shelf.create),
    ("DELETE", _COLLECTION, None, Shelf.drop),
    ("GET", f"{_COLLECTION}/exists", None, Shelf.exists),
    ("PUT", f"{_COLLECTION}/index", models.CreateFieldIndex, Shelf.add_index),
    ("DELETE", f"{_COLLECTION}/index/{{field}}", None, Shelf.drop_index),
    ("PUT", f"{_COLLECTION}/points", models.PointInsertOperations, Shelf.upsert),
    ("POST", f"{_COLLECTION}/points", models.PointRequest, Shelf.retrieve),
    ("GET", f"{_COLLECTION}/points/{{id}}", None, Shelf.point),
    ("POST", f"{_COLLECTION}/points/delete", models.PointsSelector, Shelf.delete),
    ("POST", f"{_COLLECTION}/points/payload", models.SetPayload, Shelf.set_payload),
    ("PUT", f"{_COLLECTION}/points/payload", models.SetPayload, Shelf.overwrite_payload),
    ("POST", f"{_COLLECTION}/points/payload/delete", models.DeletePayload, Shelf.delete_payload),
    ("POST", f"{_COLLECTION}/points/payload/clear", models.PointsSelector, Shelf.clear_payload),
    ("POST", f"{_COLLECTION}/points/scroll", models.ScrollRequest, Shelf.scroll),
    ("POST", f"{_COLLECTION}/points/count", models.CountRequest, Shelf.count),
    ("POST", f"{_COLLECTION}/points/query", models.QueryRequest, Shelf.query),
    ("POST", f"{_COLLECTION}/points/query/batch", models.QueryRequestBatch, Shelf.query_batch),
]


class Front:
    """The server's parts: the collections, the one thread that works on them, and the key."""

    def __init__(self, folder: Path, api_key_file: Path | None = None) -> None:
        self._shelf: Shelf | None = None
        self._folder = folder
        self._api_key_file = api_key_file
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="shelf")

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/", self._root),
            *(Route(path, self._well) for path in sorted(OPEN_PATHS - {"/"})),
            *(Route(path, self._endpoint(body, verb), methods=[method]) for method, path, body, verb in ROUTES),
        ]
        return Starlette(routes=routes, lifespan=self._life)

    @contextlib.asynccontextmanager
    async def _life(self, _app: Starlette) -> AsyncIterator[None]:
        self._shelf = await self._do(Shelf, self._folder)
        yield
        await self._do(self._shelf.close)
        self._worker.shutdown()

    async def _do(self, fn: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._worker, fn, *args)

    async def _root(self, _request: Request) -> Response:
        return JSONResponse({"title": "REST front over qdrant-edge (not Qdrant)", "version": VERSION})

    async def _well(self, _request: Request) -> Response:
        return PlainTextResponse("healthz check passed")

    def _endpoint(self, body: Any, verb: Verb) -> Callable[[Request], Awaitable[Response]]:
        adapter = None if body is None else TypeAdapter(body)

        async def endpoint(request: Request) -> Response:
            refusal = self._refusal(request)
            if refusal is not None:
                return refusal
            begun = time.perf_counter()
            try:
                parsed = () if adapter is None else (adapter.validate_json(await request.body()),)
                result = await self._do(verb, self._shelf, *request.path_params.values(), *parsed)
            except ValidationError as exc:
                return _failure(400, f"Format error in JSON body: {exc.errors(include_url=False)[0]['msg']}")
            except ValueError as exc:
                return _failure(400, f"Wrong input: {exc}")
            except Trouble as exc:
                return _failure(exc.status, str(exc))
            return JSONResponse({"result": result, "status": "ok", "time": time.perf_counter() - begun})

        return endpoint

    def _refusal(self, request: Request) -> Response | None:
        """What is answered to a request with the wrong key or none; the file is read each time, so keys can change."""
        if self._api_key_file is None:
            return None
        wanted = self._api_key_file.read_text().strip()
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        given = request.headers.get("api-key", bearer)
        if not given:
            return PlainTextResponse("Must provide an API key or an Authorization bearer token", 401)
        if not hmac.compare_digest(given.encode(), wanted.encode()):
            return PlainTextResponse("Invalid API key or JWT", 401)
        return None


def _failure(status: int, message: str) -> Response:
    return JSONResponse({"status": {"error": message}, "time": 0.0}, status)


def _end_with_parent() -> None:
    """Wait until the other end of standard input is closed, which the kernel does even for a parent that was killed."""
    while sys.stdin.buffer.read(4096):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=6333)
    parser.add_argument("--api-key-file", type=Path)
    parser.add_argument("--until-stdin-closes", action="store_true")
    options = parser.parse_args()
    if options.until_stdin_closes:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    config = uvicorn.Config(
        Front(options.folder, options.api_key_file).app(),
        host=options.host,
        port=options.port,
        log_level="warning",
        lifespan="on",
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main()
