"""`@job`: a function becomes a handler that can be enqueued."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial, update_wrapper
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, TypeVar, Unpack, overload

import msgspec

from perdure import names
from perdure.data_check import encode_args
from perdure.errors import InvalidHandler, InvalidOption
from perdure.options import OPTION_NAMES, REQUEST_NAMES, EnqueueOptions, Patience, check_spec, job_spec
from perdure.registry import registry
from perdure.signature import Signature, read_signature
from perdure.wire.data import Enqueued, JobSpec, KindSpec

if TYPE_CHECKING:
    from perdure.client import Client

P = ParamSpec("P")
R = TypeVar("R")

Exceptions = tuple[type[BaseException], ...]


class Job(Generic[P, R]):
    """A handler with its declaration. Calling it calls the function, so unit tests need no queue.

    `kind`, `function`, `spec` (what the daemon knows of it), `signature`, `permanent` and `transient` (exceptions of
    its own that decide about retries), `place` (file and line).
    """

    def __init__(
        self,
        function: Callable[P, R],
        spec: KindSpec,
        signature: Signature,
        permanent: Exceptions = (),
        transient: Exceptions = (),
    ) -> None:
        self.function = function
        self.kind: Final = spec.name
        self.spec = spec
        self.signature = signature
        self.permanent = permanent
        self.transient = transient
        self.place = _place(function)
        self._inline = (OPTION_NAMES | REQUEST_NAMES) - {param.name for param in signature.params}
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Job {self.kind} at {self.place}>"

    @property
    def takes_context(self) -> bool:
        """Whether the handler's first parameter is the Context."""
        return self.signature.takes_context

    def bind(self, args_text: str | bytes) -> dict[str, Any]:
        """The keyword arguments of a run, from JSON text. Raises InvalidArguments."""
        return self.signature.bind(args_text)

    def options(self, **options: Unpack[EnqueueOptions]) -> Prepared:
        """The same job with options set; after this, all that is passed to `enqueue` is the handler's."""
        return Prepared(self, options)

    async def enqueue(self, /, **arguments: Any) -> Enqueued:
        """Put one job into the queue; returns when it is on disk.

        Options (see EnqueueOptions) may stand among the arguments: `enqueue(path="a.md", delay="10m", blob=b"1")`.
        Where the handler has an argument of that name, it is the argument; set the option with `.options()`.
        Raises InvalidArguments, InvalidOption, and what `Client.enqueue` raises.
        """
        return await self._split(arguments).enqueue(**arguments)

    def enqueue_sync(self, /, **arguments: Any) -> Enqueued:
        """`enqueue` for code without an event loop."""
        return self._split(arguments).enqueue_sync(**arguments)

    async def enqueue_many(self, many: Iterable[Mapping[str, Any]]) -> list[Enqueued]:
        """One job for each dict of arguments; see `Client.enqueue_many` for what is all or none."""
        return await self.options().enqueue_many(many)

    def enqueue_many_sync(self, many: Iterable[Mapping[str, Any]]) -> list[Enqueued]:
        """`enqueue_many` for code without an event loop."""
        return self.options().enqueue_many_sync(many)

    def _split(self, arguments: dict[str, Any]) -> Prepared:
        """Take the options out of the arguments."""
        return Prepared(self, {name: arguments.pop(name) for name in self._inline & arguments.keys()})


class Prepared:
    """A job with options set, ready to be given arguments."""

    def __init__(self, job: Job[..., Any], options: Mapping[str, Any]) -> None:
        self._job = job
        self._request = {name: value for name, value in options.items() if name in REQUEST_NAMES}
        kept = {name: value for name, value in options.items() if name not in REQUEST_NAMES}
        self._template = job_spec(job.kind, "{}", kept)

    def request(self, arguments: Mapping[str, Any]) -> JobSpec:
        """What is sent for these arguments. Raises InvalidArguments if they do not fit the signature."""
        text = encode_args(arguments)
        self._job.signature.bind(text)
        return msgspec.structs.replace(self._template, args=text)

    async def enqueue(self, /, **arguments: Any) -> Enqueued:
        """Put one job into the queue; every keyword is an argument of the handler."""
        return await _client().enqueue(self.request(arguments), **self._request)

    def enqueue_sync(self, /, **arguments: Any) -> Enqueued:
        """`enqueue` for code without an event loop."""
        return _client().enqueue_sync(self.request(arguments), **self._request)

    async def enqueue_many(self, many: Iterable[Mapping[str, Any]]) -> list[Enqueued]:
        """One job for each dict of arguments, all with these options. Raises InvalidOption for a payload."""
        return await _client().enqueue_many(self._requests(many), patience=self._patience())

    def enqueue_many_sync(self, many: Iterable[Mapping[str, Any]]) -> list[Enqueued]:
        """`enqueue_many` for code without an event loop."""
        return _client().enqueue_many_sync(self._requests(many), patience=self._patience())

    def _patience(self) -> Patience:
        if self._request.get("blob") is not None or self._request.get("spool"):
            raise InvalidOption("blob: a payload belongs to one job; enqueue jobs with payloads one by one")
        return self._request.get("patience")

    def _requests(self, many: Iterable[Mapping[str, Any]]) -> list[JobSpec]:
        return [self.request(arguments) for arguments in many]


@overload
def job(function: Callable[P, R], /) -> Job[P, R]: ...


