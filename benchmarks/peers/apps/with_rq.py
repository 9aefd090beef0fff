"""RQ on Redis: two workers that do not fork for each job."""

from __future__ import annotations

from redis import Redis
from rq import Queue, Retry

from benchmarks.peers.app import App, recovering, tool, url
from benchmarks.peers.record import TEXT, work

TIMES = {"job_timeout": 5, "retry": Retry(max=3)} if recovering() else {}


class RqApp(App):
    """RQ."""

    package = "rq"
    jobs = 2_500
    settings = "two SimpleWorkers (no fork for each job), results kept for 0 s, hiredis"
    recovery = "job_timeout 5 s, Retry(3), --maintenance-interval 2 (default 600 s), --job-monitoring-interval 2"

    def __init__(self) -> None:
        self.queue: Queue

    def setup(self) -> None:
        self.queue = Queue("peers", connection=Redis.from_url(url()))

    def workers(self) -> list[list[str]]:
        command = [tool("rq"), "worker", "-u", url(), "-w", "rq.worker.SimpleWorker", "-q", "--results-ttl", "0"]
        often = ["--maintenance-interval", "2", "--job-monitoring-interval", "2"] if recovering() else []
        return [[*command, "--disable-job-desc-logging", *often, "peers"]] * 2

    def enqueue(self, index: int) -> None:
        self.queue.enqueue(work, index, TEXT, result_ttl=0, **TIMES)

    def enqueue_many(self, first: int, count: int) -> None:
        prepare, times = Queue.prepare_data, {"timeout" if key == "job_timeout" else key: TIMES[key] for key in TIMES}
        self.queue.enqueue_many(
            [prepare(work, (index, TEXT), result_ttl=0, **times) for index in range(first, first + count)]
        )


APP = RqApp()
