"""The requests of a client, each built in one place for its asynchronous and its synchronous form."""

from __future__ import annotations

import getpass
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from perdure.data_check import encode_args
from perdure.errors import InvalidOption
from perdure.options import Patience, duration_ms, job_spec
from perdure.wire import control
from perdure.wire.data import DeadFilter, DeadView, Enqueued, JobFilter, JobSpec, JobView, KindSpec, QueueView, Verdict
from perdure.wire.streams import TOPICS, Topic

T = TypeVar("T")


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
    return Ask(control.Enqueue(jobs, strict, patience_ms), fds=tuple(fds))


def one_job(kind: str | JobSpec, args: Mapping[str, Any] | None, options: Mapping[str, Any]) -> JobSpec:
    """The job that `Client.enqueue` is asked for, a new one. Raises NotData, InvalidOption."""
    if not isinstance(kind, JobSpec):
        return job_spec(kind, encode_args(args or {}), options)
    if args or options:
        raise InvalidOption("a JobSpec has its arguments and options in it; give it alone")
    return msgspec.structs.replace(kind)


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
    return Ask(control.ListJobs(which or JobFilter()), repeatable=True)


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
    names = [queues] if isinstance(queues, str) else list(queues)
    topics = list(topics)
    if strange := [topic for topic in topics if topic not in TOPICS]:
        raise InvalidOption(f"{strange[0]!r} is no topic; there are {', '.join(TOPICS)}")
    return control.Subscribe(_ids(ids), names, everything, topics)


def dead_list(which: DeadFilter | None) -> Ask[list[DeadView]]:
    """Look at a page of dead letters."""
    return Ask(control.ListDead(which or DeadFilter()), repeatable=True)


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
    return Ask(control.PauseQueue(queue, _who()), repeatable=True)


def resume(queue: str) -> Ask[None]:
    """Claim from a queue again."""
    return Ask(control.ResumeQueue(queue, _who()), repeatable=True)


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


def _who() -> str:
    """The user, for the history of what is done."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return ""
