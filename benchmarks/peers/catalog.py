"""Which peers there are, what they keep their jobs in, and the two durabilities of each."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.peers.servers import Maker, make_postgres, make_redis

ALWAYS = "fsync: AOF, appendfsync always"
SNAPSHOTS = "no fsync: as shipped, snapshots"
COMMIT_ON = "fsync: synchronous_commit on"
COMMIT_OFF = "no fsync: synchronous_commit off"
FULL = "fsync: synchronous FULL"
NORMAL = "no fsync: synchronous NORMAL"


@dataclass(frozen=True)
class Peer:
    """`durable` and `fast` say what the two settings are; `server` makes what it needs, if anything."""

    name: str
    module: str
    durable: str
    fast: str
    server: Maker | None = None
    #: Without a server of its own the workers are all there is to kill, and the daemon with them.
    killed: str = "workers"


def _redis(name: str) -> Peer:
    return Peer(name, f"with_{name}", ALWAYS, SNAPSHOTS, make_redis, "workers and Redis")


def _postgres(name: str) -> Peer:
    return Peer(name, f"with_{name}", COMMIT_ON, COMMIT_OFF, make_postgres, "workers and PostgreSQL")


PEERS = {
    peer.name: peer
    for peer in (
        Peer("perdure", "with_perdure", "fsync: durability full", "no fsync: durability normal", None, "all of it"),
        Peer("huey", "with_huey", FULL, "no fsync: synchronous OFF"),
        Peer("litequeue", "with_litequeue", FULL, NORMAL),
        Peer("plainjob", "plainjob.mjs", FULL, NORMAL),
        _redis("celery"),
        _redis("dramatiq"),
        _redis("rq"),
        _redis("arq"),
        _redis("saq"),
        _redis("taskiq"),
        _postgres("procrastinate"),
        _postgres("pgqueuer"),
    )
}
