"""Ten seconds without Postgres, and what the daemon makes of them."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime

from examples.demo.daemon import LIMIT_SECONDS, POLL_SECONDS, Bar, completed_by_queue
from examples.demo.stores import Postgres
from perdure.client import Client
from perdure.wire.control import Explain, ListBreakers
from perdure.wire.data import BreakerEvent, BreakerInfo, JobFilter

SECONDS = 10.0
#: The queue of the jobs that need Postgres.
NEEDY = "text"
EVENTS = 100
LONGEST_TEXT = 200


@dataclass
class Outage:
    """What was seen. `begun_at`: epoch milliseconds; `others`: jobs of each other queue that completed meanwhile."""

    begun_at: int
    others: Counter[str] = field(default_factory=Counter)
    parked: int = 0
    explained: str = ""
    ramp: list[int] = field(default_factory=list)
    events: list[BreakerEvent] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def opened(self) -> str:
        """When the breaker opened, in words."""
        first = next((event.at for event in self.events if event.now == "open"), None)
        if first is None:
            return "never"
        at = datetime.fromtimestamp(first / 1_000, UTC).astimezone()
        return f"at {at:%H:%M:%S}, {(first - self.begun_at) / 1_000:.1f} s after the stop"

    def count(self, was: str, now: str) -> int:
        """How often the breaker changed in this way."""
        return sum(event.was == was and event.now == now for event in self.events)

    def mismatches(self) -> list[str]:
        """In words, what did not go as it must."""
        wrong = []
        if not self.count("closed", "open"):
            wrong.append("the breaker did not open")
        if self.count("half_open", "closed") != 1:
            wrong.append(f"the breaker was closed by {self.count('half_open', 'closed')} probes, and one was to do it")
        if not self.parked:
            wrong.append("no job was parked")
        if not sum(self.others.values()):
            wrong.append("no other job completed while Postgres was away")
        return wrong


def outage(client: Client, postgres: Postgres, bar: Bar) -> Outage:
    """Stop the server, wait, start it, and watch until the last parked job is released."""
    seen, begun = Outage(begun_at=int(time.time() * 1_000)), time.monotonic()
    before = completed_by_queue(client)
    postgres.stop()
    bar.say("Postgres is stopped: its processes have ended")
    watch = _Watch(client, bar, seen)
    while time.monotonic() < begun + SECONDS:
        watch.look()
        time.sleep(POLL_SECONDS)
    seen.others = Counter({queue: n for queue, n in (completed_by_queue(client) - before).items() if queue != NEEDY})
    seen.explained = _explain(client)
    seen.seconds = time.monotonic() - begun
    bar.say(f"{seen.parked:,} jobs are parked; meanwhile completed: {_listed(seen.others)}")
    if seen.explained:
        bar.say(f"[dim]perdure explain:[/] {_short(seen.explained)}")
    postgres.start()
    bar.say(f"Postgres is back after {seen.seconds:.1f} s")
    watch.until_released()
    return seen


class _Watch:
    """Follows the breaker of Postgres and says what changes."""

    def __init__(self, client: Client, bar: Bar, seen: Outage) -> None:
        self._client = client
        self._bar = bar
        self._seen = seen

    def look(self) -> BreakerInfo:
        """Once."""
        breakers: list[BreakerInfo] = self._client.request_sync(ListBreakers(events=EVENTS))
        info = next(breaker for breaker in breakers if breaker.name == "postgres")
        events = sorted((event for event in info.events if event.at >= self._seen.begun_at), key=lambda event: event.at)
        for event in events[len(self._seen.events) :]:
            at = datetime.fromtimestamp(event.at / 1_000, UTC).astimezone()
            self._bar.say(f"[bold]breaker {event.now}[/] at {at:%H:%M:%S.%f}"[:-3] + f": {_short(event.reason)}")
        self._seen.events = events
        self._seen.parked = max(self._seen.parked, info.parked)
        rate = round(info.ramp)
        if rate and (not self._seen.ramp or rate != self._seen.ramp[-1]):
            self._seen.ramp.append(rate)
        return info

    def until_released(self) -> None:
        """Return when the breaker is closed and nobody waits for it any more."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while True:
            info = self.look()
            if info.state == "closed" and not info.parked and not info.ramp:
                steps = " → ".join(str(rate) for rate in self._seen.ramp)
                self._bar.say(f"the parked jobs are released; ramp: {steps} jobs a second")
                return
            if time.monotonic() > deadline:
                raise SystemExit(f"the breaker did not close within {LIMIT_SECONDS:g} s: {info}")
            time.sleep(POLL_SECONDS)


def _explain(client: Client) -> str:
    """Why one of the parked jobs waits, in the daemon's words."""
    parked = client.list_sync(JobFilter(states=["parked"], queue=NEEDY, limit=1))
    return client.request_sync(Explain(parked[0].id)).text if parked else ""


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…"


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{n:,} {queue}" for queue, n in sorted(counts.items()) if n) or "nothing"
