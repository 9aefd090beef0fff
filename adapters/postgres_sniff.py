"""Who listens on a port where PostgreSQL was expected? Asked only when a connection could not be made."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final, Literal, NamedTuple

#: Seconds for one question. There are two in a row at most.
QUESTION_SECONDS: Final = 0.5

#: How PostgreSQL is asked for TLS: it answers with one letter.
_TLS_REQUEST: Final = bytes([0, 0, 0, 8, 4, 210, 22, 47])
#: Bolt's magic number and four proposals of a version; it answers with the version it takes.
_BOLT_GREETING: Final = bytes([0x60, 0x60, 0xB0, 0x17, 0, 4, 4, 5, 0, 2, 4, 4, 0, 0, 0, 4, 0, 0, 0, 3])
_HTTP_REQUEST: Final = b"GET / HTTP/1.0\r\n\r\n"
_ANSWER_BYTES: Final = 64


class Listener(NamedTuple):
    """`kind`: what it is. `name`: another kind of server, as a message says it."""

    kind: Literal["tls", "plain", "other", "closed", "silent", "absent"]
    name: str = ""


async def who_listens(host: str, port: int) -> Listener:
    """Find out, in about a second. PostgreSQL is "tls" or "plain", by what it offers. Raises nothing."""
    answer = await _ask(host, port, _TLS_REQUEST)
    if answer is None:
        return Listener("absent")
    if answer in (b"S", b"N"):
        return Listener("tls" if answer == b"S" else "plain")
    if answer[:1] == b"E" and b"\0" in answer[1:]:
        return Listener("plain")  # an error in PostgreSQL's own words: it cannot fork, it is full
    if answer:
        return Listener("other", _name(answer))
    bolt, http = await asyncio.gather(_ask(host, port, _BOLT_GREETING), _ask(host, port, _HTTP_REQUEST))
    if bolt and len(bolt) == len(b"\0\0\0\5") and bolt[0] == 0:
        return Listener("other", "a Bolt server (Neo4j)")
    if http or bolt:
        return Listener("other", _name(http or bolt or b""))
    return Listener("silent" if isinstance(answer, _Silence) else "closed")


def _name(answer: bytes) -> str:
    if b"HTTP/" in answer:
        return "an HTTP server"
    if answer.startswith(b"SSH-"):
        return "an SSH server"
    if b"mysql" in answer or b"MariaDB" in answer:
        return "a MySQL server"
    if answer.startswith((b"-ERR", b"+OK")):
        return "a Redis server"
    return f"a server that answers {answer[:16]!r}"


class _Silence(bytes):
    """Nothing was said, and the connection stayed open."""


async def _ask(host: str, port: int, question: bytes) -> bytes | None:
    """The first bytes of the answer; b"": it hung up; _Silence: it said nothing; None: nobody took the connection."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(QUESTION_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(question)
            return await reader.read(_ANSWER_BYTES)
    except TimeoutError:
        return _Silence() if writer is not None else None
    except OSError:
        return b"" if writer is not None else None
    finally:
        if writer is not None:
            with contextlib.suppress(OSError):
                writer.transport.abort()
