"""The verdicts for services without an adapter."""

from __future__ import annotations

import pytest

from perdure.adapters.verdict import Verdict, classify_plain


def test_classify_plain() -> None:
    """A user's own service would be called down for the user's mistakes, or up while its gateway says it is not."""
    assert classify_plain(ConnectionRefusedError()) is Verdict.UNAVAILABLE
    assert classify_plain(TimeoutError()) is Verdict.UNAVAILABLE
    assert classify_plain(KeyError("x")) is Verdict.CALLER
    assert classify_plain(ExceptionGroup("both", [ConnectionResetError(), TimeoutError()])) is Verdict.UNAVAILABLE
    assert classify_plain(ExceptionGroup("one", [ConnectionResetError(), KeyError()])) is Verdict.CALLER


@pytest.mark.parametrize(("status", "verdict"), [(503, "UNAVAILABLE"), (429, "UNAVAILABLE"), (404, "CALLER")])
def test_classify_plain_knows_httpx(status: int, verdict: str) -> None:
    """A gateway that says "not now" would be taken for an answer of the service."""
    httpx = pytest.importorskip("httpx")
    request = httpx.Request("GET", "http://billing.test/")
    error = httpx.HTTPStatusError("no", request=request, response=httpx.Response(status, request=request))
    assert classify_plain(error) is Verdict[verdict]
    assert classify_plain(httpx.ConnectTimeout("late")) is Verdict.UNAVAILABLE
