"""The requests of a client, each built in one place for its asynchronous and its synchronous form."""

from __future__ import annotations

import getpass
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec

from perdure.data_check import encode_args
from perdure.errors import InvalidOption
from perdure.options import Patience, duration_ms, job_spec
from perdure.wire import control
from perdure.wire.data import DeadFilter, DeadView, Enqueued, JobFilter, JobSpec, JobView, KindSpec, QueueView, Verdict
from perdure.wire.streams import TOPICS, Topic

T = TypeVar("T")

_SHAPE = attrgetter(*(name for name in JobSpec.__struct_fields__ if name != "args"))

#: What `enqueue_many` takes for one job: a JobSpec, or a kind with its arguments.
JobLike: TypeAlias = JobSpec | tuple[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Ask(Generic[T]):
    """A request whose answer is a T. `repeatable`: asking twice does no more than asking once. `fds` go with it."""

    request: control.Request
    repeatable: bool = False
    fds: tuple[int, ...] = ()


def enqueue(
    jobs: list[JobSpec], strict: bool, fds: Iterable[int] = (), patience: Patience = None
) -> Ask[list[Enqueued]]:
    """Put jobs into the queue."""
    patience_ms = None if patience is None else duration_ms("patience", patience)
    return Ask(enqueue_request(jobs, strict, patience_ms), fds=tuple(fds))


def enqueue_request(
    jobs: list[JobSpec], strict: bool = False, patience_ms: int | None = None
) -> control.Enqueue | control.EnqueueAlike:
    """The cheapest request for these jobs: what they have in common is said once, if it is all but their arguments."""
    first = jobs[0] if len(jobs) > 1 else None
    if first is None or first.blob is not None or first.blob_fd is not None:
        return control.Enqueue(jobs, strict, patience_ms)
    shape = _SHAPE(first)
    if any(_SHAPE(job) != shape for job in jobs):
        return control.Enqueue(jobs, strict, patience_ms)
    texts = [job.args for job in jobs]
    return control.EnqueueAlike(msgspec.structs.replace(first, args="{}"), texts, strict, patience_ms)


def one_job(kind: str | JobSpec, args: Mapping[str, Any] | None, options: Mapping[str, Any]) -> JobSpec:
    """The job that `Client.enqueue` is asked for, a new one. Raises NotData, InvalidOption."""
    if not isinstance(kind, JobSpec):
        return job_spec(kind, encode_args({} if args is None else args), options)
    if args or options:
        raise InvalidOption("a JobSpec has its arguments and options in it; give it alone")
    return msgspec.structs.replace(_with_text(kind))


def _with_text(job: JobSpec) -> JobSpec:
    """A JobSpec holds its arguments as JSON; a mapping, which is what one thinks of first, is made into that."""
    args: object = job.args
    return job if isinstance(args, str) else msgspec.structs.replace(job, args=encode_args(args))  # type: ignore[arg-type]  # it looks


def several_jobs(jobs: object) -> list[JobSpec]:
    """The jobs that `Client.enqueue_many` is asked for, which are JobLike. Raises NotData, InvalidOption."""
    if not isinstance(jobs, Iterable) or isinstance(jobs, str | bytes | Mapping):
        raise InvalidOption(f"expected a list of jobs, got {_type(jobs)}; for a single job there is enqueue")
    return [_with_text(job) if isinstance(job, JobSpec) else _pair(number, job) for number, job in enumerate(jobs, 1)]


def _pair(number: int, job: object) -> JobSpec:
    if isinstance(job, tuple | list) and len(job) == 2:
        kind, args = job
        return one_job(kind, args, {})
    got = f"{_type(job)} of {len(job)}" if isinstance(job, tuple | list) else _type(job)
    raise InvalidOption(f"job {number}: expected a JobSpec, or a kind and its arguments as a tuple, got {got}")


def result(job_id: int) -> Ask[control.ResultView]:
    """Get a job's result; with a spooled one comes a descriptor."""
    return Ask(control.GetResult(_id(job_id)), repeatable=True)


def attach(job_id: int) -> Ask[control.PortView]:
    """Get the client's end of a job's port, as a descriptor."""
    return Ask(control.AttachPort(_id(job_id)), repeatable=True)


def get(job_id: int) -> Ask[JobView | None]:
    """Look at a job."""
    return Ask(control.GetJob(_id(job_id)), repeatable=True)


def list_jobs(which: JobFilter | None) -> Ask[list[JobView]]:
    """Look at a page of jobs."""
    return Ask(control.ListJobs(_filter(which, JobFilter)), repeatable=True)


def wait(ids: int | Iterable[int]) -> Ask[list[control.JobEnd]]:
    """Wait for the ends of jobs."""
    return Ask(control.WaitJobs(_ids(ids)), repeatable=True)


def cancel(ids: int | Iterable[int]) -> Ask[list[Verdict]]:
    """Take jobs back, or stop them."""
    return Ask(control.CancelJobs(_ids(ids), _who()))


def retry(ids: int | Iterable[int]) -> Ask[list[Verdict]]:
    """Make jobs available now."""
    return Ask(control.RetryJobs(_ids(ids)))


def read_log(job_id: int, offset: int) -> Ask[control.LogPiece]:
    """Read a job's output."""
    return Ask(control.ReadLog(_id(job_id), offset), repeatable=True)


def follow(
    ids: int | Iterable[int], queues: str | Iterable[str], everything: bool, topics: Iterable[Topic]
) -> control.Subscribe:
    """Listen to jobs: not a question with one answer."""
    names, wanted = _names("queues", queues), _names("topics", topics)
    if strange := [topic for topic in wanted if topic not in TOPICS]:
        raise InvalidOption(f"{strange[0]!r} is no topic; there are {', '.join(TOPICS)}")
    return control.Subscribe(_ids(ids), names, everything, [topic for topic in TOPICS if topic in wanted])


def dead_list(which: DeadFilter | None) -> Ask[list[DeadView]]:
    """Look at a page of dead letters."""
    return Ask(control.ListDead(_filter(which, DeadFilter)), repeatable=True)


def dead_get(job_id: int) -> Ask[DeadView | None]:
    """Look at a dead letter."""
    return Ask(control.GetDead(_id(job_id)), repeatable=True)


def replay(ids: int | Iterable[int], set_args: dict[str, Any] | None) -> Ask[list[Verdict]]:
    """Give dead jobs another life."""
    text = None if set_args is None else encode_args(set_args, "set_args")
    return Ask(control.ReplayDead(_ids(ids), text, _who()))


def discard(ids: int | Iterable[int]) -> Ask[list[Verdict]]:
    """Decide that dead letters need nothing more."""
    return Ask(control.DiscardDead(_ids(ids), _who()))


def queues() -> Ask[list[QueueView]]:
    """Look at the queues."""
    return Ask(control.ListQueues(), repeatable=True)


def pause(queue: str) -> Ask[None]:
    """Stop claiming from a queue."""
    return Ask(control.PauseQueue(_name("queue", queue), _who()), repeatable=True)


def resume(queue: str) -> Ask[None]:
    """Claim from a queue again."""
    return Ask(control.ResumeQueue(_name("queue", queue), _who()), repeatable=True)


def kinds() -> Ask[list[KindSpec]]:
    """Look at what the handlers declare."""
    return Ask(control.ListKinds(), repeatable=True)


def status() -> Ask[control.Status]:
    """Look at the daemon."""
    return Ask(control.GetStatus(), repeatable=True)


def reload() -> Ask[list[KindSpec]]:
    """Load the handlers anew."""
    return Ask(control.Reload())


def raw(request: control.Request) -> Ask[Any]:
    """Any request."""
    return Ask(request)


def _ids(ids: int | Iterable[int]) -> list[int]:
    return [_id(job_id) for job_id in ids] if isinstance(ids, Iterable) else [_id(ids)]


def _id(job_id: object) -> int:
    """Raise InvalidOption unless it can be the id of a job."""
    if not isinstance(job_id, int) or isinstance(job_id, bool) or not 0 < job_id < 2**63:
        raise InvalidOption(f"{job_id!r} is not the id of a job: those are whole numbers from 1")
    return job_id


def _filter(which: T | None, kind: type[T]) -> T:
    if which is not None and not isinstance(which, kind):
        raise InvalidOption(f"expected a {kind.__name__} (perdure.wire.data), got {_type(which)}")
    return which or kind()


def _names(what: str, names: object) -> list[str]:
    """One name, or several."""
    if isinstance(names, str):
        return [names]
    if not isinstance(names, Iterable):
        raise InvalidOption(f"{what}: expected a name or several, got {_type(names)}")
    return [_name(what, name) for name in names]


def _name(what: str, name: object) -> str:
    if not isinstance(name, str):
        raise InvalidOption(f"{what}: expected text, got {_type(name)}")
    return name


def _type(value: object) -> str:
    return type(value).__name__


def _who() -> str:
    """The user, for the history of what is done."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return ""
