"""`python -m benchmarks.peers`: run the peers, print the figures, write them as JSON, and make the page from that."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import click

from benchmarks.peers import processes, report
from benchmarks.peers.catalog import PEERS
from benchmarks.peers.install import ROOT, CannotInstallError, install, redis
from benchmarks.peers.measure import Figure, Speed, kill

RESULTS = Path(__file__).with_name("results.json")
PAGE = ROOT / "docs" / "peers-bench.md"


@click.command()
@click.option("--peer", "names", multiple=True, type=click.Choice(list(PEERS)), help="Only these (default: all).")
@click.option("--scale", default=1.0, show_default=True, help="Multiplies the number of jobs.")
@click.option("--durable-only", is_flag=True, help="Only the durable setting of each.")
@click.option("--no-kill", is_flag=True, help="Leave the workload out that kills.")
@click.option("--json", "results", type=click.Path(path_type=Path), default=RESULTS, help="Where the figures go.")
@click.option("--page", type=click.Path(path_type=Path), default=None, help="The page whose tables are made anew.")
@click.option("--only-page", is_flag=True, help="Run nothing: make the page from the figures that are there.")
def main(
    names: tuple[str, ...],
    scale: float,
    durable_only: bool,
    no_kill: bool,
    results: Path,
    page: Path | None,
    only_page: bool,
) -> None:
    """Run other job queues and perdure side by side."""
    if not only_page:
        signal.signal(signal.SIGTERM, _end)
        signal.signal(signal.SIGINT, _end)
        try:
            for found in _run(list(names or PEERS), scale, durable_only, no_kill):
                results.write_text(json.dumps(found, indent=1) + "\n")
        finally:
            # A second Ctrl-C must not keep this from ending what was started.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            processes.end_all()
    found = json.loads(results.read_text())
    click.echo(report.tables(found))
    if page or only_page:
        report.write_page(page or PAGE, found)


def _run(names: list[str], scale: float, durable_only: bool, no_kill: bool) -> Iterator[dict[str, Any]]:
    """What there is so far, after each peer."""
    machine = report.machine() | {"scale": scale}
    installed = install(names)
    missing = dict(installed.missing)
    try:
        redis()
    except CannotInstallError as error:
        missing |= {name: str(error) for name in names if "redis" in str(PEERS[name].server)}
    figures: list[Figure] = []
    for name in names:
        if name in missing:
            click.echo(f"{name}: not installed: {missing[name]}")
            continue
        peer, interpreter = PEERS[name], installed.interpreters[name]
        parts = [(f"{name}, {peer.durable}", Speed(peer, interpreter, True, scale).run())]
        if not durable_only:
            parts.append((f"{name}, {peer.fast}", Speed(peer, interpreter, False, scale).run()))
        if not no_kill:
            parts.append((f"{name}, kill -9", kill(peer, interpreter, scale)))
        for title, part in parts:
            click.echo(f"--- {title}")
            try:
                for figure in part:
                    figures.append(figure)
                    click.echo(f"{figure.benchmark:22} {report.number(figure):>12} {figure.unit:13} {figure.details}")
            except Exception as error:  # one peer's trouble is not another's
                missing[title] = f"{type(error).__name__}: {str(error).splitlines()[-1][:200] if str(error) else ''}"
                click.echo(f"failed: {error}", err=True)
        yield {"machine": machine, "figures": [asdict(figure) for figure in figures], "missing": missing}


def _end(_number: int, _frame: FrameType | None) -> None:
    sys.exit(130)


if __name__ == "__main__":
    main()
