"""The asking side of a connection for code without an event loop: the command line, synchronous handlers.

It must not import asyncio: the command line is run in shell loops.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from perdure.errors import CallTimeout, ChannelClosed
from perdure.wire import codec, packet, reach
from perdure.wire.control import Subscribe, Subscribed, Unsubscribe
from perdure.wire.endpoint import BlockingEndpoint
from perdure.wire.envelope import Call, Cancel, Event, Fault, Reply
from perdure.wire.faults import to_data
from perdure.wire.mailroom import Inbox, Mailroom
from perdure.wire.streams import Grant, News

#: How long a message that nobody waits for may take to leave, when the daemon does not read.
POST_SECONDS = 1.0


class BlockingCaller:
    """One question at a time to the daemon. Not for several threads at once.

    `on_event(body)`, if set, gets the still encoded body of each event that arrives while an answer is awaited, unless
    there has been a subscription, whose news these are then.
    """

    def __init__(self, endpoint: BlockingEndpoint[codec.Answer]) -> None:
        self._endpoint = endpoint
        self._ids = itertools.count(1)
        self.on_event: Callable[[msgspec.Raw], object] | None = None
        self._mailroom: Mailroom | None = None
        #: Subscriptions that nobody waited for until the daemon had said yes.
        self._abandoned: set[int] = set()

    @classmethod
    def connect(cls, path: str, timeout_s: float = reach.CONNECT_SECONDS) -> BlockingCaller:
        """Connect to the daemon's control socket. Raises DaemonUnreachable, Forbidden or ConfigError."""
        deadline = time.monotonic() + timeout_s
        while (sock := reach.connect_once(path)) is None:
            if time.monotonic() >= deadline:
                raise reach.too_busy(path, timeout_s)
            time.sleep(reach.RETRY_SECONDS)
        return cls(BlockingEndpoint(sock, codec.answer_decoder(), max_fds=packet.MOST_FDS))

    def request(self, request: object, timeout_s: float | None = None, fds: Sequence[int] = ()) -> Any:
        """Ask and wait for the answer, of the type that `control.REPLIES` names. Copies of `fds` go with the question.

        Raises CallTimeout after `timeout_s` seconds, ChannelClosed, UsageError for a request that is too large, and
        what the daemon's Fault carries. Descriptors that come with the answer are closed.
        """
        answer, received = self.request_with_fds(request, timeout_s, fds)
        if received:
            packet.close_all(received)
        return answer

    def request_with_fds(
        self, request: object, timeout_s: float | None = None, fds: Sequence[int] = ()
    ) -> tuple[Any, list[int]]:
        """As `request`; the answer and the descriptors that came with it, which the caller closes."""
        kind = codec.reply_type(request)
        call_id = next(self._ids)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        call = packet.encode(Call(call_id, None if timeout_s is None else math.ceil(timeout_s * 1000), request))
        packet.check_size(call, packet.CLIENT_MESSAGE_BYTES)
        if self._endpoint.fileno() < 0:
            raise ChannelClosed("this connection was closed here; make a new one")
        try:
            answer, received = self._exchange(call_id, call, deadline, fds)
        except TimeoutError as exc:
            self._cancel(call_id, request)
            raise CallTimeout(f"no answer within {timeout_s:g} s") from exc
        except KeyboardInterrupt:
            self._cancel(call_id, request)
            raise
        try:
            return codec.open_answer(answer, kind), received
        except BaseException:
            packet.close_all(received)
            raise

    @contextlib.contextmanager
    def subscription(self, request: Subscribe, timeout_s: float | None = None) -> Iterator[Iterator[News]]:
        """`with caller.subscription(Subscribe(ids=[7])) as news: for message in news:`. As subscription.subscribe.

        `timeout_s` bounds the asking only. Other questions may be asked in between.
        """
        if self._mailroom is None:
            self._mailroom = Mailroom()
        self._mailroom.open(request.credit)
        try:
            answer: Subscribed = self.request(request, timeout_s)
        except BaseException:
            self._mailroom.given_up()
            raise
        number = answer.subscription
        inbox = self._mailroom.opened(number, request.credit)
        try:
            yield self._news(number, inbox)
        finally:
            self._mailroom.drop(number)
            if not inbox.finished:
                self._post(Unsubscribe(number))

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

    def _exchange(
        self, call_id: int, call: bytes, deadline: float | None, fds: Sequence[int]
    ) -> tuple[Reply[msgspec.Raw] | Fault, list[int]]:
        try:
            self._endpoint.send_encoded(call, fds, timeout_s=_left(deadline))
        except (BrokenPipeError, ConnectionResetError):
            pass  # the daemon has turned us away, and the reason is still there to be read
        while True:
            answer, received = self._receive(_left(deadline))
            if answer is not None and (answer.id == call_id or (answer.id == 0 and isinstance(answer, Fault))):
                return answer, received
            packet.close_all(received)

    def _receive(self, timeout_s: float | None) -> tuple[Reply[msgspec.Raw] | Fault | None, list[int]]:
        """The next message; None for what was dealt with here. Raises ChannelClosed, TimeoutError or ProtocolError."""
        came = self._endpoint.recv(timeout_s)
        if came is None:
            raise ChannelClosed
        message, fds = came
        if isinstance(message, Event):
            packet.close_all(fds)
            if self._mailroom is not None:
                self._mailroom.deliver(message.body)
            elif self.on_event is not None:
                self.on_event(message.body)
            return None, []
        if message.id in self._abandoned:
            self._abandoned.discard(message.id)
            if isinstance(message, Reply):
                self._post(Unsubscribe(codec.open_answer(message, Subscribed).subscription))
        return message, fds

    def _news(self, number: int, inbox: Inbox) -> Iterator[News]:
        while not inbox.finished:
            if granted := inbox.to_grant():
                with contextlib.suppress(OSError):
                    self._endpoint.send(Event(Grant(number, granted)))
            while not inbox.news:
                self._await_news(inbox)
            yield inbox.take()

    def _await_news(self, inbox: Inbox) -> None:
        """Read once, or raise why nothing more will come."""
        if (error := inbox.error()) is not None:
            raise error
        assert self._mailroom is not None
        try:
            answer, received = self._receive(None)
        except ChannelClosed as exc:
            self._mailroom.close(to_data(exc))
            return
        packet.close_all(received)
        if isinstance(answer, Fault) and answer.id == 0:
            self._mailroom.close(answer.error)

    def _post(self, request: object) -> None:
        """Ask for something to be done, without waiting for the answer; if the connection has ended, never mind."""
        with contextlib.suppress(OSError):
            self._endpoint.send(Call(next(self._ids), None, request), timeout_s=POST_SECONDS)

    def _cancel(self, call_id: int, request: object) -> None:
        with contextlib.suppress(OSError):
            self._endpoint.send(Cancel(call_id), timeout_s=0)
        if isinstance(request, Subscribe):
            self._abandoned.add(call_id)


def _left(deadline: float | None) -> float | None:
    """Seconds until the deadline; raises TimeoutError when there are none."""
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
