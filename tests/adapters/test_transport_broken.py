"""A connection that is reset as soon as it is made: httpx does not tell this as an error of its own under uvloop."""

from __future__ import annotations

import asyncio

import httpx
import pytest
import uvloop
from qdrant_client.http.exceptions import ResponseHandlingException

from perdure.adapters import qdrant_errors
from perdure.adapters.qdrant_open import place_of
from perdure.adapters.verdict import Verdict, classify_plain, is_transport_broken
from perdure.errors import Unavailable
from perdure.wire.dependencies import QdrantOptions
from tests.support.fault_proxy import RESET, FaultProxy


#: How often it is tried: the reset has to come between two steps of the connecting.
TRIES = 100


class _Gone(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise AttributeError("a mistake of the caller's own transport")


async def _ask(port: int) -> BaseException:
    async with httpx.AsyncClient() as client:
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


async def test_a_mistake_of_the_caller_is_not_taken_for_that() -> None:
    """A bug in a handler would open the breaker for all."""
    async with httpx.AsyncClient(transport=_Gone()) as client:
        with pytest.raises(AttributeError) as caught:
            await client.get("http://127.0.0.1/")
    assert not is_transport_broken(caught.value)
    assert classify_plain(caught.value) is Verdict.CALLER
