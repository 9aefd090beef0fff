"""A server with subscriptions that keeps to credits and nothing else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perdure.errors import NotFound
from perdure.wire.control import Ping, Subscribe, Subscribed, Unsubscribe
from perdure.wire.envelope import Event
from perdure.wire.peer import Peer
from perdure.wire.server import Server
from perdure.wire.streams import Grant, News, Progress
from tests.wire.office import anybody


class Newsstand:
    """Each subscription gets `count` messages (its own number in `Progress.id`, and 1, 2, 3 …), the last one `ended`.

    Id 404 is unknown; id 1 is answered when `open_late` is set; `error` ends a subscription by its last message.
    """

    def __init__(self, path: Path, count: int, *, error: str | None = None) -> None:
        self.count = count
        self.error = error
        self.credit: dict[tuple[Peer, int], int] = {}
        self.sent: dict[tuple[Peer, int], int] = {}
        self.grants: list[int] = []
        self.unsubscribed: list[int] = []
        self.late: list[asyncio.Future[Subscribed]] = []
        self.numbers = 0
        self.server = Server(str(path), self, anybody, on_event=self.granted, on_gone=self.gone)
        self.server.start()

    def __call__(self, request: object, peer: Peer) -> Any:
        """What a daemon does with these."""
        match request:
            case Ping():
                return None
            case Unsubscribe(number):
                self.unsubscribed.append(number)
                self.credit.pop((peer, number), None)
                return None
            case Subscribe(ids) if 404 in ids:
                raise NotFound("no job 404")
            case Subscribe(ids, credit=credit):
                self.numbers += 1
                self.credit[peer, self.numbers] = credit
                if 1 in ids:
                    self.late.append(asyncio.get_running_loop().create_future())
                    return self.late[-1]
                # Behind the answer, but in the same breath.
                asyncio.get_running_loop().call_soon(self.send, peer, self.numbers)
                return Subscribed(self.numbers)
        raise AssertionError(request)

    def granted(self, grant: Grant, peer: Peer) -> None:
        """A subscriber has read."""
        self.grants.append(grant.messages)
        if (peer, grant.subscription) in self.credit:
            self.credit[peer, grant.subscription] += grant.messages
            self.send(peer, grant.subscription)

    def gone(self, peer: Peer) -> None:
        """A subscriber has left."""
        for key in [key for key in self.credit if key[0] is peer]:
            del self.credit[key]

    def send(self, peer: Peer, number: int) -> None:
        """All that its credit allows."""
        key = peer, number
        while self.credit.get(key, 0) > 0 and self.sent.get(key, 0) < self.count:
            self.credit[key] -= 1
            self.sent[key] = place = self.sent.get(key, 0) + 1
            last = place == self.count
            news = News(number, [Progress(number, place)], ended=last and not self.error)
            if last:
                news.error = self.error
                del self.credit[key]
            self.server.send(peer, Event(news))


@contextmanager
def in_thread(make: Callable[[], Newsstand]) -> Iterator[Newsstand]:
    """A newsstand with a loop in a thread of its own."""
    made: list[Newsstand] = []
    ready, done = threading.Event(), threading.Event()

    async def serve() -> None:
        made.append(make())
        ready.set()
        await asyncio.to_thread(done.wait, 30)
        made[0].server.close()
        await made[0].server.wait_closed()

    thread = threading.Thread(target=asyncio.run, args=[serve()])
    thread.start()
    try:
        assert ready.wait(10)
        yield made[0]
    finally:
        done.set()
        thread.join()
