"""`perdure explain` and `perdure breaker` with a real daemon."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perdure.client import Client
from tests.daemon.e2e import HANDLERS as USUAL
from tests.daemon.e2e import await_executing, end_of, running
from tests.support.daemon import Daemon
from tests.support.wait import wait_until

SETTINGS = """
[workers]
count = 1
[dependencies.line]
about = "the line service"
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One worker, so that it is known who waits for whom."""
    handlers = (USUAL, "tests.daemon.outage_handlers")
    with running(tmp_path_factory.mktemp("explain"), SETTINGS, handlers=handlers) as one:
        yield one


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    """A client."""
    with daemon.client() as one:
        yield one


def explain(daemon: Daemon, job_id: int) -> dict[str, Any]:
    """What the command says, for programs."""
    done = daemon.command("explain", str(job_id), "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_who_holds_the_place(daemon: Daemon, client: Client, tmp_path: Path) -> None:
    """A queue that stands still because of one long job would look like one that hangs."""
    gate, file = str(tmp_path / "gate"), str(tmp_path / "file")
    first = client.enqueue_sync("gate", {"gate": gate, "file": file}).id
    await_executing(daemon, first)
    others = [client.enqueue_sync("gate", {"gate": gate, "file": file}).id for _ in range(3)]
    executed = explain(daemon, first)
    assert executed["because"] == "running"
    assert f"(pid {daemon.status().workers[0].pid}) has been executing it for" in executed["text"]  # type: ignore[union-attr]
    # Once the worker is known to be held up, what had been sent behind it is back in the queue.
    wait_until(lambda: explain(daemon, others[2])["ahead"] == 2, 10, "the jobs to wait in their queue")
    last = explain(daemon, others[2])
    assert (last["because"], last["name"], last["holders"]) == ("behind", "default", [first])
    assert f"by job {first} (gate)" in last["text"]
    assert explain(daemon, others[0])["because"] == "lane-full"
    Path(gate).touch()
    assert [end_of(client, job_id).state for job_id in others] == ["completed"] * 3
    assert explain(daemon, first)["because"] == "completed"


def test_what_else_it_may_wait_for(daemon: Daemon, client: Client) -> None:
    """A paused queue, a kind that nobody knows, its time: each must be told from the others."""
    assert daemon.command("queue", "pause", "calm").returncode == 0
    paused = client.enqueue_sync("noop", queue="calm").id
    unknown = client.enqueue_sync("nobody").id
    later = client.enqueue_sync("noop", delay="1h").id
    wait_until(lambda: explain(daemon, unknown)["state"] == "parked", 10, "the unknown kind to be parked")
    said = [explain(daemon, job_id) for job_id in (paused, unknown, later)]
    assert [(one["because"], one["name"]) for one in said] == [
        ("paused", "calm"),
        ("kind", "nobody"),
        ("scheduled", ""),
    ]
    assert 3_590 < said[2]["seconds_left"] <= 3_600
    assert daemon.command("queue", "resume", "calm").returncode == 0
    assert end_of(client, paused).state == "completed"
    assert client.cancel_sync([unknown, later])
    assert daemon.command("explain", "999999").returncode == 1


def test_an_open_breaker(daemon: Daemon, client: Client) -> None:
    """In an outage, the commands would not agree on what is away."""
    assert daemon.command("breaker", "open", "line", "--reason", "new cable").returncode == 0
    job_id = client.enqueue_sync("line.call", {"n": 1}).id
    wait_until(lambda: explain(daemon, job_id)["state"] == "parked", 10, "the job to be parked")
    said = explain(daemon, job_id)
    assert (said["because"], said["name"], said["seconds_left"]) == ("breaker", "line", None)
    assert "new cable" in said["text"]
    assert "waits until line is back" in daemon.command("show", str(job_id)).stdout
    assert "line" in daemon.command("status").stdout
    (info,) = (
        json.loads(line) for line in daemon.command("breaker", "list", "--json", "--events", "3").stdout.splitlines()
    )
    assert (info["name"], info["state"], info["parked"]) == ("line", "open", 1)
    assert [(one["was"], one["now"], one["reason"]) for one in info["events"]] == [("closed", "open", "new cable")]
    assert info["changed_by"]
    assert daemon.command("breaker", "open", "lime").returncode == 2
    assert client.cancel_sync([job_id])
    assert daemon.command("breaker", "close", "line").returncode == 0
    (info,) = (json.loads(line) for line in daemon.command("breaker", "list", "--json").stdout.splitlines())
    assert (info["state"], info["parked"]) == ("closed", 0)
