"""Opening Qdrant: a client over the network, or the embedded mode on a folder. Both run what they are given.

The driver takes one to two seconds to import, and a client reads all certificates of the machine: both happen in a
thread, once, before the first call.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib
import math
import ssl
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar
from urllib.parse import urlsplit

from perdure.adapters.qdrant_errors import Place
from perdure.errors import ConfigError, Unavailable, UsageError, WrongCredentials
from perdure.wire.dependencies import QdrantOptions

if TYPE_CHECKING:
    import httpx
    from qdrant_client import AsyncQdrantClient

R = TypeVar("R")
Ask = Callable[["AsyncQdrantClient"], Awaitable[R]]

_DEFAULT_PORT: Final = 6333
#: Seconds that an unused connection is kept. Qdrant closes it after 5: ours must be gone before.
_KEEP_SECONDS: Final = 3.0


#: How long making a connection may take, in the call that is being made; None: as long as the driver lets it.
connect_seconds: ContextVar[float | None] = ContextVar("connect_seconds", default=None)


class Client(Protocol):
    """An open client. `key` is the one it was opened with."""

    key: str

    async def run(self, ask: Ask[R]) -> R:
        """Await what `ask` makes of the driver's client."""
        ...

    async def close(self) -> None:
        """Close its connections or files."""
        ...


async def load_driver() -> None:
    """Import the driver without stopping the loop. Raises UsageError when it is not installed."""
    try:
        await asyncio.to_thread(importlib.import_module, "qdrant_client")
    except ModuleNotFoundError as exc:
        raise UsageError(f"qdrant: {exc.name} is not installed; pip install 'perdure[qdrant]'") from exc


async def open_client(options: QdrantOptions) -> Client:
    """A client for these options. The network is not touched yet. Raises Unavailable, ConfigError, OSError."""
    if options.path:
        local = Embedded(options.path)
        await local.open()
        return local
    if not options.url:
        raise ConfigError("[qdrant] says neither url nor path: set one of them")
    return await asyncio.to_thread(Remote, options)


def place_of(options: QdrantOptions) -> Place:
    """Where these options lead, without user and password. Raises ConfigError."""
    if options.path:
        return Place(options.path, "", 0, False, "qdrant.path")
    try:
        parts = urlsplit(options.url if "//" in options.url else f"//{options.url}")
        host, port = parts.hostname or "localhost", parts.port or _DEFAULT_PORT
    except ValueError as exc:
        raise ConfigError(f"qdrant.url cannot be read: {exc}") from exc
    https = parts.scheme == "https"
    shown = f"[{host}]" if ":" in host else host
    if options.grpc:
        return Place(f"{shown}:{options.grpc_port} (gRPC)", host, options.grpc_port, https, "qdrant.grpc_port", True)
    return Place(f"{'https' if https else 'http'}://{shown}:{port}", host, port, https, "qdrant.url")


def read_key(options: QdrantOptions) -> str:
    """The key in the file, "" when none is configured. Raises WrongCredentials; the message has no part of the key."""
    if not options.api_key_file:
        return ""
    where = f"{options.api_key_file} (qdrant.api_key_file)"
    try:
        key = Path(options.api_key_file).read_text().strip()
    except (OSError, UnicodeError) as exc:
        raise WrongCredentials(
            f"no key can be read from {where}: {getattr(exc, 'strerror', None) or 'no text'}"
        ) from exc
    # A driver's own error about a header that cannot be sent would show it.
    if not key or not key.isascii() or not key.isprintable():
        raise WrongCredentials(f"no key can be read from {where}: it must hold one line of printable ASCII characters")
    return key


class Remote:
    """A client over REST or gRPC. Made in any thread, used on one loop."""

    def __init__(self, options: QdrantOptions) -> None:
        self.key = read_key(options)
        self._client = _make_client(options, self.key)

    async def run(self, ask: Ask[R]) -> R:
        """Await what `ask` makes of the client."""
        return await ask(self._client)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    @property
    def client(self) -> AsyncQdrantClient:
        """The driver's own client."""
        return self._client


