"""Very many kinds that do nothing: as many as $BENCH_KINDS says."""

from __future__ import annotations

import os

from perdure.job import job

for _number in range(int(os.environ["BENCH_KINDS"])):

    @job(f"bench.wide{_number}")
    def noop(user: int, name: str) -> None:
        """Nothing."""
