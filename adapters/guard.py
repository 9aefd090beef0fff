"""Every call to a dependency goes through here: deadline, then breaker, then retry, then the driver.

Traps that are avoided, all measured: pybreaker's decorators never count a coroutine, count a cancellation as a failure,
and admit a crowd as the probe; tenacity repeats cancellations when it is told what *not* to repeat. So the breaker's
state is asked and told by hand, only a positive list is repeated, and whatever is not an Exception passes untouched.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Hashable
from copy import copy
from functools import partial
from inspect import isawaitable
from typing import Any, Final, NamedTuple, TypeVar

from perdure.adapters.call import CONNECTING_SHARE, CallTime, JobCall, call_time
from perdure.adapters.last_good import LastGood
from perdure.adapters.verdict import OUTAGES, REPEATABLE, Classify, Verdict, adding
from perdure.adapters.view import BreakerView
from perdure.clock import Clock
from perdure.deadlines import Deadlines
from perdure.errors import BreakerOpen, CallTooLong, JobCancelled, JobTimeout, Unavailable, UsageError
from perdure.wire.dependencies import Policy

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

#: "There is none": None is a value that a fallback may have.
NO_FALLBACK: Final[Any] = object()

#: Whether a failed call may be made again; or who decides that, of those which pass by themselves.
Repeat = bool | Callable[[BaseException], bool]

#: The attribute by which a worker knows that an exception is the fault of a dependency, and of which.
MARK: Final = "perdure_dependency"
#: On such an exception: it is not even that one's fault, this worker makes too many calls at once.
BUSY_MARK: Final = "perdure_busy"

#: A call that is cut short by its job's deadline, or by a timeout of the caller's own, counts when it had this share of
#: the policy's time. Less says nothing of the service; but jobs with less time than a call may take would never find
#: out that nobody answers.
FAIR_SHARE: Final = 0.25


class _Limit(NamedTuple):
    """How long a call may take, and whether it says something about the dependency when it takes longer.

    `by_job`: it is the rest of the job's own time.
    """

    nanoseconds: int
    is_full: bool
    by_job: bool = False

    def __str__(self) -> str:
        return "before the job's time was over" if self.by_job else f"within {self.nanoseconds / 1e9:g} s"


class _Life:
    """When the dependency last answered one of this worker's calls (CLOCK_MONOTONIC, ns)."""

    __slots__ = ("answered_ns",)

    def __init__(self) -> None:
        self.answered_ns = -1