@overload
def job(
    kind: str | None = None,
    /,
    *,
    queue: str | None = None,
    needs: Sequence[str] = (),
    timeout: float | str | timedelta | None = None,
    max_attempts: int | None = None,
    max_interruptions: int | None = None,
    priority: int | None = None,
    permanent: type[BaseException] | Iterable[type[BaseException]] = (),
    transient: type[BaseException] | Iterable[type[BaseException]] = (),
) -> Callable[[Callable[P, R]], Job[P, R]]: ...


def job(
    kind: str | Callable[..., Any] | None = None,
    /,
    *,
    permanent: type[BaseException] | Iterable[type[BaseException]] = (),
    transient: type[BaseException] | Iterable[type[BaseException]] = (),
    **declared: Any,
) -> Any:
    """Declare a handler: `@job`, or `@job("kind", queue=…, timeout="2m", …)`.

    Without a kind it is the function's name with its module's: "reports.nightly". `needs`: dependencies without which
    it is not run. `timeout`: seconds or text, 0 for no limit. `max_attempts`: budget of failures; `max_interruptions`:
    budget of attempts whose worker died. `permanent`, `transient`: exceptions after which another attempt cannot, or
    can, help. Raises InvalidHandler that says why the function cannot be a handler.
    """
    if kind is not None and not isinstance(kind, str):
        return _declare(kind, None, (), (), {})
    listed = _exceptions("permanent", permanent), _exceptions("transient", transient)

    def decorate(function: Callable[P, R]) -> Job[P, R]:
        return _declare(function, kind, *listed, declared)

    return decorate


#: What @job takes by name, besides what concerns errors.
_DECLARED: Final = ("queue", "needs", "timeout", "max_attempts", "max_interruptions", "priority")


def _declare(
    function: Callable[P, R], kind: str | None, permanent: Exceptions, transient: Exceptions, declared: dict[str, Any]
) -> Job[P, R]:
    if isinstance(function, staticmethod):
        function = function.__func__
    name = kind if kind is not None else _default_kind(function)
    signature = read_signature(function, name)
    if unknown := [key for key in declared if key not in _DECLARED]:
        close = difflib.get_close_matches(unknown[0], _DECLARED, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(_DECLARED)}"
        raise InvalidHandler(f"{name}: @job does not know {unknown[0]!r}; {hint}")
    try:
        spec = _kind_spec(name, function, signature, **declared)
    except InvalidOption as error:
        raise InvalidHandler(f"{name}: {error}") from error
    declared_job = Job(function, spec, signature, permanent, transient)
    registry.add(declared_job)
    return declared_job


def _kind_spec(
    name: str,
    function: Callable[..., Any],
    signature: Signature,
    *,
    queue: str | None = None,
    needs: Sequence[str] = (),
    timeout: float | str | timedelta | None = None,
    max_attempts: int | None = None,
    max_interruptions: int | None = None,
    priority: int | None = None,
) -> KindSpec:
    # The same conversions and messages as for the options of a single job.
    options = {"queue": queue, "priority": priority, "timeout": timeout}
    budgets = {"max_attempts": max_attempts, "max_interruptions": max_interruptions}
    declared = job_spec(name, "{}", options | budgets)
    check_spec(declared)
    return KindSpec(
        name=name,
        lane=signature.lane,
        params=signature.params,
        accepts_extra=signature.accepts_extra,
        queue=queue,
        priority=priority,
        max_attempts=max_attempts,
        max_interruptions=max_interruptions,
        timeout_ms=declared.timeout_ms,
        needs=_needs(needs),
        module=getattr(function, "__module__", None) or "",
        doc=(inspect.getdoc(function) or "").partition("\n\n")[0],
    )


def _default_kind(function: Callable[..., Any]) -> str:
    """module.name, where that can be a kind."""
    qualified = getattr(function, "__qualname__", None)
    kind = f"{getattr(function, '__module__', '')}.{qualified}"
    if not qualified or not names.NAME.fullmatch(kind):
        shown = qualified or repr(function)
        raise InvalidHandler(f'{shown} cannot lend its name to a kind; name it: @job("reports.nightly")')
    return kind


def _needs(needs: Sequence[str]) -> list[str]:
    if isinstance(needs, str):
        raise InvalidOption(f'needs: expected several names, got text; write needs=("{needs}",)')
    for name in needs:
        names.check_name("needs", name)
    return list(dict.fromkeys(needs))


def _exceptions(what: str, given: type[BaseException] | Iterable[type[BaseException]]) -> Exceptions:
    listed = (given,) if isinstance(given, type) else tuple(given)
    items: tuple[object, ...] = listed
    for item in items:
        if not isinstance(item, type) or not issubclass(item, BaseException):
            raise InvalidHandler(f"{what}: {item!r:.60} is no exception class; write {what}=(ValueError,)")
    return listed


def _place(function: Callable[..., Any]) -> str:
    """File and line of a handler, for messages and to tell two declarations apart."""
    source: Any = inspect.unwrap(function)
    while isinstance(source, partial):
        source = inspect.unwrap(source.func)
    if not inspect.isroutine(source):
        source = type(source).__call__
    code = getattr(source, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(source)


def _client() -> Client:
    """The client of this process. Imported late: a module of handlers need not load what only producers use."""
    from perdure.client import default_client

    return default_client()
