"""The kind http.request, against a real server."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from perdure.context import Context
from perdure.daemon.worker.failure import failure
from perdure.errors import CallTooLong, InvalidArguments, Permanent, Retry
from perdure.kinds import http_request
from perdure.kinds.http_request import MOST_BODY_BYTES, request
from perdure.wire.dependencies import Policy
from tests.adapters.test_toolbox import Kit


class Site:
    """Answers with what the path asks for, and notes what came."""

    def __init__(self) -> None:
        site = self
        self.seen: list[dict[str, Any]] = []
        self.release = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                site.seen.append({"method": self.command, "path": self.path, "headers": headers, "body": body})
                site.answer(self, self.path.partition("?")[0].strip("/"))

            do_POST = do_PUT = do_DELETE = do_HEAD = do_GET  # noqa: N815 - the library's names

            def log_message(self, *_: object) -> None:
                """Silence."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def answer(self, to: BaseHTTPRequestHandler, path: str) -> None:
        """status/200, json, nan, big, turn/3, after/5, hang, latin."""
        word, _, number = path.partition("/")
        headers, body, status = {}, b"hello", 200
        match word:
            case "status":
                status = int(number)
            case "json":
                headers, body = {"content-type": "application/json"}, json.dumps({"a": [1, None]}).encode()
            case "nan":
                headers, body = {"content-type": "application/json"}, b"[NaN]"
            case "big":
                body = b"x" * (MOST_BODY_BYTES * 4)
            case "turn":
                status, headers = 302, {"location": f"/turn/{int(number) - 1}" if number != "0" else "/status/200"}
            case "after":
                status, headers = 503, {"retry-after": number.replace("_", " ")}
            case "latin":
                headers, body = {"content-type": "text/plain; charset=latin-1"}, "grün".encode("latin-1")
            case "hang":
                self.release.wait(10)
        to.send_response(status)
        for name, value in {"content-length": str(len(body)), "set-cookie": "secret=1", **headers}.items():
            to.send_header(name, value)
        to.end_headers()
        if to.command != "HEAD":
            to.wfile.write(body)

    def close(self) -> None:
        """End it."""
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(scope="module")
def running() -> Iterator[Site]:
    """The server."""
    site = Site()
    yield site
    site.close()


@pytest.fixture
def site(running: Site) -> Site:
    """The server, with nothing noted."""
    running.seen.clear()
    return running


async def ask(url: str, ctx: Context | None = None, **arguments: Any) -> dict[str, Any]:
    result: dict[str, Any] = await request.function(ctx or Context.for_test(), url, **arguments)
    return result


async def test_a_request_carries_what_it_was_given(site: Site) -> None:
    """The kind would be of no use."""
    result = await ask(f"{site.url}/json?q=1", method="post", headers={"X-Key": "k"}, json={"n": 1})
    assert result["json"] == {"a": [1, None]}
    assert (result["status"], result["headers"]["content-type"]) == (200, "application/json")
    assert "set-cookie" not in result["headers"]
    seen = site.seen[0]
    assert (seen["method"], seen["path"], seen["headers"]["x-key"]) == ("POST", "/json?q=1", "k")
    assert json.loads(seen["body"]) == {"n": 1}
    assert (await ask(f"{site.url}/status/204", method="HEAD", body="raw"))["status"] == 204
    assert (await ask(f"{site.url}/latin"))["body"] == "grün"


async def test_a_result_is_bounded_and_always_data(site: Site) -> None:
    """A large or odd answer would make a job fail that has done its work."""
    big = await ask(f"{site.url}/big")
    assert (len(big["body"]), big["truncated"]) == (MOST_BODY_BYTES, True)
    assert (await ask(f"{site.url}/nan"))["body"] == "[NaN]"


