"""`make demo`: three databases fed from real files, a kill -9 and an outage in the middle, then everything is counted.

The corpus is the running Python's standard library without its tests, or DEMO_DIR; the handlers are those of
examples/graphrag. When a tenth of the texts is in Postgres the daemon and its workers are killed with SIGKILL and
started again; when a quarter is, Postgres is stopped for ten seconds.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from examples.demo.corpus import GRAPH_KIND, KINDS, Corpus, gather
from examples.demo.daemon import START_SECONDS, Bar, Daemon
from examples.demo.independent import count
from examples.demo.outage import NEEDY, Outage, outage
from examples.demo.report import collect, show, show_answers, show_next
from examples.demo.stores import Stores, stores
from examples.graphrag import embedding
from perdure.client import Client
from perdure.daemon.process_control import die_with

#: Shares of the jobs that need Postgres, at which something is broken.
KILL_AT, OUTAGE_AT = 0.1, 0.25
QUESTIONS = (
    "Where are the cookies of a web session kept?",
    "How is a password hashed with a salt?",
    "How is data compressed?",
)


def main() -> int:
    """Run the demo; 0 when every count is as it must be."""
    signal.signal(signal.SIGTERM, _end)
    console = Console(highlight=False)
    folder = Path(tempfile.mkdtemp(prefix="perdure-demo-"))
    corpus = gather(folder)
    console.print(f"[bold]perdure demo[/] in {folder}: {len(corpus.paths):,} files of {corpus.root}", soft_wrap=True)
    with stores(folder) as running, ProcessPoolExecutor(1, initializer=_aside, initargs=(os.getpid(),)) as apart:
        for what in (*running.what, f"embedding: {embedding.name()}"):
            console.print(f"  {what}", soft_wrap=True)
        expected = apart.submit(count, corpus)
        daemon = Daemon(folder, running)
        try:
            client, ids, seen, seconds = perform(daemon, corpus, running, console)
            console.print("counting again, from the files alone …")
            report = collect(expected.result(), running, ids, client, seen, seconds)
            show(report, seen, console)
            show_answers(answer(client, running), console)
        finally:
            daemon.stop()
    show_next(folder, console)
    return 0 if report.good else 1


def perform(
    daemon: Daemon, corpus: Corpus, running: Stores, console: Console
) -> tuple[Client, set[int], Outage | None, float]:
    """Enqueue, run some, kill, go on, stop Postgres, finish."""
    client = daemon.start()
    prepare(client, corpus, running)
    kinds = [kind for kind in KINDS if running.graph or kind != GRAPH_KIND]
    console.print(
        f"daemon started (pid {daemon.pid}); now: perdure enqueue {{{','.join(kinds)}}} --from …", soft_wrap=True
    )
    started = time.monotonic()
    ids = {id for kind in kinds for id in daemon.enqueue(kind, corpus.write_jobs(kind, daemon.folder))}
    ids.add(client.enqueue_sync("demo.aborts").id)
    seen = None
    with daemon.progress(console, len(ids)) as bar:
        daemon.follow(client, bar, lambda done: done.completed[NEEDY] >= KILL_AT * len(corpus.paths))
        client = crash(daemon, bar)
        daemon.follow(client, bar, lambda done: done.completed[NEEDY] >= OUTAGE_AT * len(corpus.paths))
        if running.postgres.can_stop:
            seen = outage(client, running.postgres, bar)
        else:
            bar.say(
                "no outage: this PostgreSQL is not ours to stop (PERDURE_DEMO_POSTGRES_STOP and _START can name how)"
            )
        daemon.follow(client, bar, lambda done: done.ended >= len(ids))
        related = [client.enqueue_sync("graphrag.related", {"path": path}).id for path in _top(corpus)]
        ids.update(related)
        daemon.follow(client, bar, lambda done: done.ended >= len(ids))
    return client, ids, seen, time.monotonic() - started


def prepare(client: Client, corpus: Corpus, running: Stores) -> None:
    """Tables, collection, nodes: jobs like all others, only that somebody waits for them."""
    ids = [client.enqueue_sync("graphrag.prepare").id]
    if running.graph:
        ids.append(client.enqueue_sync("graphrag.modules", {"paths": [path for path, _ in corpus.files()]}).id)
    for end in client.wait_sync(ids, timeout=START_SECONDS):
        if end.state != "completed":
            raise SystemExit(f"job {end.id} did not complete: {end}")


def crash(daemon: Daemon, bar: Bar) -> Client:
    """SIGKILL to the daemon; its workers end with it."""
    victim = daemon.kill()
    bar.say(f"daemon {victim} and its workers are killed with SIGKILL")
    client = daemon.start()
    bar.say(f"started again (pid {daemon.pid}); it goes on where it was")
    return client


def answer(client: Client, running: Stores) -> dict[str, list[dict[str, Any]]]:
    """The questions, each a job that asks all stores."""
    graph = running.graph is not None
    ids = [client.enqueue_sync("graphrag.ask", {"question": text, "graph": graph}).id for text in QUESTIONS]
    client.wait_sync(ids, timeout=START_SECONDS)
    views = [client.get_sync(id) for id in ids]
    return {text: json.loads(view.result or "[]") if view else [] for text, view in zip(QUESTIONS, views, strict=True)}


def _top(corpus: Corpus) -> list[str]:
    """The documents for which related ones are looked for: those that lie in no folder."""
    return [path for path in corpus.paths if "/" not in path]


def _aside(parent: int) -> None:
    """In the process that counts: only when nobody else wants the processor, and no longer than its parent."""
    os.nice(19)
    die_with(parent)


def _end(_signal: int, _frame: object) -> NoReturn:
    """SIGTERM ends the demo as Ctrl-C does: servers first."""
    raise SystemExit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
