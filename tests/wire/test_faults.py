"""Errors cross a channel as data, whatever they are, and come out as the class that fits."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure import errors
from perdure.errors import Duplicate, NotFound, PerdureError, RemoteError, StoreFull
from perdure.wire import faults
from perdure.wire.data import ErrorData
from perdure.wire.envelope import Call, Cancel, Event, Fault, Reply


def caught(error: BaseException, cause: BaseException | None = None) -> BaseException:
    """The error with a traceback, as if it had just been raised."""
    try:
        raise error from cause
    except BaseException as exc:
        return exc


TREE = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, PerdureError)]


@pytest.mark.parametrize("kind", [one for one in TREE if one is not RemoteError])
def test_each_class_of_the_tree_comes_back(kind: type[PerdureError]) -> None:
    """A client could not tell `Duplicate` from `NotFound`."""
    data = faults.to_data(kind("what happened"))
    back = faults.to_exception(data)
    assert type(back) is kind
    assert str(back) == "what happened"
    assert data.retryable is kind.retryable


def test_an_unknown_class_keeps_its_name() -> None:
    """A handler's own error would come out as something without a name."""
    back = faults.to_exception(faults.to_data(ValueError("bad")))
    assert isinstance(back, RemoteError)
    assert (str(back), back.remote_type, back.remote_message) == ("ValueError: bad", "ValueError", "bad")
    assert faults.to_data(back) == faults.to_data(ValueError("bad"))


@pytest.mark.parametrize("name", ["inspect", "ClassVar", "__doc__", "object", "RemoteError", "no such", "", "é\n"])
def test_only_errors_come_to_life(name: str) -> None:
    """A hostile peer could name any object of the module."""
    assert type(faults.to_exception(ErrorData(name, "x"))) is RemoteError


def test_the_chain_of_causes_comes_along() -> None:
    """The reason behind the error would be lost."""
    data = faults.to_data(caught(NotFound("outer"), StoreFull("inner")))
    back = faults.to_exception(data)
    assert isinstance(back.__cause__, StoreFull)
    assert back.__cause__.__cause__ is None


def test_a_circle_of_causes_ends() -> None:
    """Two errors that name each other as the cause would recurse for ever."""
    one, two = ValueError("one"), KeyError("two")
    one.__cause__, two.__cause__ = two, one
    data: ErrorData | None = faults.to_data(one, with_traceback=True)
    depth = 0
    while data is not None:
        data, depth = data.cause, depth + 1
    assert depth == faults.MOST_CAUSES


def test_a_suppressed_context_stays_away() -> None:
    """`raise … from None` would be ignored."""
    error = ValueError("shown")
    error.__context__ = KeyError("hidden")
    assert faults.to_data(error).cause is not None
    assert faults.to_data(caught(error, None)).cause is None


class Hostile(Exception):
    """Fails at everything that one asks of an error."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


def test_an_error_that_cannot_be_described_does_not_spread() -> None:
    """A handler's broken `__str__` would take the worker down."""
    data = faults.to_data(caught(Hostile()), with_traceback=True)
    assert data.type == "Hostile"
    assert "__str__ raised RuntimeError" in data.message


def test_a_long_traceback_keeps_both_ends() -> None:
    """A traceback of megabytes would fill the store; one without its end would not say what happened."""
    data = faults.to_data(caught(ValueError("start " + "é" * 100_000 + " the end")), with_traceback=True)
    assert data.traceback is not None
    assert len(data.traceback.encode()) <= faults.TRACEBACK_BYTES
    assert data.traceback.startswith("Traceback")
    assert data.traceback.endswith("the end\n")
    assert len(data.message) < faults.MESSAGE_CHARS + 100


def test_the_remote_traceback_is_kept() -> None:
    """Nobody could see where on the other side it happened."""
    data = faults.to_data(caught(Duplicate("x")), with_traceback=True)
    back = faults.to_exception(data)
    assert back.remote_traceback == data.traceback
    assert "Duplicate" in (faults.to_data(caught(back), with_traceback=True).traceback or "")


@given(st.text(st.characters(codec=None, categories=None)), st.booleans())
def test_any_message_can_be_sent(message: str, with_traceback: bool) -> None:
    """A lone surrogate in a message would make the answer itself fail."""
    data = faults.to_data(caught(ValueError(message)), with_traceback)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(data), type=ErrorData) == data


# --- envelopes

BODIES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=10,
)
IDS = st.integers(1, 2**63 - 1)
ERRORS = st.builds(
    ErrorData, type=st.text(), message=st.text(), retryable=st.none() | st.booleans(), traceback=st.none() | st.text()
)
ENVELOPES = st.one_of(
    st.builds(Call, id=IDS, deadline_ms=st.none() | st.integers(0, 86_400_000), body=BODIES),
    st.builds(Reply, id=IDS, body=BODIES),
    st.builds(Fault, id=st.integers(0, 2**63 - 1), error=ERRORS),
    st.builds(Cancel, id=IDS),
    st.builds(Event, body=BODIES),
)
DECODER = msgspec.msgpack.Decoder(Call | Reply | Fault | Cancel | Event)


@given(ENVELOPES)
def test_envelopes_round_trip(envelope: object) -> None:
    """One kind of envelope would be taken for another, or change on its way."""
    assert DECODER.decode(msgspec.msgpack.encode(envelope)) == envelope


@pytest.mark.parametrize("call", [Call(0, None, 1), Call(-1, None, 1), Call(1, -1, 1), Call(1, 10**12, 1)])
def test_numbers_outside_their_range_are_refused(call: Call[int]) -> None:
    """An id that stands for the connection, or a deadline that no timer can hold, would be taken."""
    with pytest.raises(msgspec.ValidationError):
        DECODER.decode(msgspec.msgpack.encode(call))
