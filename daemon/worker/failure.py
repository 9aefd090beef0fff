"""An exception of a handler as data, with the traceback that its author wants to see."""

from __future__ import annotations

import importlib
import types
from pathlib import Path
from typing import Final

import perdure
from perdure.classify import is_retryable
from perdure.duration import parse_duration_ms
from perdure.errors import Retry
from perdure.wire.data import ErrorData
from perdure.wire.faults import MOST_CAUSES, to_data
from perdure.wire.work import Failed

#: Code that is not the user's: this package, and the machinery of imports.
_OURS: Final = (f"{Path(perdure.__file__).parent}/", importlib.__file__, "<frozen importlib")

Classes = tuple[type[BaseException], ...]


def failure(job_id: int, error: BaseException, permanent: Classes = (), transient: Classes = ()) -> Failed:
    """What to tell the supervisor about an exception that came out of a handler. Never raises."""
    try:
        retryable = is_retryable(error, permanent, transient)
        retry_after_ms = _retry_after_ms(error)
        return Failed(job_id, describe(error), retryable, retry_after_ms)
    except Exception as trouble:
        # The exception's own class misbehaves; its name can still be told.
        message = f"this exception cannot be described: {type(trouble).__name__}"
        return Failed(job_id, ErrorData(type=type(error).__name__, message=message), True)


def describe(error: BaseException) -> ErrorData:
    """The exception as data, its tracebacks without our own frames."""
    link: BaseException | None = error
    for _ in range(MOST_CAUSES):
        if link is None:
            break
        link.__traceback__ = trim(link.__traceback__)
        link = link.__cause__ or link.__context__
    return to_data(error, with_traceback=True)


def trim(trace: types.TracebackType | None) -> types.TracebackType | None:
    """The same traceback without the frames of this package and of the import machinery."""
    entries = []
    while trace is not None:
        if not trace.tb_frame.f_code.co_filename.startswith(_OURS):
            entries.append(trace)
        trace = trace.tb_next
    kept: types.TracebackType | None = None
    for entry in reversed(entries):
        kept = types.TracebackType(kept, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return kept


def _retry_after_ms(error: BaseException) -> int | None:
    if not isinstance(error, Retry) or error.after is None:
        return None
    try:
        return parse_duration_ms(error.after)
    except Exception:
        # A wish that cannot be read must not turn "try again" into something else.
        return None
