"""The asking side of a connection, on an event loop."""

from __future__ import annotations

import asyncio
import itertools
import math
import socket
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from perdure.errors import CallTimeout, ChannelClosed
from perdure.wire import codec, packet, reach
from perdure.wire.channel import Channel
from perdure.wire.data import ErrorData
from perdure.wire.envelope import Call, Cancel, Event, Fault, Reply
from perdure.wire.faults import to_data, to_exception
from perdure.wire.mailroom import Mailroom


class Caller:
    """Asks questions over a socket, which it owns; any number at the same time. Use it only in the loop's thread.

    `on_event(body)` gets the still encoded body of each event from the other side, unless there are subscriptions,
    whose news these are then (`mailroom`, see subscription.subscribe). `on_close(cause)` is called once.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        max_message_bytes: int = packet.OWN_MESSAGE_BYTES,
        max_request_bytes: int | None = None,
        on_event: Callable[[msgspec.Raw], object] | None = None,
        on_close: Callable[[Exception | None], object] | None = None,
    ) -> None:
        self._loop = loop or asyncio.get_running_loop()
        self._ids = itertools.count(1)
        self._on_event = on_event
        self._on_close = on_close
        #: Why no more calls can be made.
        self._end: ErrorData | None = None
        #: The calls that are waiting, by id.
        self.pending: dict[int, asyncio.Future[Reply[msgspec.Raw] | Fault]] = {}
        #: Descriptors that have come with answers whose callers have not run since.
        self._arrived: dict[int, list[int]] = {}
        self.mailroom: Mailroom | None = None
        self.channel: Channel[codec.Answer] = Channel(
            sock,
            codec.answer_decoder(),
            self._on_message,
            self._closed,
            loop=self._loop,
            max_message_bytes=max_message_bytes,
            max_send_bytes=max_request_bytes,
            max_fds=packet.MOST_FDS,
        )

    @property
    def closed(self) -> bool:
        """Whether the connection has ended."""
        return self.channel.closed

    def fileno(self) -> int:
        """The socket's descriptor, to ask whether the other side is still there; -1 when closed."""
        return self.channel.fileno()

    async def call(
        self, body: object, timeout_s: float | None = None, *, reply: Any = Any, fds: Sequence[int] = ()
    ) -> Any:
        """Ask and wait for the answer, decoded as the type `reply`. Copies of `fds` go with the question.

        Raises CallTimeout after `timeout_s` seconds, ChannelClosed (or the other side's reason) when the connection
        ends, UsageError for a question that is too large, and what the other side's Fault carries. However it ends, it
        is out of `pending`, and the other side learns when nobody waits any more. Descriptors that come with the answer
        are closed.
        """
        answer, received = await self.call_with_fds(body, timeout_s, reply=reply, fds=fds)
        packet.close_all(received)
        return answer

    async def call_with_fds(
        self, body: object, timeout_s: float | None = None, *, reply: Any = Any, fds: Sequence[int] = ()
    ) -> tuple[Any, list[int]]:
        """As `call`; the answer and the descriptors that came with it, which the caller closes."""
        if self._end is not None:
            raise to_exception(self._end)
        call_id = next(self._ids)
        data = packet.encode(Call(call_id, None if timeout_s is None else math.ceil(timeout_s * 1000), body))
        future: asyncio.Future[Reply[msgspec.Raw] | Fault] = self._loop.create_future()
        timer = None if timeout_s is None else self._loop.call_later(timeout_s, _expire, future, timeout_s)
        self.pending[call_id] = future
        try:
            self.channel.send_encoded(data, fds)
            answer = codec.open_answer(await future, reply)
        except BaseException:
            packet.close_all(self._arrived.pop(call_id, ()))
            raise
        finally:
            if timer is not None:
                timer.cancel()
            if self.pending.pop(call_id, None) is not None:
                self.channel.send(Cancel(call_id))
        return answer, self._arrived.pop(call_id, [])

    async def request(self, request: object, timeout_s: float | None = None, fds: Sequence[int] = ()) -> Any:
        """Ask the daemon; the answer has the type that `control.REPLIES` names. Raises as `call` does."""
        return await self.call(request, timeout_s, reply=codec.reply_type(request), fds=fds)

    async def request_with_fds(
        self, request: object, timeout_s: float | None = None, fds: Sequence[int] = ()
    ) -> tuple[Any, list[int]]:
        """As `request`; the answer and the descriptors that came with it, which the caller closes."""
        return await self.call_with_fds(request, timeout_s, reply=codec.reply_type(request), fds=fds)

    def post(self, request: object) -> None:
        """Ask for something to be done, without waiting for the answer. Nothing happens if the connection has ended."""
        self.channel.send(Call(next(self._ids), None, request))

    def event(self, body: object) -> bool:
        """Tell something without waiting for anything. False: nobody is there to hear it."""
        return self.channel.send(Event(body))

    def close(self) -> None:
        """End the connection; waiting calls fail with ChannelClosed."""
        self.channel.close()

    async def __aenter__(self) -> Caller:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def _on_message(self, message: codec.Answer) -> None:
        if isinstance(message, Event):
            if self.mailroom is not None:
                self.mailroom.deliver(message.body)
            elif self._on_event is not None:
                self._on_event(message.body)
            return
        if message.id == 0 and isinstance(message, Fault):
            self._end = message.error
            self.channel.close(to_exception(message.error))
            return
        future = self.pending.get(message.id)
        # A call that has timed out or was cancelled stays in the table until its task has run; it must still send
        # its Cancel or not, so only a live one is taken out here.
        if future is not None and not future.done():
            del self.pending[message.id]
            self.channel.look_for_more = len(self.pending) > 0
            if fds := self.channel.take_fds():
                self._arrived[message.id] = fds
            future.set_result(message)

    def _closed(self, cause: Exception | None) -> None:
        if self._end is None:
            self._end = to_data(ChannelClosed(None if cause is None else f"the connection ended: {cause}"))
        for future in self.pending.values():
            if not future.done():
                # One of its own for each: a raised exception collects the traceback of who raises it.
                future.set_exception(to_exception(self._end))
        self.pending.clear()
        if self.mailroom is not None:
            self.mailroom.close(self._end)
        if self._on_close is not None:
            self._on_close(cause)


async def connect(
    path: str,
    timeout_s: float = reach.CONNECT_SECONDS,
    *,
    on_event: Callable[[msgspec.Raw], object] | None = None,
    on_close: Callable[[Exception | None], object] | None = None,
) -> Caller:
    """A Caller on the daemon's control socket. Raises DaemonUnreachable, Forbidden or ConfigError."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while (sock := reach.connect_once(path)) is None:
        if loop.time() >= deadline:
            raise reach.too_busy(path, timeout_s)
        await asyncio.sleep(reach.RETRY_SECONDS)
    return Caller(sock, max_request_bytes=packet.CLIENT_MESSAGE_BYTES, on_event=on_event, on_close=on_close)


def _expire(future: asyncio.Future[Any], timeout_s: float) -> None:
    if not future.done():
        future.set_exception(CallTimeout(f"no answer within {timeout_s:g} s"))
