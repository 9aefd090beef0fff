"""From what a producer asks for to what is written: every value checked, every default filled in.

Defaults come from the job itself, else from what its kind declares, else from the configuration. Runs once for every
job that is enqueued, so what can be known per kind is prepared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec
from msgspec.structs import astuple, replace

from perdure.args_checker import ArgsChecker
from perdure.data_check import check_args_text, check_size, decode_object
from perdure.duration import MAX_DURATION_MS
from perdure.errors import InvalidOption, UsageError
from perdure.names import (
    LAST_MS,
    check_max_attempts,
    check_max_interruptions,
    check_name,
    check_priority,
    check_tags,
    check_timeout,
    check_unique,
)
from perdure.store.models import NewJob
from perdure.wire.data import JobSpec, KindSpec

#: Names of queues that are not checked again, a kind.
REMEMBERED_QUEUES = 1_000

_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class IntakeDefaults:
    """What holds for jobs whose kind does not say otherwise, and the limits. `timeout_ms` None: no limit."""

    queue: str = "default"
    priority: int = 0
    max_attempts: int = 5
    max_interruptions: int = 3
    timeout_ms: int | None = 3_600_000
    args_bytes: int = 1 << 20
    args_depth: int = 100


class _Jobs(Protocol):
    @property
    def queue(self) -> str: ...
    @property
    def max_attempts(self) -> int: ...
    @property
    def max_interruptions(self) -> int: ...
    @property
    def timeout_ms(self) -> int | None: ...


class _Limits(Protocol):
    @property
    def args_bytes(self) -> int: ...
    @property
    def args_depth(self) -> int: ...


class SettingsLike(Protocol):
    """The part of the settings that matters here; the store does not know the configuration."""

    @property
    def jobs(self) -> _Jobs:
        """[jobs]."""
        ...

    @property
    def limits(self) -> _Limits:
        """[limits]."""
        ...


def intake_defaults(settings: SettingsLike) -> IntakeDefaults:
    """The defaults and limits that the settings name."""
    jobs, limits = settings.jobs, settings.limits
    return IntakeDefaults(
        queue=jobs.queue,
        max_attempts=jobs.max_attempts,
        max_interruptions=jobs.max_interruptions,
        timeout_ms=jobs.timeout_ms,
        args_bytes=limits.args_bytes,
        args_depth=limits.args_depth,
    )


def check_queue_name(name: str) -> None:
    """Raise InvalidOption unless a queue may have this name."""
    check_name("queue", name)


class _Known:
    """What is prepared for a kind; `check` is None for a kind that nobody has declared. `names` were found in order.

    `flat`: how to look quickly at arguments that hold no lists or objects, where all must be like that.
    """

    __slots__ = (
        "check", "empty_fits", "flat", "max_attempts", "max_interruptions", "names", "priority", "queue", "timeout_ms",
    )  # fmt: skip

    def __init__(self, defaults: IntakeDefaults, spec: KindSpec | None = None) -> None:
        checker = ArgsChecker(spec) if spec else None
        self.check = checker.check if checker else None
        self.flat = checker if checker and checker.flat and defaults.args_depth > 0 else None
        spec = spec or KindSpec(name="", lane="sync", params=[])
        self.queue = _first(spec.queue, defaults.queue)
        self.names: set[str] = set()
        self.priority = _first(spec.priority, defaults.priority)
        self.max_attempts = _first(spec.max_attempts, defaults.max_attempts)
        self.max_interruptions = _first(spec.max_interruptions, defaults.max_interruptions)
        # A declared 0 means: no limit, whatever the configuration says.
        self.timeout_ms = _first(spec.timeout_ms, defaults.timeout_ms) or None
        self.empty_fits = not any(param.required for param in spec.params)


class Intake:
    """Turns JobSpecs into NewJobs for the kinds that are declared now. A kind that is not declared is accepted too."""

    def __init__(self, kinds: Iterable[KindSpec], defaults: IntakeDefaults) -> None:
        self._defaults = defaults
        self._known = {spec.name: _Known(defaults, spec) for spec in kinds}
        self._unknown = _Known(defaults)
        #: So many characters are not too many bytes, even if each has four.
        self._surely_short = defaults.args_bytes // 4

    def resolve(self, spec: JobSpec, now_ms: int) -> NewJob:
        """The row for one job. Raises InvalidOption or InvalidArguments; both say what is allowed."""
        known = self._known.get(spec.kind)
        if known is None:
            check_name("kind", spec.kind)
            known = self._unknown
        text, queue = spec.args, spec.queue
        if known.flat is None or len(text) > self._surely_short or not known.flat.fits(text):
            self._check_args(known, text)
        timeout_ms = known.timeout_ms
        if spec.timeout_ms is not None:
            check_timeout(spec.timeout_ms)
            timeout_ms = spec.timeout_ms or None
        if queue is not None and queue not in known.names:
            _check_queue(known, queue)
        return NewJob(
            spec.kind,
            known.queue if queue is None else queue,
            known.priority if spec.priority is None else _checked(check_priority, spec.priority),
            text,
            known.max_attempts if spec.max_attempts is None else _checked(check_max_attempts, spec.max_attempts),
            known.max_interruptions
            if spec.max_interruptions is None
            else _checked(check_max_interruptions, spec.max_interruptions),
            timeout_ms,
            None if spec.delay_ms is None and spec.at_ms is None else _scheduled_at(spec, now_ms),
            None if spec.unique is None else _checked(check_unique, spec.unique),
            _tags_json(spec.tags) if spec.tags else None,
            None if spec.blob is None else msgspec.json.encode(spec.blob).decode(),
        )

    def resolve_alike(
        self, spec: JobSpec, texts: Sequence[str], now_ms: int, first: int = 0, total: int | None = None
    ) -> list[NewJob]:
        """The rows for jobs that differ only in their arguments: `spec`, but with each of these texts.

        Otherwise as `resolve_many`.
        """
        total = len(texts) if total is None else total
        checker = self._known.get(spec.kind, self._unknown).flat
        longest = max(map(len, texts), default=0)
        if not texts or checker is None or longest > self._surely_short or not checker.all_fit(texts):
            return self.resolve_many([replace(spec, args=text) for text in texts], now_ms, first, total)
        (row,) = self.resolve_many([replace(spec, args=texts[0])], now_ms, first, total)
        kind, queue, priority, _, *rest = astuple(row)
        return [NewJob(kind, queue, priority, text, *rest) for text in texts]

    def resolve_many(
        self, specs: Sequence[JobSpec], now_ms: int, first: int = 0, total: int | None = None
    ) -> list[NewJob]:
        """The rows of one request. An error in a request for several names the job: "job 3 of 10: …".

        `first` and `total`: where this slice stands in the request, and how many jobs that has.
        """
        total = len(specs) if total is None else total
        jobs: list[NewJob] = []
        try:
            for spec in specs:
                jobs.append(self.resolve(spec, now_ms))  # noqa: PERF401 - the length tells which one was refused
        except UsageError as error:
            if total == 1:
                raise
            raise type(error)(f"job {first + len(jobs) + 1} of {total}: {error}") from error
        return jobs

    def check_object(self, text: str) -> None:
        """Raise InvalidArguments unless the text is a JSON object within the limits, whatever kind it is for."""
        check_args_text(text, self._defaults.args_bytes, self._defaults.args_depth)

    def check_edit(self, kind: str, args: str, set_args: str) -> None:
        """Raise InvalidArguments unless `args` with the members of `set_args` merged in still fit the kind."""
        merged = msgspec.json.encode({**decode_object(args), **decode_object(set_args)}).decode()
        self._check_args(self._known.get(kind, self._unknown), merged)

    def _check_args(self, known: _Known, args: str) -> None:
        if known.empty_fits and args == "{}":
            return
        check_size(args, self._defaults.args_bytes, self._defaults.args_depth)
        if known.check is None:
            decode_object(args)
        else:
            known.check(args)


def _first(declared: _V | None, default: _V) -> _V:
    return default if declared is None else declared


def _check_queue(known: _Known, name: str) -> None:
    """Raise InvalidOption unless a queue may have this name; the last ones that were used are not looked at again."""
    check_queue_name(name)
    if len(known.names) >= REMEMBERED_QUEUES:
        known.names.clear()
    known.names.add(name)


def _checked(check: Callable[[_V], None], value: _V) -> _V:
    check(value)
    return value


def _tags_json(tags: list[str]) -> str:
    check_tags(tags)
    return msgspec.json.encode(list(dict.fromkeys(tags))).decode()


def _scheduled_at(spec: JobSpec, now_ms: int) -> int | None:
    """When it becomes due; None for at once, which is what a moment in the past means too."""
    if spec.delay_ms is not None and spec.at_ms is not None:
        raise InvalidOption("delay and at exclude each other; give one of them")
    if spec.at_ms is not None:
        if not 0 <= spec.at_ms <= LAST_MS:
            raise InvalidOption(f"at: {spec.at_ms} ms is outside the years 1970 to 9999")
        return spec.at_ms if spec.at_ms > now_ms else None
    delay_ms = spec.delay_ms or 0
    if delay_ms < 0:
        raise InvalidOption(f"delay: {delay_ms} ms is negative; give 0 or more")
    if delay_ms > MAX_DURATION_MS:
        raise InvalidOption(f"delay: {delay_ms} ms is longer than a hundred years")
    return now_ms + delay_ms if delay_ms else None
