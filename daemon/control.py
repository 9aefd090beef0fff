"""The control socket: who may connect, and where their requests go."""

from __future__ import annotations

import grp
import os
import socket
from collections.abc import Awaitable
from typing import Any

from perdure.config.settings import Settings
from perdure.daemon.supervisor import Supervisor
from perdure.errors import ConfigError, DaemonStopping, PerdureError
from perdure.log import get_logger
from perdure.wire.control import ClientEvent
from perdure.wire.peer import Peer, owner_or_group
from perdure.wire.server import Server

log = get_logger()

#: How long followers may take to hear the last news, and then how long answers that say goodbye may take.
FAREWELL_SECONDS = 1.0


class ControlSocket:
    """An async context: while it is open, clients are served."""

    def __init__(self, settings: Settings, supervisor: Supervisor, inherited: list[int]) -> None:
        self._settings = settings
        self._supervisor = supervisor
        self._inherited = inherited
        self._group = _group_id(settings.daemon.socket_group)
        self._server: Server | None = None

    async def __aenter__(self) -> ControlSocket:
        path = self._settings.paths.socket
        daemon = self._settings.daemon
        self._server = Server(
            str(path),
            self._handle,
            owner_or_group(os.geteuid(), self._group),
            mode=daemon.socket_mode,
            group=daemon.socket_group,
            on_event=self._granted,
            on_gone=self._supervisor.hub.gone,
            report=_report,
        )
        self._supervisor.service.clients = self._server
        if self._inherited:
            self._server.adopt(socket.socket(fileno=self._inherited[0]))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            # Whoever waits for a job is told why nothing more comes, before the connection is gone.
            self._server.stop_listening()
            self._supervisor.waiters.close(DaemonStopping())
            await self._supervisor.hub.tell_the_rest(FAREWELL_SECONDS)
            self._supervisor.hub.close()
            await self._server.settle(FAREWELL_SECONDS)
            self._server.close(DaemonStopping())
            await self._server.wait_closed()

    def _handle(self, request: Any, peer: Peer) -> Awaitable[Any]:
        self._supervisor.lag.busy()
        return self._supervisor.service.handle(request, peer)

    def _granted(self, event: ClientEvent, peer: Peer) -> None:
        self._supervisor.hub.granted(event, peer)


def _group_id(name: str) -> int | None:
    if not name:
        return None
    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(f'daemon.socket_group: there is no group "{name}" on this machine') from None


def _report(peer: Peer, error: Exception) -> None:
    """Peers turned away, garbage, and what no handler should raise."""
    if isinstance(error, PerdureError):
        log.warning("control.refused", pid=peer.pid, uid=peer.uid, reason=str(error))
    else:
        log.error("control.failed", pid=peer.pid, uid=peer.uid, reason=repr(error), exc_info=error)
