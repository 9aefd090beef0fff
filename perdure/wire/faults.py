"""Errors as data, and back. Nothing is ever unpickled: only the classes of `perdure.errors` come to life again."""

from __future__ import annotations

from perdure import errors
from perdure.errors import PerdureError, RemoteError
from perdure.wire.data import ErrorData

#: How many errors a chain of causes keeps, the first one included.
MOST_CAUSES = 5

#: The longest message kept, in characters.
MESSAGE_CHARS = 8 * 1024

#: The longest traceback kept, in bytes; its middle is left out.
TRACEBACK_BYTES = 16 * 1024

#: How much of a too long traceback's beginning is kept. The end says more: the innermost frames and the error.
_HEAD_BYTES = 4 * 1024


def to_data(error: BaseException, with_traceback: bool = False) -> ErrorData:
    """Describe an exception. Never raises, whatever the exception does when it is asked.

    The traceback (of the whole chain, as Python prints it) goes with the first error only.
    """
    data = _to_data(error, MOST_CAUSES)
    if with_traceback:
        data.traceback = _traceback(error)
    return data


def to_exception(data: ErrorData) -> PerdureError:
    """The exception that fits: the class of that name in `perdure.errors`, else RemoteError."""
    error = _known(data)
    if error is None:
        error = RemoteError(
            f"{data.type}: {data.message}" if data.message else data.type,
            remote_type=data.type,
            remote_message=data.message,
            remote_retryable=data.retryable,
        )
    error.remote_traceback = data.traceback
    if data.cause is not None:
        error.__cause__ = to_exception(data.cause)
    return error


def encodable(text: str) -> str:
    r"""The text with lone surrogates, which no encoding can carry, written as \udcxx."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="backslashreplace").decode()
    return text


def _to_data(error: BaseException, causes_left: int) -> ErrorData:
    cause = _cause(error) if causes_left > 1 else None
    cause_data = None if cause is None else _to_data(cause, causes_left - 1)
    if isinstance(error, RemoteError) and error.remote_type:
        return ErrorData(
            type=encodable(error.remote_type),
            message=encodable(error.remote_message),
            retryable=error.remote_retryable,
            traceback=error.remote_traceback,
            cause=cause_data,
        )
    return ErrorData(
        type=encodable(type(error).__name__),
        message=_message(error),
        retryable=_retryable(error),
        traceback=error.remote_traceback if isinstance(error, PerdureError) else None,
        cause=cause_data,
    )


def _cause(error: BaseException) -> BaseException | None:
    if error.__cause__ is not None:
        return error.__cause__
    return None if error.__suppress_context__ else error.__context__


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as exc:
        return f"(its message cannot be had: __str__ raised {encodable(type(exc).__name__)})"
    if len(text) > MESSAGE_CHARS:
        text = f"{text[:MESSAGE_CHARS]}… ({len(text) - MESSAGE_CHARS} characters left out)"
    return encodable(str(text))


def _retryable(error: BaseException) -> bool | None:
    try:
        value = getattr(type(error), "retryable", None)
    except Exception:
        return None
    return value if isinstance(value, bool) else None


def _traceback(error: BaseException) -> str:
    # Only now: it brings in linecache and tokenize, which a command that shows no traceback need not load.
    import traceback

    try:
        text = encodable("".join(traceback.format_exception(error)))
    except Exception as exc:
        text = f"(its traceback cannot be had: {encodable(type(exc).__name__)})"
    remote = error.remote_traceback if isinstance(error, PerdureError) else None
    if remote:
        text = f"{encodable(remote)}\nThat was on the other side; here:\n\n{text}"
    return _without_middle(text)


def _without_middle(text: str) -> str:
    raw = text.encode()
    if len(raw) <= TRACEBACK_BYTES:
        return text
    note = f"\n… {len(raw) - TRACEBACK_BYTES} bytes left out …\n"
    tail_bytes = TRACEBACK_BYTES - _HEAD_BYTES - len(note.encode())
    return raw[:_HEAD_BYTES].decode(errors="ignore") + note + raw[-tail_bytes:].decode(errors="ignore")


def _known(data: ErrorData) -> PerdureError | None:
    found = getattr(errors, data.type, None)
    if not isinstance(found, type) or not issubclass(found, PerdureError) or found is RemoteError:
        return None
    try:
        return found(data.message)
    except TypeError:
        return None
