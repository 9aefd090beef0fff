"""Outcomes that one thread sends while another one adds more."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

from perdure.daemon.worker.outcome import Outbox
from perdure.daemon.worker.recorder import RecorderPage
from tests.worker.rig import job_row


class Open:
    """A channel that takes everything."""

    def try_send(self, data: bytes) -> bool:
        """Sent."""
        return True


class Litter:
    """Garbage in a circle, whose end lets the lane finish another job, and leaves some more."""

    def __init__(self, outbox: Outbox, left: int, swept: list[int]) -> None:
        self.me, self.outbox, self.left, self.swept = self, outbox, left, swept

    def __del__(self) -> None:
        self.swept.append(self.left)
        if self.left:
            self.outbox.add(None, job_row(self.left, "x"), None, 0, 0)
            Litter(self.outbox, self.left - 1, self.swept)


def test_the_garbage_collector_may_run_while_outcomes_are_sent(tmp_path: Path) -> None:
    """The watch over the sync lane would end with an exception: no soft time limit, and nothing sent, from then on."""
    page = RecorderPage.create(tmp_path / "1.page", 0)
    port: Any = Open()
    outbox = Outbox(port, page.done_ring("sync"))
    outbox.add(None, job_row(100, "x"), None, 0, 0)
    threshold = gc.get_threshold()
    gc.collect()
    gc.freeze()  # what a thousand tests have left would be looked at again and again, and may leave garbage of its own
    swept: list[int] = []
    Litter(outbox, 50, swept)
    gc.set_threshold(1)
    try:
        while outbox.count or len(swept) <= 50:
            gc.collect()
            assert outbox.relieve()
    finally:
        gc.set_threshold(*threshold)
        gc.unfreeze()
    page.close()