def _make_client(options: QdrantOptions, key: str) -> AsyncQdrantClient:
    import httpx
    from qdrant_client import AsyncQdrantClient

    extra: dict[str, Any]
    if options.grpc:
        extra = {"prefer_grpc": True, "grpc_port": options.grpc_port, "pool_size": options.pool_max}
    else:
        # Without limits of ours the driver opens a new connection for every call to localhost.
        extra = {"limits": httpx.Limits(max_connections=options.pool_max, keepalive_expiry=_KEEP_SECONDS)}
    if not place_of(options).https:
        # One that trusts nobody: reading the machine's certificates would take 100 ms for nothing.
        extra["verify"] = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if key:
        # Not as `api_key`: that warns about plain http in all processes; `perdure doctor` says it once.
        extra["headers"] = {"api-key": key}
    timeout = math.ceil(options.timeout_ms / 1000)
    client = AsyncQdrantClient(url=options.url, timeout=timeout, check_compatibility=False, **extra)
    client.http.client.add_middleware(_limit_connecting)
    return client


async def _limit_connecting(request: httpx.Request, send: Callable[[httpx.Request], Awaitable[Any]]) -> Any:
    """Have httpx give up connecting by itself: a handshake that is cancelled from outside leaves its socket open."""
    limit = connect_seconds.get()
    if limit is not None:
        limits = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {**limits, "connect": min(limit, limits.get("connect") or limit)}
    return await send(request)


class Embedded:
    """The driver's embedded mode: all points in memory and in a folder, for one process.

    Its methods are coroutines that never wait, so on the loop each would stop all jobs. They run in one thread, one
    after the other; who is cancelled stops waiting, but what has begun there goes on to its end.
    """

    def __init__(self, folder: str) -> None:
        self.key = ""
        self._folder = Path(folder)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="qdrant-embedded")
        self._runner: asyncio.Runner | None = None
        self._client: AsyncQdrantClient | None = None

    async def open(self) -> None:
        """Lock the folder and read all points. Raises Unavailable when another process has it open; OSError."""
        try:
            await self._do(self._open)
        except BaseException:
            self._thread.shutdown(wait=False)
            raise

    async def run(self, ask: Ask[R]) -> R:
        """Await what `ask` makes of the client, in the thread."""
        result: R = await self._do(self._drive, ask)
        return result

    async def close(self) -> None:
        """Close the files and unlock the folder, after what is under way."""
        await self._do(self._close)
        self._thread.shutdown(wait=False)

    async def _do(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    # --- in the thread

    def _open(self) -> None:
        from qdrant_client import AsyncQdrantClient

        # Looked at first, because the driver reads all points before it finds out.
        if is_locked(self._folder):
            raise _in_use(self._folder)
        try:
            self._client = AsyncQdrantClient(path=str(self._folder))
        except RuntimeError as exc:
            if "already accessed" in str(exc):
                raise _in_use(self._folder) from exc
            raise
        self._runner = asyncio.Runner()

    def _drive(self, ask: Ask[R]) -> R:
        if self._client is None or self._runner is None:
            raise Unavailable(f"the embedded Qdrant in {self._folder} was closed")
        return self._runner.run(_await(ask, self._client))

    def _close(self) -> None:
        if self._client is not None and self._runner is not None:
            self._runner.run(self._client.close())
            self._runner.close()
            self._client = self._runner = None


async def _await(ask: Ask[R], client: AsyncQdrantClient) -> R:
    return await ask(client)


def is_locked(folder: Path) -> bool:
    """Whether a process has the folder of an embedded Qdrant open."""
    with contextlib.suppress(FileNotFoundError), (folder / ".lock").open("r+b") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _in_use(folder: Path) -> Unavailable:
    return Unavailable(
        f"another process has {folder} (qdrant.path) open: the embedded Qdrant serves one process only. Run one worker,"
        " or a Qdrant server, and set qdrant.url instead of qdrant.path"
    )
