"""Handlers that spoil the channel of their worker, as a wild pointer or a stray write would."""

from __future__ import annotations

import os
import random
import socket
import stat
import time

from msgspec.msgpack import Decoder

from perdure import job
from perdure.wire.work import FromWorker
from tests.wire.mutator import Mutator, examples, is_valid


def channel_fd() -> int:
    """The worker's own end of its channel: the only socket that keeps the boundaries of messages."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                continue
            with socket.socket(fileno=os.dup(fd)) as sock:
                if sock.type == socket.SOCK_SEQPACKET:
                    return fd
        except OSError:
            continue
    raise AssertionError("no channel")


@job("spoil", max_interruptions=1)
def spoil(seed: int, count: int) -> None:
    """Tell lies in the worker's name, `count` of them, and then something that is no message at all."""
    mutator, decoder = Mutator(examples(FromWorker), random.Random(seed)), Decoder(FromWorker)
    with socket.socket(fileno=os.dup(channel_fd())) as sock:
        sock.setblocking(True)
        while count:
            if is_valid(lie := mutator(), decoder):
                sock.send(lie, socket.MSG_NOSIGNAL)
                count -= 1
        sock.send(b"\xff", socket.MSG_NOSIGNAL)
    while True:
        time.sleep(60)


@job("fine")
def fine() -> str:
    """Nothing wrong here."""
    return "fine"
