"""Results, as clients ask for them."""

from __future__ import annotations

import msgspec

from perdure.daemon.spool import Spool
from perdure.errors import NotFound, WrongState
from perdure.store.contract import Store
from perdure.store.states import CANCELLED, COMPLETED
from perdure.wire.control import ResultView
from perdure.wire.data import Blob
from perdure.wire.envelope import WithDescriptors


async def result_of(store: Store, spool: Spool, job_id: int) -> ResultView | WithDescriptors:
    """The result of a completed job; a spooled one as an open descriptor. Raises NotFound, WrongState."""
    job = await store.get(job_id)
    if job is None:
        if await store.get_dead(job_id) is None:
            raise NotFound(f"no job {job_id}; it never was, or it finished and was pruned")
        raise WrongState(f"job {job_id} is dead, so it has no result; `perdure dead show {job_id}` tells why")
    if job.state == CANCELLED:
        raise WrongState(f"job {job_id} was cancelled, so it has no result; `perdure retry {job_id}` runs it again")
    if job.state != COMPLETED:
        raise WrongState(f"job {job_id} is {job.state}, so it has no result yet; `perdure wait {job_id}` waits for it")
    blob = blob_of(job.result_blob)
    if blob is None:
        return ResultView(job.result)
    return WithDescriptors(ResultView(blob=blob), [await spool.open_result(job_id, blob)])


def blob_of(text: str | None) -> Blob | None:
    """A file, from what the queue says about it."""
    return None if text is None else msgspec.json.decode(text, type=Blob)
