"""One client of a server: its calls in flight, their deadlines and their answers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from perdure.errors import CallTimeout, DaemonStopping, PerdureError, ProtocolError
from perdure.wire import codec, packet
from perdure.wire.channel import Channel
from perdure.wire.envelope import Call, Cancel, Event, Reply, WithDescriptors
from perdure.wire.peer import Peer

#: Answers waiting for a slow client, in bytes, above which its questions wait too.
PENDING_BYTES = 1024 * 1024
#: How often to look whether a client has taken a large answer; the kernel does not tell.
READ_POLL_SECONDS = 0.005

#: Answers a request: a value, or an awaitable for one.
Handler = Callable[[Any, Peer], Any]


class _Running:
    """A call whose answer is awaited. `answered`: it has had its answer, or nobody wants one."""

    __slots__ = ("answered", "future", "timer")

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self.future = future
        self.timer: asyncio.TimerHandle | None = None
        self.answered = False

    def drop(self) -> None:
        """Nobody wants the answer any more: stop working on it."""
        if self.answered:
            # Once is enough: a second cancel would hit the task while it cleans up.
            return
        self.answered = True
        if self.timer is not None:
            self.timer.cancel()
        self.future.cancel()


class Session:
    """Runs the calls of one client. Made by the Server for each peer that may connect.

    `on_end(session)` is called once, when the client is gone; calls that are still ending keep themselves in
    `running`, which is the server's. `report(peer, error)` hears of garbage and of handlers' unexpected errors.
    """

    def __init__(
        self,
        sock: socket.socket,
        peer: Peer,
        *,
        handler: Handler,
        decoder: packet.Decoder[Any],
        on_event: Callable[[Any, Peer], object] | None,
        on_end: Callable[[Session], object],
        report: Callable[[Peer, Exception], object],
        running: set[asyncio.Future[Any]],
        loop: asyncio.AbstractEventLoop,
        max_calls: int,
        max_message_bytes: int,
        max_fds: int,
    ) -> None:
        self.peer = peer
        self.calls: dict[int, _Running] = {}
        self._handler = handler
        self._on_event = on_event
        self._on_end = on_end
        self._report = report
        self._running = running
        self._loop = loop
        self._max_calls = max_calls
        self._unread = False
        self.channel: Channel[Any] = Channel(
            sock,
            decoder,
            self._on_message,
            self._closed,
            loop=loop,
            max_message_bytes=max_message_bytes,
            max_send_bytes=packet.OWN_MESSAGE_BYTES,
            max_fds=max_fds,
            on_drained=self._adjust_reading,
            farewell=codec.farewell,
        )

    def turn_away(self, error: PerdureError) -> None:
        """Say why, and end the connection."""
        self.channel.send(codec.fault(0, error))
        self.channel.close(error)

    # --- questions

    def _on_other(self, message: Any) -> None:
        if isinstance(message, Cancel):
            self._cancel(message.id)
        elif isinstance(message, Event) and self._on_event is not None:
            self._on_event(message.body, self.peer)
        else:
            self.turn_away(ProtocolError(f"a {type(message).__name__} is not expected here"))

    def _on_message(self, call: Any) -> None:
        if not isinstance(call, Call):
            self._on_other(call)
            return
        if call.id in self.calls:
            self.turn_away(ProtocolError(f"two calls have the id {call.id}"))
            return
        try:
            result = self._handler(call.body, self.peer)
            future = self._as_future(result)
        except Exception as exc:
            self._fail(call.id, exc)
            return
        if future is None:
            self._answer(call.id, result)
            return
        running = self.calls[call.id] = _Running(future)
        self._running.add(future)
        if future.done():
            self._finish(call.id, running, future)
            return
        if call.deadline_ms is not None:
            running.timer = self._loop.call_later(call.deadline_ms / 1000, self._expire, call.id)
        future.add_done_callback(partial(self._finish, call.id, running))
        calls = len(self.calls)
        self.channel.look_for_more = calls > 1  # who waits for each answer has sent no more
        if calls >= self._max_calls:
            self._adjust_reading()

    def _as_future(self, result: object) -> asyncio.Future[Any] | None:
        """What to wait for; None if the result is the answer itself."""
        if isinstance(result, asyncio.Future):
            return result
        if isinstance(result, Awaitable):
            return asyncio.ensure_future(result, loop=self._loop)
        return None

    def _cancel(self, call_id: int) -> None:
        running = self.calls.get(call_id)
        if running is not None:
            running.drop()

    def _expire(self, call_id: int) -> None:
        self._fail(call_id, CallTimeout("the daemon had no answer within the deadline"))
        self.calls[call_id].drop()

    def _adjust_reading(self) -> None:
        """Let the client wait while it has too much going on, or does not read its answers."""
        if self.channel.closed:
            return
        waiting = self._unread or self.channel.pending_bytes > PENDING_BYTES
        busy = len(self.calls) >= self._max_calls or waiting
        if busy != self.channel.paused:
            if busy:
                self.channel.pause_reading()
            else:
                self.channel.resume_reading()

    # --- answers

    def _finish(self, call_id: int, running: _Running, future: asyncio.Future[Any]) -> None:
        self._running.discard(future)
        self.calls.pop(call_id, None)
        if running.timer is not None:
            running.timer.cancel()
        # Asked in any case: an exception that nobody looks at is complained about by the loop.
        error = None if future.cancelled() else future.exception()
        if not running.answered:
            if future.cancelled():
                self._fail(call_id, DaemonStopping("the daemon dropped this request. Try again."))
            elif error is not None:
                self._fail(call_id, error)
            else:
                self._answer(call_id, future.result())
        elif error is None and not future.cancelled():
            _discard(future.result())
        if self.channel.paused or self.channel.pending_bytes:
            self._adjust_reading()

    def _answer(self, call_id: int, result: object) -> None:
        fds: Sequence[int] = ()
        if isinstance(result, WithDescriptors):
            fds = result.fds
            result = result.body
        try:
            data = packet.encode(Reply(call_id, result))
            self.channel.send_encoded(data, fds)
        except Exception as exc:
            self._fail(call_id, exc)
            return
        finally:
            if fds:
                packet.close_all(fds)
        if fds or len(data) > packet.INLINE_BYTES:
            self._await_reader()
        elif self.channel.pending_bytes:
            self._adjust_reading()

    def _await_reader(self) -> None:
        """A large answer lies in memory that counts nowhere until the client takes it: until then it may not ask.

        The same for descriptors: the kernel lets only so many of a user's be on their way, to all clients together.
        """
        self._unread = not self.channel.closed and self.channel.unread_bytes() > 0
        if self._unread:
            self._loop.call_later(READ_POLL_SECONDS, self._await_reader)
        self._adjust_reading()

    def _fail(self, call_id: int, error: BaseException) -> None:
        if isinstance(error, Exception) and not isinstance(error, PerdureError):
            self._report(self.peer, error)
        self.channel.send(codec.fault(call_id, error))

    def _closed(self, cause: Exception | None) -> None:
        for running in list(self.calls.values()):
            running.drop()
        if cause is not None:
            self._report(self.peer, cause)
        self._on_end(self)


def _discard(result: object) -> None:
    """Nobody wants this answer any more."""
    if isinstance(result, WithDescriptors):
        packet.close_all(result.fds)
