"""The decoders of the control socket, each built once and only when it is needed."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from msgspec import msgpack

from perdure.errors import ProtocolError
from perdure.wire import packet
from perdure.wire.control import REPLIES, ClientEvent, Request
from perdure.wire.envelope import Call, Cancel, Event, Fault, Reply
from perdure.wire.faults import to_data, to_exception

#: What the answering side of a connection sends. Bodies stay encoded until it is known what they should be.
Answer = Reply[msgspec.Raw] | Fault | Event[msgspec.Raw]


@cache
def answer_decoder() -> msgpack.Decoder[Answer]:
    """For the side that asks."""
    return msgpack.Decoder(Answer)


@cache
def control_decoder() -> msgpack.Decoder[Any]:
    """For the daemon's end of the control socket: Call[control.Request], Cancel or Event[control.ClientEvent]."""
    return msgpack.Decoder(Call[Request] | Cancel | Event[ClientEvent])


@cache
def body_decoder(kind: Any) -> msgpack.Decoder[Any]:
    """For one body of this type."""
    return msgpack.Decoder(kind)


def reply_type(request: object) -> Any:
    """The type of the answer to this control request."""
    return REPLIES[type(request)]


def open_answer(answer: Reply[msgspec.Raw] | Fault, kind: Any) -> Any:
    """The reply's body as `kind`; raises the error that a fault carries, or ProtocolError."""
    if isinstance(answer, Fault):
        raise to_exception(answer.error)
    return packet.decode(body_decoder(kind), bytes(answer.body))


def fault(call_id: int, error: BaseException, with_traceback: bool = False) -> Fault:
    """A fault for this call; 0 for the whole connection."""
    return Fault(call_id, to_data(error, with_traceback))


def farewell(error: ProtocolError) -> Fault:
    """What a peer hears that broke the protocol."""
    return fault(0, error)