class Guard:
    """Guards the calls to the dependency `name`. One for each in a worker process; used in the loop's thread only.

    `classify` tells what an exception says about the dependency. `sleep` waits between two tries, seconds.
    """

    def __init__(
        self,
        name: str,
        policy: Policy,
        view: BreakerView,
        classify: Classify,
        clock: Clock,
        rng: random.Random,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.name = name
        self.policy = policy
        self._view = view
        self._classify = classify
        self._clock = clock
        self._rng = rng
        self._sleep = sleep
        #: Says where the dependency is expected, for the message of a call that took too long.
        self.where: Callable[[], str] | None = None
        self._last_good = LastGood()
        self._life = _Life()
        self._policys_limit = _Limit(policy.timeout_ms * 1_000_000, True)
        self._slow_ns = policy.slow_after_ms * 1_000_000
        self._fair_ns = policy.timeout_ms * 1_000_000 * FAIR_SHARE
        #: The calls that are being made.
        self._running: set[CallTime] = set()
        self._deadlines = Deadlines(clock, self._running)

    def knowing(self, unavailable: tuple[type[Exception], ...]) -> Guard:
        """The same guard, for which these exceptions are UNAVAILABLE besides. Raises UsageError."""
        if not unavailable:
            return self
        given: Any = unavailable
        if not isinstance(given, tuple) or not all(
            isinstance(one, type) and issubclass(one, Exception) for one in given
        ):
            raise UsageError(f"guard: unavailable is a tuple of exception classes, got {unavailable!r:.100}")
        other = copy(self)
        other._classify = adding(self._classify, unavailable)
        return other

    async def call(
        self,
        job: JobCall,
        function: Callable[..., Awaitable[T]],
        /,
        *args: Any,
        timeout: float | None = None,
        retry: Repeat = True,
        fallback: Any = NO_FALLBACK,
        cache: Hashable | None = None,
        **kwargs: Any,
    ) -> T:
        """Await `function(*args, **kwargs)`, once or, if it fails with something that passes, a few times.

        `timeout`: seconds for all of it, instead of the policy's; the job's deadline holds besides. `retry=False`: for
        an effect that must not be doubled when its fate is unknown; a function gets the exception and decides.
        When the call cannot be made, or fails through the dependency's fault, the last good value that was kept under
        the key `cache` is returned (the very same object: do not change it), else `fallback`, a value or a function
        that is given the exception. Arguments of these four names are passed with functools.partial.

        Raises BreakerOpen, CallTooLong, and the driver's own exceptions. It ends as soon as `function` ends when it is
        cancelled: a driver that goes on then is its adapter's to cut off.
        """
        now_ns = self._clock.monotonic_ns()
        try:
            limit = self._limit(job, timeout, now_ns)
            is_probe = self._view.admit(self.name, job.id)
            result = await self._make(job, is_probe, limit, now_ns, retry, function, args, kwargs)
        except Exception as exc:
            if (fallback is NO_FALLBACK and cache is None) or not self._is_outage(exc):
                raise
            other: T = await self._instead(exc, fallback, cache)
            return other
        if cache is not None:
            self._last_good.keep(cache, result)
        return result

    async def watch(
        self,
        job: JobCall,
        function: Callable[..., Awaitable[T]],
        /,
        *args: Any,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> T:
        """The same with the deadline and the counting only: for a statement inside of a transaction.

        Its transaction has been admitted; it cannot be repeated alone. Raises CallTooLong and the driver's exceptions.
        """
        now_ns = self._clock.monotonic_ns()
        return await self._make(job, False, self._limit(job, timeout, now_ns), now_ns, False, function, args, kwargs)

    # --- one call

    def _limit(self, job: JobCall, timeout: float | None, now_ns: int) -> _Limit:
        """What is left for a call. Raises JobTimeout when that is nothing: the job itself has used it up."""
        policys = self._policys_limit
        limit = policys if timeout is None else _Limit(int(timeout * 1e9), int(timeout * 1e9) >= policys.nanoseconds)
        if job.deadline is not None and (left_ns := job.deadline * 1e9 - now_ns) < limit.nanoseconds:
            if left_ns <= 0:
                raise JobTimeout(f"{self.name}: no call was made, the job's time is over")
            return _Limit(int(left_ns), False, True)
        return limit

    async def _make(
        self,
        job: JobCall,
        is_probe: bool,
        limit: _Limit,
        started_ns: int,
        retry: Repeat,
        function: Callable[..., Awaitable[T]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> T:
        """Await it within its limit, and tell the breaker how it ended, once."""
        task = asyncio.current_task()
        assert task is not None
        time = CallTime(started_ns, limit.nanoseconds, limit.is_full, task)
        outer = call_time.get()
        call_time.set(time)
        self._running.add(time)
        self._deadlines.watch(time.ends_ns, started_ns)
        try:
            try:
                result = await function(*args, **kwargs)
            except Exception as exc:
                if time.is_cut or not self._may_repeat(retry, exc):
                    raise
                last_ns = started_ns + int(limit.nanoseconds * CONNECTING_SHARE)
                result = await self._repeat(exc, last_ns, retry, partial(function, *args, **kwargs))
            finally:
                self._running.discard(time)
                time.release()
        except BaseException as raised:
            error = self._judge(job, is_probe, limit, time, self._meaning(time, raised))
            if error is raised:
                raise
            raise error from raised
        finally:
            call_time.set(outer)  # not `reset`: that fails when the coroutine is closed from elsewhere
        self._record(job, is_probe, time)
        return result

    def _record(self, job: JobCall, is_probe: bool, time: CallTime, error: BaseException | None = None) -> None:
        """Tell the breaker of a call. What it waited for others of this worker is not the server's slowness."""
        now_ns = self._clock.monotonic_ns()
        if error is None:
            self._life.answered_ns = now_ns
        is_slow = time.given_ns(now_ns) > self._slow_ns
        if error is None and not is_probe:
            self._view.count_good(self.name, is_slow)
        else:
            self._view.record(self.name, error is None, slow=is_slow, probe_job=job.id if is_probe else 0, error=error)

    def _judge(self, job: JobCall, is_probe: bool, limit: _Limit, time: CallTime, exc: BaseException) -> BaseException:
        """Tell the breaker what this exception means, if it means anything; and what is to be raised."""
        verdict = self._verdict(time, exc)
        if time.is_cut and isinstance(exc, Exception):
            exc = CallTooLong(f"{self._whom()}: the call did not end {limit}{_after_waiting(time)}")
        if verdict is None or verdict is Verdict.BUSY:
            if is_probe:
                self._view.abandon(self.name, job.id)
            if verdict is Verdict.BUSY:
                _put(exc, BUSY_MARK, True)
        else:
            self._record(job, is_probe, time, exc if verdict in OUTAGES else None)
        is_unmarked = isinstance(exc, CallTooLong) and not hasattr(exc, MARK)
        return self._marked(exc) if is_unmarked or verdict in OUTAGES or verdict is Verdict.BUSY else exc

    def _verdict(self, time: CallTime, exc: BaseException) -> Verdict | None:
        """What it means; None: nothing."""
        if self._says_nothing(exc):
            return None
        if time.is_cut or isinstance(exc, CallTooLong):
            if time.waited_ns and self._life.answered_ns > time.started_ns:
                return Verdict.BUSY  # others were answered while it waited for a connection
            if not (time.is_full and not time.waited_ns) and time.given_ns(self._clock.monotonic_ns()) < self._fair_ns:
                return None
        return Verdict.UNAVAILABLE if time.is_cut else self._classify(exc)

    def _meaning(self, time: CallTime, exc: BaseException) -> BaseException:
        """A CancelledError though nobody cancels this task: the call was cut, or its driver has given it up."""
        if isinstance(exc, asyncio.CancelledError):
            if time.is_cut:
                return exc if time.is_cancelled else TimeoutError()
            if not _is_being_cancelled():
                return Unavailable(f"{self._whom()}: its driver gave the call up; the connection is broken")
        return exc

    def _whom(self) -> str:
        return self.name if self.where is None else f"{self.name} at {self.where()}"

    # --- what an exception means

    def _says_nothing(self, exc: BaseException) -> bool:
        """Whether it is no news of this dependency: a cancellation, the job's end, another dependency's failure."""
        if not isinstance(exc, Exception) or isinstance(exc, (JobTimeout, JobCancelled, BreakerOpen)):
            return True
        return getattr(exc, MARK, self.name) != self.name or _is_being_cancelled()

    def _may_repeat(self, retry: Repeat, exc: BaseException) -> bool:
        """Only what is known to pass; and nothing once the task is cancelled, whatever a driver makes of that."""
        if retry is False or self._says_nothing(exc) or self._classify(exc) not in REPEATABLE:
            return False
        return retry is True or retry(exc)

    def _is_outage(self, exc: Exception) -> bool:
        if isinstance(exc, (BreakerOpen, CallTooLong)) or hasattr(exc, MARK):
            return True
        return not self._says_nothing(exc) and self._classify(exc) in OUTAGES

    def _marked(self, exc: E) -> E:
        """The same exception, with the dependency's name on it if it takes one."""
        _put(exc, MARK, self.name)
        return exc

    # --- more tries, and other answers

    async def _repeat(self, first: Exception, last_ns: int, retry: Repeat, function: Callable[[], Awaitable[T]]) -> T:
        from perdure.adapters.repeat import Repeats  # tenacity: not before it is needed

        repeats = Repeats(self.policy, self._clock, self._rng, last_ns, partial(self._may_repeat, retry))
        return await repeats.run(first, function, self._sleep)

    async def _instead(self, exc: Exception, fallback: Any, cache: Hashable | None) -> Any:
        """The last good value, else the fallback, else the exception."""
        if cache is not None:
            is_kept, value = self._last_good.find(cache)
            if is_kept:
                return value
        if fallback is NO_FALLBACK:
            raise exc
        value = fallback(exc) if callable(fallback) else fallback
        return await value if isawaitable(value) else value


def _after_waiting(time: CallTime) -> str:
    if not time.waited_ns:
        return ""
    return f", of which it waited {time.waited_ns / 1e9:.2g} s for a connection of this worker's pool"


def _put(exc: BaseException, name: str, value: object) -> None:
    """Set an attribute, if it takes one."""
    try:
        setattr(exc, name, value)
    except Exception:  # noqa: S110  # it has slots only: then the job's failure is charged like any other
        pass


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
