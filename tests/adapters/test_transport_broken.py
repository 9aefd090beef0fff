"""A connection that is reset as soon as it is made: httpx does not tell this as an error of its own under uvloop."""

from __future__ import annotations

import asyncio
import ssl

import httpx
import pytest
import uvloop
from qdrant_client.http.exceptions import ResponseHandlingException

from perdure.adapters import neo4j_errors, postgres_errors, qdrant_errors
from perdure.adapters.qdrant_open import place_of
from perdure.adapters.verdict import Classify, Verdict, classify_plain, is_transport_broken
from perdure.errors import Unavailable
from perdure.wire.dependencies import QdrantOptions
from tests.support.fault_proxy import RESET, FaultProxy

#: How often it is tried: the reset has to come between two steps of the connecting.
TRIES = 100
#: Reading the machine's certificates would take most of the time.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class _Gone(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise AttributeError("a mistake of the caller's own transport")


async def _ask(port: int) -> BaseException:
    async with httpx.AsyncClient(verify=NO_TLS) as client:
        with pytest.raises(Exception) as caught:  # noqa: PT011  # which one, is the question
            await client.get(f"http://127.0.0.1:{port}/")
    return caught.value


def test_a_reset_while_connecting_is_the_services_fault() -> None:
    """It would count as proof of life: the breaker stays closed, and jobs use up their attempts."""

    async def collect(port: int) -> list[BaseException]:
        return [await _ask(port) for _ in range(TRIES)]

    with FaultProxy("127.0.0.1", 9) as proxy, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        proxy.mode = RESET
        errors = runner.run(collect(proxy.port))
    assert {classify_plain(error) for error in errors} == {Verdict.UNAVAILABLE}, {type(error) for error in errors}
    place = place_of(QdrantOptions(url="http://127.0.0.1:1"))
    for error in errors:
        wrapped = ResponseHandlingException(error)
        assert qdrant_errors.classify(wrapped) is Verdict.UNAVAILABLE
        assert isinstance(qdrant_errors.diagnose(wrapped, place), Unavailable)


@pytest.mark.parametrize("classify", [postgres_errors.classify, neo4j_errors.classify, classify_plain])
def test_a_write_to_a_connection_that_is_gone_is_the_services_fault(classify: Classify) -> None:
    """Neo4j's driver passes on what uvloop says of it: it would count as proof of life."""

    async def write() -> BaseException:
        hung_up = asyncio.Event()
        server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
        await reader.read()
        transport = writer.transport
        transport.abort()
        asyncio.get_running_loop().call_soon(hung_up.set)
        await hung_up.wait()
        with pytest.raises(RuntimeError) as caught:
            transport.write(b"x")  # type: ignore[attr-defined]
        server.close()
        return caught.value

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert classify(runner.run(write())) is Verdict.UNAVAILABLE
    assert classify(RuntimeError("a mistake of the handler")) is Verdict.CALLER


async def test_a_mistake_of_the_caller_is_not_taken_for_that() -> None:
    """A bug in a handler would open the breaker for all."""
    async with httpx.AsyncClient(transport=_Gone()) as client:
        with pytest.raises(AttributeError) as caught:
            await client.get("http://127.0.0.1/")
    assert not is_transport_broken(caught.value)
    assert classify_plain(caught.value) is Verdict.CALLER
