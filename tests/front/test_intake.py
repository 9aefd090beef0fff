"""From what is asked for to what is written."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from perdure.args_checker import ArgsChecker
from perdure.errors import InvalidArguments, InvalidOption, UsageError
from perdure.store.intake import Intake, IntakeDefaults, check_queue_name, intake_defaults
from perdure.store.models import NewJob
from perdure.wire.data import JobSpec, KindSpec, Param

NOW = 1_700_000_000_000
KIND = KindSpec(
    "documents.ingest",
    "async",
    [Param("path", "str", True), Param("n", "int", False)],
    queue="ingest",
    priority=-3,
    max_attempts=8,
    timeout_ms=0,
)
ARGS = '{"path":"a"}'


@pytest.fixture
def intake() -> Intake:
    return Intake([KIND], IntakeDefaults())


def test_defaults_come_from_the_kind_then_from_the_settings(intake: Intake) -> None:
    """A job would run in another queue, or with another budget, than was declared."""
    assert intake.resolve(JobSpec(KIND.name, ARGS), NOW) == NewJob(
        KIND.name, "ingest", -3, ARGS, 8, 3, None, None, None, None
    )
    assert intake.resolve(JobSpec("unknown"), NOW) == NewJob(
        "unknown", "default", 0, "{}", 5, 3, 3_600_000, None, None, None
    )


def test_the_jobs_own_word_counts_most(intake: Intake) -> None:
    """Options of enqueue would be ignored."""
    spec = JobSpec(KIND.name, ARGS, "q", 19, 1, 2, 5_000, delay_ms=1_500, unique="a.md", tags=["x", "y", "x"])
    assert intake.resolve(spec, NOW) == NewJob(KIND.name, "q", 19, ARGS, 1, 2, 5_000, NOW + 1_500, "a.md", '["x","y"]')
    assert intake.resolve(JobSpec("k", timeout_ms=0), NOW).timeout_ms is None


def test_settings_are_read_by_name() -> None:
    """The configuration's defaults would not reach the jobs."""
    from perdure.config.settings import Settings

    assert intake_defaults(Settings()) == IntakeDefaults()


@pytest.mark.parametrize(
    ("delay_ms", "at_ms", "scheduled_at"),
    [(0, None, None), (1, None, NOW + 1), (None, NOW + 5, NOW + 5), (None, NOW - 5, None), (None, 0, None)],
)
def test_when_it_is_due(intake: Intake, delay_ms: int | None, at_ms: int | None, scheduled_at: int | None) -> None:
    """A moment in the past would leave the job scheduled instead of available."""
    assert intake.resolve(JobSpec("k", delay_ms=delay_ms, at_ms=at_ms), NOW).scheduled_at == scheduled_at


