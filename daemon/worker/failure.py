"""An exception of a handler as data, with the traceback that its author wants to see."""

from __future__ import annotations

import importlib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import perdure
from perdure.classify import is_retryable
from perdure.duration import parse_duration_ms
from perdure.errors import BreakerOpen, PerdureError, Permanent, Retry, Unavailable
from perdure.wire.data import ErrorData
from perdure.wire.faults import MOST_CAUSES, to_data
from perdure.wire.work import Failed

#: Code that is not the user's: this package, and the machinery of imports.
_OURS: Final = (f"{Path(perdure.__file__).parent}/", importlib.__file__, "<frozen importlib")

Classes = tuple[type[BaseException], ...]


def failure(job_id: int, error: BaseException, permanent: Classes = (), transient: Classes = ()) -> Failed:
    """What to tell the supervisor about an exception that came out of a handler. Never raises."""
    try:
        culprit = _culprit(error)
        retryable = is_retryable(error, _meant(error, permanent), transient)
        retry_after_ms = _retry_after_ms(error)
        failed = Failed(job_id, describe(error), retryable, retry_after_ms)
        if retry_after_ms is None and isinstance(error, Retry) and error.after is not None:
            failed.error.message += f" (after={error.after!r:.100} is not a duration, so the backoff decides)"
        if culprit is not None and retryable:
            failed.dependency, failed.refused, failed.busy = culprit
        return failed
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


# --- whose fault it is


class Culprit(NamedTuple):
    """The dependency that failed; `refused`: its breaker was open, so it was not even asked; `busy`: see Failed."""

    dependency: str
    refused: bool
    busy: bool = False


def _culprit(error: BaseException) -> Culprit | None:
    """The dependency whose failure led to this exception, if one did. Permanent is the handler's own verdict."""
    if isinstance(error, Permanent):
        return None
    for link in _chain(error):
        if isinstance(link, BaseExceptionGroup):
            return _common_culprit(link)
        if isinstance(link, BreakerOpen) and link.name:
            return Culprit(link.name, True)
        name = getattr(link, "perdure_dependency", None)
        if isinstance(name, str) and name:
            return Culprit(name, False, getattr(link, "perdure_busy", None) is True)
    return None


def _common_culprit(group: BaseExceptionGroup[BaseException]) -> Culprit | None:
    """A group is the fault of dependencies if each of its members is; the first one is named."""
    found = [_culprit(member) for member in group.exceptions]
    culprits = [culprit for culprit in found if culprit is not None]
    if not culprits or len(culprits) < len(found):
        return None
    refused, busy = all(one.refused for one in culprits), all(one.busy for one in culprits)
    return Culprit(culprits[0].dependency, refused, busy)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and what led to it, as a traceback shows it: the cause, else the context unless suppressed."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _meant(error: BaseException, permanent: Classes) -> Classes:
    """A handler that lists OSError or Exception means its own errors, not that a dependency is away."""
    if isinstance(error, BreakerOpen | Unavailable):
        return tuple(listed for listed in permanent if issubclass(listed, PerdureError))
    return permanent


def _retry_after_ms(error: BaseException) -> int | None:
    if not isinstance(error, Retry) or error.after is None:
        return None
    try:
        return parse_duration_ms(error.after)
    except Exception:
        # A wish that cannot be read must not turn "try again" into something else; `failure` says so.
        return None