@pytest.mark.parametrize("status", [400, 401, 404, 409, 304])
async def test_a_refusal_is_permanent(site: Site, status: int) -> None:
    """A request that can never succeed would use up all attempts."""
    with pytest.raises(Permanent, match=str(status)):
        await ask(f"{site.url}/status/{status}")


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408])
async def test_a_passing_trouble_is_tried_again(site: Site, status: int) -> None:
    """A restart of the service would bury jobs."""
    with pytest.raises(Retry, match=str(status)) as caught:
        await ask(f"{site.url}/status/{status}")
    assert caught.value.after is None


async def test_the_servers_wish_for_a_pause_is_kept(site: Site) -> None:
    """A service that asks for patience would be asked all the more."""
    with pytest.raises(Retry) as caught:
        await ask(f"{site.url}/after/7")
    assert caught.value.after == 7.0
    with pytest.raises(Retry) as caught:
        await ask(f"{site.url}/after/{formatdate(time.time() + 100, usegmt=True).replace(' ', '_')}")
    assert isinstance(caught.value.after, float)
    assert 90 < caught.value.after <= 100
    with pytest.raises(Retry) as caught:
        await ask(f"{site.url}/after/soon")
    assert caught.value.after is None


async def test_expected_statuses_are_successes(site: Site) -> None:
    """A 404 that says "already deleted" could not be used."""
    assert (await ask(f"{site.url}/status/404", method="DELETE", expect=[200, 404]))["status"] == 404
    with pytest.raises(Permanent):
        await ask(f"{site.url}/status/201", expect=[200])


async def test_redirects_are_followed_but_not_for_ever(site: Site) -> None:
    """A loop of redirects would hold a slot until its time limit."""
    assert (await ask(f"{site.url}/turn/3"))["status"] == 200
    with pytest.raises(Permanent, match="redirects"):
        await ask(f"{site.url}/turn/9")
    assert len(site.seen) < 20


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "ftp://host/x"},
        {"url": "http://"},
        {"url": "no address"},
        {"url": "http://h:port/"},
        {"method": "G T"},
        {"json": 1, "body": "x"},
        {"timeout": "soon"},
        {"timeout": 0},
        {"headers": {"a\n": "b\nc"}, "method": "GET", "url": "http://127.0.0.1:1/"},
    ],
)
async def test_what_can_be_no_request_is_said_at_once(wrong: dict[str, Any]) -> None:
    """It would be tried again and again."""
    with pytest.raises(InvalidArguments):
        await ask(wrong.pop("url", "http://127.0.0.1:1/"), **wrong)


async def test_silence_and_absence_can_pass(site: Site) -> None:
    """A server that restarts would bury jobs; one that hangs would hold them."""
    with pytest.raises(CallTooLong, match=r"within 0\.1 s"):
        await ask(f"{site.url}/hang", timeout="100ms")
    with pytest.raises(http_request.httpx.ConnectError) as caught:
        await ask("http://127.0.0.1:1/")
    assert failure(1, caught.value).retryable


async def test_a_named_dependency_guards_the_request(site: Site) -> None:
    """An outage of the service would cost each of its jobs an attempt."""
    kit = Kit(policy=Policy(tries=2, retry_base_ms=1))
    ctx = Context(
        id=7, kind="k", queue="q", args={}, attempt=1, max_attempts=5, log=Context.for_test().log, tools=kit.box.tools
    )
    assert (await ask(f"{site.url}/json", ctx, dependency="billing"))["status"] == 200
    for path, method, tries, failures in (
        ("status/503", "GET", 2, 1),
        ("status/503", "POST", 1, 2),
        ("after/5", "GET", 1, 3),
        ("status/500", "GET", 1, 3),
        ("status/404", "GET", 1, 3),
    ):
        site.seen.clear()
        with pytest.raises((Retry, Permanent)) as caught:
            await ask(f"{site.url}/{path}", ctx, method=method, dependency="billing")
        assert len(site.seen) == tries, (path, method)
        assert kit.totals()[1] == failures, (path, method)
        is_outage = path in ("status/503", "after/5")
        assert failure(1, caught.value).dependency == ("billing" if is_outage else None)
