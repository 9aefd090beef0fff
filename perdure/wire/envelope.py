"""What is around a message when questions and answers must be matched.

Channels between the supervisor and its workers use no envelope: their messages are events in both directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Generic, TypeVar

from msgspec import Meta, Struct

from perdure.wire.data import ErrorData

T = TypeVar("T")

#: Numbers that the asking side chooses, each once per connection.
CallId = Annotated[int, Meta(ge=1, le=2**63 - 1)]

#: 0 stands for the connection as a whole.
FaultId = Annotated[int, Meta(ge=0, le=2**63 - 1)]

#: Milliseconds from the moment of sending; a year at most, which every timer can hold.
DeadlineMs = Annotated[int, Meta(ge=0, le=366 * 86_400_000)]


class Call(Struct, Generic[T], array_like=True, tag="call"):
    """A question. `deadline_ms`: after so many milliseconds nobody waits for the answer; None: for ever."""

    id: CallId
    deadline_ms: DeadlineMs | None
    body: T


class Reply(Struct, Generic[T], array_like=True, tag="reply"):
    """The answer to the call with this id."""

    id: CallId
    body: T


class Fault(Struct, array_like=True, tag="fault"):
    """The call with this id failed; id 0: the connection failed, and ends."""

    id: FaultId
    error: ErrorData


class Cancel(Struct, array_like=True, tag="cancel"):
    """Nobody waits for this call any more. It gets no answer, or one that is ignored."""

    id: CallId


class Event(Struct, Generic[T], array_like=True, tag="event"):
    """Something to know; there is no answer."""

    body: T


class WithDescriptors:
    """What a server's handler answers with to pass descriptors along: the answer's body, and `fds`.

    They are the server's from then on: it closes them once the answer is sent, and also when nobody wants it any more.
    """

    __slots__ = ("body", "fds")

    def __init__(self, body: object, fds: Sequence[int]) -> None:
        self.body = body
        self.fds = fds
