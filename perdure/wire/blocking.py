"""The asking side of a connection for code without an event loop: the command line, synchronous handlers.

It must not import asyncio: the command line is run in shell loops.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable
from typing import Any

import msgspec

from perdure.errors import CallTimeout, ChannelClosed
from perdure.wire import codec, packet, reach
from perdure.wire.endpoint import BlockingEndpoint
from perdure.wire.envelope import Call, Cancel, Event, Fault, Reply


class BlockingCaller:
    """One question at a time to the daemon. Not for several threads at once.

    `on_event(body)`, if set, gets the still encoded body of each event that arrives while an answer is awaited.
    """

    def __init__(self, endpoint: BlockingEndpoint[codec.Answer]) -> None:
        self._endpoint = endpoint
        self._ids = itertools.count(1)
        self.on_event: Callable[[msgspec.Raw], object] | None = None

    @classmethod
    def connect(cls, path: str, timeout_s: float = reach.CONNECT_SECONDS) -> BlockingCaller:
        """Connect to the daemon's control socket. Raises DaemonUnreachable, Forbidden or ConfigError."""
        deadline = time.monotonic() + timeout_s
        while (sock := reach.connect_once(path)) is None:
            if time.monotonic() >= deadline:
                raise reach.too_busy(path, timeout_s)
            time.sleep(reach.RETRY_SECONDS)
        return cls(BlockingEndpoint(sock, codec.answer_decoder(), max_fds=0))

    def request(self, request: object, timeout_s: float | None = None) -> Any:
        """Ask and wait for the answer, of the type that `control.REPLIES` names.

        Raises CallTimeout after `timeout_s` seconds, ChannelClosed, UsageError for a request that is too large, and
        what the daemon's Fault carries.
        """
        kind = codec.reply_type(request)
        call_id = next(self._ids)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        call = packet.encode(Call(call_id, None if timeout_s is None else math.ceil(timeout_s * 1000), request))
        packet.check_size(call, packet.CLIENT_MESSAGE_BYTES)
        if self._endpoint.fileno() < 0:
            raise ChannelClosed("this connection was closed here; make a new one")
        try:
            answer = self._exchange(call_id, call, deadline)
        except TimeoutError as exc:
            self._cancel(call_id)
            raise CallTimeout(f"no answer within {timeout_s:g} s") from exc
        except KeyboardInterrupt:
            self._cancel(call_id)
            raise
        return codec.open_answer(answer, kind)

    def fileno(self) -> int:
        """The socket's descriptor, to ask whether the other side is still there; -1 when closed."""
        return self._endpoint.fileno()

    def close(self) -> None:
        """End the connection; again is harmless."""
        self._endpoint.close()

    def __enter__(self) -> BlockingCaller:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _exchange(self, call_id: int, call: bytes, deadline: float | None) -> Reply[msgspec.Raw] | Fault:
        # When the daemon has turned us away, sending fails, and the reason is still there to be read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._endpoint.send_encoded(call, timeout_s=_left(deadline))
        while (received := self._endpoint.recv(_left(deadline))) is not None:
            message = received[0]
            if isinstance(message, Event):
                if self.on_event is not None:
                    self.on_event(message.body)
            elif message.id == call_id or (message.id == 0 and isinstance(message, Fault)):
                return message
        raise ChannelClosed

    def _cancel(self, call_id: int) -> None:
        with contextlib.suppress(OSError):
            self._endpoint.send(Cancel(call_id), timeout_s=0)


def _left(deadline: float | None) -> float | None:
    """Seconds until the deadline; raises TimeoutError when there are none."""
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
