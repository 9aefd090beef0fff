"""Garbage on both sockets of a real daemon."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

from perdure.wire.blocking import BlockingCaller
from perdure.wire.control import GetStatus, Ping, Reload
from perdure.wire.data import JobSpec
from perdure.wire.envelope import Call
from tests.daemon.e2e import QUICK, dead_letter, end_of, running
from tests.support.wait import wait_until
from tests.wire.mutator import Mutator
from tests.wire.test_fuzz import CONTROL_SEEDS, LONG, Enemy

HANDLERS = ("tests.wire.garbage_handlers",)
#: What would load the handlers anew, over and over, is left out.
SEEDS = [seed for seed in CONTROL_SEEDS if not (isinstance(seed, Call) and isinstance(seed.body, Reload))]


@pytest.mark.parametrize("count", [1_000, pytest.param(100_000, marks=LONG)])
def test_a_daemon_survives_mutants(tmp_path: Path, count: int) -> None:
    """Requests that are valid and absurd would stop the daemon, or leave connections, descriptors or memory."""
    with running(tmp_path, QUICK, handlers=HANDLERS) as daemon, daemon.client() as client:
        path = daemon.socket
        with BlockingCaller.connect(str(path)) as caller:
            pid = caller.request(GetStatus()).pid
            enemy, mutator = Enemy(path, random.Random(33)), Mutator(SEEDS, random.Random(34))
            before = len(os.listdir(f"/proc/{pid}/fd"))
            for first in range(0, count, 200):
                asyncio.run(enemy.send([mutator() for _ in range(min(200, count - first))]))
            os.close(enemy.spare)
            assert enemy.refused > count / 5
            assert caller.request(Ping(), 10) is None
            wait_until(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= before)
            assert caller.request(GetStatus()).pid == pid
            caller.request(Reload(), 30)
        job = client.enqueue_sync("fine", queue="after")
        assert end_of(client, job.id).result == '"fine"'
        assert daemon.events("control.refused")


@pytest.mark.parametrize("lies", [0, 100, pytest.param(20_000, marks=LONG)])
def test_a_worker_that_sends_garbage_is_ended_with_a_reason(tmp_path: Path, lies: int) -> None:
    """One handler that writes into the wrong descriptor would stop the supervisor, or end without a reason."""
    with running(tmp_path, QUICK, handlers=HANDLERS) as daemon, daemon.client() as client:
        bad = client.enqueue_sync("spoil", {"seed": lies, "count": lies})
        wait_until(lambda: daemon.events("worker.refused"), 60)
        if not lies:
            # What jobs are said to have done is believed, so this holds for honest workers only.
            assert "for what it had sent: " in str(dead_letter(client, bad.id).errors)
        taken = client.enqueue_many_sync([JobSpec("fine")] * 20)
        assert {end_of(client, one.id).result for one in taken} == {'"fine"'}
