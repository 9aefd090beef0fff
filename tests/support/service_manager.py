"""A service manager for tests: the end of NOTIFY_SOCKET that systemd would hold."""

from __future__ import annotations

import os
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


@dataclass(frozen=True)
class Message:
    """One datagram: who sent it, when (monotonic seconds), and its fields."""

    pid: int
    at: float
    fields: dict[str, str]


class ServiceManager:
    """Listens for sd_notify datagrams. Give `environ()` to the process under test, then wait for fields."""

    def __init__(self, folder: Path, *, abstract: bool = False) -> None:
        self.address = f"@perdure-test-{os.getpid()}-{id(self)}" if abstract else str(folder / "notify.sock")
        self.messages: list[Message] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind("\0" + self.address[1:] if abstract else self.address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Be gone, as a manager that crashed."""
        self._socket.close()

    def environ(self, *, watchdog_seconds: float | None = None, pid: int | None = None) -> dict[str, str]:
        """What systemd would set for a Type=notify service; without `pid`, WATCHDOG_PID is left out."""
        variables = {"NOTIFY_SOCKET": self.address}
        if watchdog_seconds is not None:
            variables["WATCHDOG_USEC"] = str(int(watchdog_seconds * 1_000_000))
        if pid is not None:
            variables["WATCHDOG_PID"] = str(pid)
        return variables

    def receive(self, timeout: float = 5.0) -> Message:
        """The next datagram, also kept in `messages`. Raises TimeoutError after `timeout` seconds."""
        self._socket.settimeout(max(timeout, 0.001))
        data, ancillary, _, _ = self._socket.recvmsg(65536, socket.CMSG_SPACE(_CREDENTIALS.size))
        pid = next((_CREDENTIALS.unpack(c)[0] for level, kind, c in ancillary if kind == socket.SCM_CREDENTIALS), 0)
        fields = dict(line.split("=", 1) for line in data.decode().splitlines() if "=" in line)
        self.messages.append(Message(pid, time.monotonic(), fields))
        return self.messages[-1]

    def wait_for(self, name: str, value: str | None = None, timeout: float = 10.0) -> Message:
        """The next datagram with this field (and value). Raises AssertionError that tells what came instead."""
        deadline = time.monotonic() + timeout
        seen = len(self.messages)
        while (left := deadline - time.monotonic()) > 0:
            try:
                message = self.receive(left)
            except TimeoutError:
                break
            if name in message.fields and value in (None, message.fields[name]):
                return message
        raise AssertionError(f"no {name}={value or '…'} within {timeout} s; came: {self.messages[seen:]}")

    def pending(self) -> list[Message]:
        """Every datagram that has arrived already."""
        arrived: list[Message] = []
        while True:
            try:
                arrived.append(self.receive(0))
            except TimeoutError:
                return arrived
