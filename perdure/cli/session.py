"""The way to the queue: through the daemon's socket or, when no daemon runs, on the file under the lock."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure.errors import CallTimeout, DaemonUnreachable, StoreLocked
from perdure.wire.packet import close_all

if TYPE_CHECKING:
    from perdure.config.settings import Settings
    from perdure.wire.control import Request, Subscribe
    from perdure.wire.streams import News

#: A daemon that runs accepts at once; one that is busy starting does so when it is ready.
_CONNECT_SECONDS = 5.0
#: How long to wait for another command, or a daemon that is just starting, to let go of the file or to listen.
_LOCK_SECONDS = 5.0
_LOCK_POLL_SECONDS = 0.02
#: What an answer may take on top of the time for which the daemon waits for room on a full disk, or for a job that is
#: cancelled.
_ANSWER_SECONDS = 30.0


class Session:
    """An open way to the queue: over a BlockingCaller or a LocalQueue.

    `live`: a daemon answers; otherwise this process holds the lock and does the work.
    """

    def __init__(self, requester: Any, *, live: bool, answer_seconds: float = _ANSWER_SECONDS) -> None:
        self._requester = requester
        self._answer_seconds = answer_seconds
        self.live = live

    def request(self, request: Request, timeout_s: float | None = None) -> Any:
        """The answer to one request. `timeout_s`: seconds, default what an ordinary request may take.

        Raises what the other side reports, ChannelClosed, and CallTimeout.
        """
        answer, fds = self.request_with_fds(request, timeout_s)
        close_all(fds)
        return answer

    def request_with_fds(
        self, request: Request, timeout_s: float | None = None, fds: Sequence[int] = (), extra_s: float = 0.0
    ) -> tuple[Any, list[int]]:
        """As `request`, with copies of `fds` sent along; the answer, and descriptors that the caller closes.

        `extra_s`: what it may take longer than an ordinary request.
        """
        if not self.live:
            return self._requester.request_with_fds(request, fds=fds)  # type: ignore[no-any-return]
        limit = self._answer_seconds + extra_s if timeout_s is None else timeout_s
        try:
            return self._requester.request_with_fds(request, timeout_s=limit, fds=fds)  # type: ignore[no-any-return]
        except CallTimeout:
            if timeout_s is not None:
                raise
            raise CallTimeout(
                f"the daemon did not answer within {limit:.0f}s; whether it did what was asked is not known. "
                "See `perdure status` and `perdure doctor`"
            ) from None

    @contextlib.contextmanager
    def subscription(self, request: Subscribe) -> Iterator[Iterator[News]]:
        """The news of a subscription; requests may be made in between. Only where a daemon answers."""
        with self._requester.subscription(request, self._answer_seconds) as news:
            yield news

    def close(self) -> None:
        """Hang up, or give the file back."""
        self._requester.close()


def load(config: Path | None) -> Settings:
    """The settings that hold here; `config` is what --config names. Raises ConfigError."""
    from perdure.config.settings import find_config, load_settings

    return load_settings(find_config(config, os.environ, Path.cwd()), os.environ)


@contextlib.contextmanager
def open_queue(config: Path | None, *, local: bool = True, create: bool = False) -> Iterator[Session]:
    """A session on the queue of this configuration, closed at the end of the block. See `connect`."""
    session = connect(load(config), local=local, create=create)
    try:
        yield session
    finally:
        session.close()


def connect(settings: Settings, *, local: bool = True, create: bool = False) -> Session:
    """Open the way to the queue. `local`: on the file if no daemon runs; `create`: also if there is no file yet.

    Raises DaemonUnreachable: no daemon and `local` is not allowed, no file, or the file is held by one that does not
    answer. Raises Forbidden, and the errors of the store.
    """
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return _connect_live(settings)
        except DaemonUnreachable as error:
            if not local:
                raise
            unreachable = error
        _check_file(settings, create)
        try:
            return _open_file(settings)
        except StoreLocked as locked:
            if time.monotonic() > deadline:
                raise DaemonUnreachable(f"{unreachable}\nThe file cannot be used directly either: {locked}") from None
        time.sleep(_LOCK_POLL_SECONDS)


def reconnect(settings: Settings, seconds: float) -> Session:
    """A new session with a daemon that is being restarted, waiting for it up to `seconds`. Raises DaemonUnreachable."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return _connect_live(settings)
        except DaemonUnreachable:
            if time.monotonic() > deadline:
                raise
        time.sleep(_LOCK_POLL_SECONDS)


def _connect_live(settings: Settings) -> Session:
    from perdure.wire.blocking import BlockingCaller

    caller = BlockingCaller.connect(str(settings.paths.socket), timeout_s=_CONNECT_SECONDS)
    longest_ms = settings.store.full_disk_wait_ms + settings.workers.cancel_grace_ms
    return Session(caller, live=True, answer_seconds=_ANSWER_SECONDS + longest_ms / 1000)


def _open_file(settings: Settings) -> Session:
    from perdure.daemon.local import open_local

    return Session(open_local(settings), live=False)


def _check_file(settings: Settings, create: bool) -> None:
    """Without a configuration, a typing error in a folder's name must not leave a new queue there, with a job that
    nobody will ever run."""
    db = settings.paths.db
    if db.exists() or (create and settings.source is not None):
        return
    raise DaemonUnreachable(
        f"no daemon is running here, and there is no queue at {db}. "
        "Start one with `perdure run`, go to its folder, or name its configuration with --config"
    )
