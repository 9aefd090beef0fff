"""`make demo`: perdure on real input, with a power cut's worth of violence in the middle.

One job for every source file of the running Python's standard library (or of DEMO_DIR), a file that is not text, a file
whose handler aborts its process; half-way the daemon is killed with SIGKILL and started again. Then all is counted.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from examples.demo.corpus import Corpus, gather
from examples.demo.daemon import Daemon
from examples.demo.report import Report, collect, show
from perdure.client import Client


def main() -> int:
    """Run the demo; 0 when every count is as it must be."""
    console = Console(highlight=False)
    folder = Path(tempfile.mkdtemp(prefix="perdure-demo-"))
    source = Path(os.environ["DEMO_DIR"]) if os.environ.get("DEMO_DIR") else Path(os.__file__).parent
    corpus = gather(source, folder)
    console.print(f"[bold]perdure demo[/] in {folder}: {len(corpus.files):,} files of {source}", soft_wrap=True)
    report = perform(corpus, folder, console)
    show(report, folder, console)
    return 0 if report.good else 1


def perform(corpus: Corpus, folder: Path, console: Console) -> Report:
    """Enqueue, run half, kill, start again, finish, count."""
    daemon = Daemon(folder)
    try:
        daemon.start()
        console.print(f"daemon started (pid {daemon.pid}); now: perdure enqueue demo.index --from files.jsonl")
        ids = daemon.enqueue(corpus)
        client = Client(folder / "perdure.sock")
        started = time.monotonic()
        with daemon.progress(console, len(ids)) as bar:
            daemon.follow(client, bar, until=len(ids) // 2)
            victim = daemon.kill()
            bar.say(f"half-way: daemon {victim} and its workers killed with SIGKILL")
            daemon.start()
            bar.say(f"started again (pid {daemon.pid}); it goes on where it was")
            client = Client(folder / "perdure.sock")
            daemon.follow(client, bar, until=len(ids))
        seconds = time.monotonic() - started
        return collect(corpus, folder, ids, client, seconds)
    finally:
        daemon.stop()


if __name__ == "__main__":
    sys.exit(main())