BAD: list[tuple[dict[str, Any], str]] = [
    ({"kind": "a/b"}, "kind"),
    ({"kind": ""}, "kind"),
    ({"queue": "a/b"}, "queue"),
    ({"queue": "x" * 10_000}, r"10,00\d characters"),
    ({"queue": "-x"}, "begins with a letter"),
    ({"queue": "x\n"}, "queue"),
    ({"priority": -21}, "between -20 and 19"),
    ({"priority": 20}, "lower runs first"),
    ({"max_attempts": 0}, "max_attempts: 0 is not allowed"),
    ({"max_attempts": 10_001}, "max_attempts"),
    ({"max_interruptions": 0}, "max_interruptions"),
    ({"timeout_ms": -1}, "timeout: -1 ms is negative"),
    ({"timeout_ms": 2**62}, "timeout"),
    ({"delay_ms": -1}, "delay: -1 ms is negative"),
    ({"delay_ms": 2**62}, "hundred years"),
    ({"at_ms": -1}, "years 1970 to 9999"),
    ({"at_ms": 2**60}, "years 1970 to 9999"),
    ({"at_ms": NOW, "delay_ms": 1}, "exclude each other"),
    ({"unique": ""}, "unique"),
    ({"unique": "x" * 257}, "1 to 256"),
    ({"unique": "a\x00b"}, "printable"),
    ({"unique": "a\udc80"}, "printable"),
    ({"tags": ["x"] * 21}, "tags: 21 given"),
    ({"tags": ["x" * 65]}, "1 to 64"),
    ({"tags": [""]}, "tag"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=lambda value: str(value)[:40])
def test_options_out_of_bounds_are_refused(intake: Intake, options: dict[str, Any], message: str) -> None:
    """The row would break a CHECK constraint, or the job could never run."""
    with pytest.raises(InvalidOption, match=message) as caught:
        intake.resolve(JobSpec(**{"kind": "k", **options}), NOW)
    assert len(str(caught.value)) < 200


def test_arguments_are_checked_for_known_and_unknown_kinds(intake: Intake) -> None:
    """Bad arguments would be found out by a worker, after they were acknowledged."""
    for kind, args in [
        (KIND.name, "{}"),
        (KIND.name, '{"path":1}'),
        (KIND.name, '{"path":' + "[" * 101 + "]" * 101 + "}"),
        ("unknown", "[]"),
        ("unknown", '{"a":NaN}'),
        ("unknown", '{"a":"' + "x" * (1 << 20) + '"}'),
    ]:
        with pytest.raises(InvalidArguments):
            intake.resolve(JobSpec(kind, args), NOW)


def test_a_batch_names_the_job(intake: Intake) -> None:
    """One bad job of ten thousand could not be found."""
    good, bad = JobSpec("k"), JobSpec(KIND.name, "{}")
    with pytest.raises(InvalidArguments, match=r"^job 3 of 4: documents.ingest: argument \"path\" is missing"):
        intake.resolve_many([good, good, bad, good], NOW)
    with pytest.raises(InvalidArguments, match=r"^documents\.ingest"):
        intake.resolve_many([bad], NOW)
    assert len(intake.resolve_many([good] * 3, NOW)) == 3


#: Kinds whose arguments are looked at all together, and others; texts that fit some of them, or none.
KINDS = [
    KIND,
    KindSpec("deep", "sync", [Param("path", "any", False)]),
    KindSpec("open", "sync", [Param("n", "int", False)], accepts_extra=True),
    KindSpec("none", "sync", []),
]
TEXTS = [
    ARGS, "{}", '{"path":"b","n":2}', '{"path":"a","n":null}', '{"path":"a","path":1}', '{"n":1}', "[]", "", "{",
    " {} ", '{"path":"a"', ',"n":1}', "{},{}", '{"path":"\\ud800"}', '{"path":"\ud800"}', '{"n":' + "9" * 30 + "}",
    '{"path":"' + "x" * 3_000 + '"}', '{"path":' + "[" * 12 + "]" * 12 + "}", '{"path":NaN}',
]  # fmt: skip


@given(st.sampled_from(["deep", "open", "none", "unknown", KIND.name]), st.lists(st.sampled_from(TEXTS), max_size=6))
def test_jobs_that_are_alike_are_judged_as_each_would_be(kind: str, texts: list[str]) -> None:
    """What the quick way lets through could not be run, or stands in no row."""
    intake = Intake(KINDS, IntakeDefaults(args_bytes=4_000, args_depth=10))
    spec = JobSpec(kind, queue="q", unique="u", tags=["t"])
    specs = [replace(spec, args=text) for text in texts]
    each = _judged(lambda: intake.resolve_many(specs, NOW))
    assert _judged(lambda: intake.resolve_alike(spec, texts, NOW)) == each


def _judged(resolve: Callable[[], list[NewJob]]) -> list[NewJob] | str:
    try:
        return resolve()
    except UsageError as error:
        return str(error)


def test_only_arguments_that_hold_no_others_are_looked_at_all_together() -> None:
    """A list nested a thousand deep would get in by the way that does not count."""
    for expression, flat in {"str": True, 'int|"a"|none': True, "any": False, "list[int]|none": False}.items():
        checker = ArgsChecker(KindSpec("k", "sync", [Param("a", expression, False)]))
        assert checker.flat is flat, expression
    assert not ArgsChecker(KindSpec("k", "sync", [], accepts_extra=True)).flat


def test_the_jobs_alike_that_are_wrong_are_named(intake: Intake) -> None:
    """One bad job of ten thousand could not be found."""
    with pytest.raises(InvalidArguments, match=r"^job 6 of 9: documents.ingest: argument \"path\" is missing"):
        intake.resolve_alike(JobSpec(KIND.name), [ARGS, "{}"], NOW, 4, 9)
    with pytest.raises(InvalidOption, match="priority"):
        intake.resolve_alike(JobSpec(KIND.name, priority=99), [ARGS, ARGS], NOW)


def test_edited_arguments_are_checked_merged(intake: Intake) -> None:
    """A replay with --set would bring a job back that cannot run, or refuse one that can."""
    intake.check_edit(KIND.name, '{"path":1}', '{"path":"a"}')
    intake.check_edit("unknown", "{}", '{"x":1}')
    with pytest.raises(InvalidArguments, match='argument "n"'):
        intake.check_edit(KIND.name, ARGS, '{"n":"x"}')
    with pytest.raises(InvalidArguments):
        intake.check_object("[]")


def test_queue_names() -> None:
    """A queue that cannot exist could be paused."""
    check_queue_name("a.b:c-d_9")
    with pytest.raises(InvalidOption, match="begins with a letter"):
        check_queue_name("../x")


numbers = st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(-30, 30)
texts = st.none() | st.text(max_size=5) | st.sampled_from(["q", "x" * 256, "x" * 128])


@given(st.builds(
    JobSpec,
    kind=st.text(max_size=3) | st.just("k"),
    args=st.sampled_from(["{}", "[]", '{"a":1}', "", "\x00"]) | st.text(max_size=4),
    queue=texts,
    priority=numbers,
    max_attempts=numbers,
    max_interruptions=numbers,
    timeout_ms=numbers,
    delay_ms=numbers,
    at_ms=numbers,
    unique=texts,
    tags=st.lists(st.text(max_size=3), max_size=3),
))  # fmt: skip
def test_what_is_taken_fits_the_store(spec: JobSpec) -> None:
    """The store would refuse a row that the intake has let through, and with it the whole batch."""
    try:
        job = Intake([], IntakeDefaults()).resolve(spec, NOW)
    except UsageError as error:
        str(error).encode()
        return
    row = (job.args, job.queue, job.unique_key, job.tags_json, job.scheduled_at, job.timeout_ms)
    valid = "SELECT json_valid(?), length(?), length(?), json_valid(?), ?, ?"
    with closing(sqlite3.connect(":memory:")) as connection:
        args_ok, queue_chars, unique_chars, tags_ok, *_ = connection.execute(valid, row).fetchone()
    assert args_ok == 1
    assert 1 <= queue_chars <= 128
    assert job.unique_key is None or 1 <= unique_chars <= 256
    assert job.tags_json is None or tags_ok == 1
    assert -20 <= job.priority <= 19
    assert job.max_attempts >= 1
    assert job.max_interruptions >= 1
    assert job.timeout_ms is None or job.timeout_ms > 0
    assert job.scheduled_at is None or job.scheduled_at > NOW
