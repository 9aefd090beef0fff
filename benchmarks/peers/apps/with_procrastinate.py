"""Procrastinate on PostgreSQL: two workers of twenty coroutines."""

from __future__ import annotations

from procrastinate import App as Procrastinate
from procrastinate import PsycopgConnector

from benchmarks.peers.app import App, recovering, tool, url
from benchmarks.peers.record import TEXT, work_async

WORKER = {"stalled_worker_timeout": 3.0, "update_heartbeat_interval": 1.0} if recovering() else {}
app = Procrastinate(connector=PsycopgConnector(conninfo=url()), worker_defaults=WORKER)


@app.task(name="noop", queue="peers")
async def noop(index: int, text: str) -> None:
    """Leave a mark."""
    await work_async(index, text)


if recovering():

    @app.periodic(cron="* * * * * */2")
    @app.task(name="retry_stalled", queueing_lock="retry_stalled", pass_context=True)
    async def retry_stalled(context: object, timestamp: int) -> None:
        """The task that its documentation leaves to the user."""
        for job in await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=3):
            await app.job_manager.retry_job(job)


class ProcrastinateApp(App):
    """Procrastinate."""

    package = "procrastinate"
    jobs = 2_500
    settings = "two workers, concurrency 20, listen/notify, finished jobs deleted; many: batch_defer of 100"
    recovery = (
        "the documented task that retries stalled jobs, each 2 s; heartbeat 1 s, stalled after 3 s (default 30 s)"
    )

    async def setup(self) -> None:
        await app.open_async()
        await app.schema_manager.apply_schema_async()

    def workers(self) -> list[list[str]]:
        options = ["-c", "20", "--delete-jobs", "successful"]
        return [[tool("procrastinate"), "-a", "benchmarks.peers.apps.with_procrastinate.app", "worker", *options]] * 2

    async def enqueue(self, index: int) -> None:
        await noop.defer_async(index=index, text=TEXT)

    async def enqueue_many(self, first: int, count: int) -> None:
        await noop.batch_defer_async(*({"index": index, "text": TEXT} for index in range(first, first + count)))


APP = ProcrastinateApp()
