"""`http.request`: one HTTP request as a job."""

from __future__ import annotations

import asyncio
import json as json_module
import re
from collections.abc import Container
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from ssl import SSLContext
from typing import Any, Final

from perdure.context import Context
from perdure.data_check import encode_data
from perdure.errors import CallTooLong, InvalidArguments, NotData, Permanent, Retry
from perdure.job import job
from perdure.kinds.plain import seconds

try:
    import httpx
except ImportError as error:
    raise ImportError("the kind http.request needs httpx; install perdure[http]") from error

#: How much of an answer's body is kept in the result.
MOST_BODY_BYTES: Final = 32 * 1024
MOST_REDIRECTS: Final = 5
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: Answers after which the same request may succeed, besides 5xx.
_PASSING_STATUS: Final = frozenset({408, 425, 429})
#: Methods that do the same when they are repeated.
_REPEATABLE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
#: What stands in results: enough to judge an answer by, nothing secret such as cookies.
_KEPT_HEADERS: Final = ("content-type", "content-length", "etag", "last-modified", "location", "retry-after")


@job("http.request")
async def request(
    ctx: Context,
    url: str,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    json: Any = None,
    body: str | None = None,
    timeout: str | float = "30s",
    expect: list[int] | None = None,
    dependency: str | None = None,
) -> dict[str, Any]:
    """Send an HTTP request; the result holds status, headers and the beginning of the body.

    `json` or `body` is what is sent. `timeout` (text such as "30s", or seconds) holds for all of it, redirects (at most
    5) included. `expect`: the statuses that count as success, instead of 200 to 299. `dependency`: the name of a
    [dependencies.NAME] of the configuration whose breaker guards the request; GET, HEAD, PUT and DELETE are then
    repeated within the attempt.

    Tried again: no answer, 5xx, 408, 425 and 429 (after the time that Retry-After names). Any other status that is not
    expected, and an address that cannot be one, are permanent. Result: {"status", "url", "headers"} and "json" or
    "body" with up to 32 KiB; "truncated" is true when there was more.
    """
    limit = seconds(timeout)
    prepared = _prepare(method, url, headers, json, body)
    expected = range(200, 300) if expect is None else expect

    async def send() -> dict[str, Any]:
        return await _send(prepared, expected, limit)

    try:
        if dependency is not None:
            may_repeat = prepared.method in _REPEATABLE
            return await ctx.guard(dependency, timeout=limit, retry=_worth_repeating if may_repeat else False)(send)()
        try:
            async with asyncio.timeout(limit):
                return await send()
        except TimeoutError as error:
            raise CallTooLong(f"{prepared.method} {url} was not answered within {limit:g} s") from error
    except httpx.HTTPStatusError as error:
        raise _verdict(error) from error
    except (httpx.TooManyRedirects, httpx.UnsupportedProtocol, httpx.LocalProtocolError) as error:
        raise Permanent(f"{method} {url}: {error}") from error


# --- the request


def _prepare(method: str, url: str, headers: dict[str, str] | None, json: Any, body: str | None) -> httpx.Request:
    """The request, checked. Raises InvalidArguments."""
    if json is not None and body is not None:
        raise InvalidArguments("json and body: give one of them")
    if not method.isalpha():
        raise InvalidArguments(f"method: {method!r:.40} is none")
    for name, value in (headers or {}).items():
        if not _HEADER_NAME.fullmatch(name) or set(value) & set("\r\n\0"):
            raise InvalidArguments(f"headers: {name!r:.60} has a name or a value that no header can have")
    try:
        address = httpx.URL(url)
        # Compressed answers could be a thousand times as large as what comes over the wire.
        chosen = {"accept-encoding": "identity", **{name.lower(): value for name, value in (headers or {}).items()}}
        built = httpx.Request(method.upper(), address, headers=chosen, json=json, content=body)
    except (httpx.InvalidURL, UnicodeError, ValueError, TypeError) as error:
        raise InvalidArguments(f"this is no request: {error}") from error
    if address.scheme not in ("http", "https") or not address.host:
        raise InvalidArguments(f"url: {url!r:.100} must begin with http:// or https:// and name a host")
    return built


@cache
def _tls() -> SSLContext:
    """Reading all certificate authorities takes a while: once a process."""
    return httpx.create_ssl_context()


async def _send(prepared: httpx.Request, expected: Container[int], limit: float) -> dict[str, Any]:
    """The result for an expected answer. Raises httpx.HTTPStatusError for others. `limit`: seconds for each step."""
    client = httpx.AsyncClient(verify=_tls(), timeout=limit, follow_redirects=True, max_redirects=MOST_REDIRECTS)
    async with client:
        answer = await client.send(prepared, stream=True)
        try:
            beginning, truncated = await _read(answer)
        finally:
            await answer.aclose()
    if answer.status_code not in expected:
        start = _text(answer, beginning[:300])
        said = f": {start}" if start else ""
        message = f"{prepared.method} {answer.url} was answered with {answer.status_code} {answer.reason_phrase}{said}"
        raise httpx.HTTPStatusError(message, request=prepared, response=answer)
    return _result(answer, beginning, truncated)


async def _read(answer: httpx.Response) -> tuple[bytes, bool]:
    """The beginning of the body, and whether there is more."""
    found = bytearray()
    async for chunk in answer.aiter_bytes():
        found += chunk
        if len(found) > MOST_BODY_BYTES:
            return bytes(found[:MOST_BODY_BYTES]), True
    return bytes(found), False


# --- the answer


def _result(answer: httpx.Response, beginning: bytes, truncated: bool) -> dict[str, Any]:
    kept = {name: answer.headers[name] for name in _KEPT_HEADERS if name in answer.headers}
    result: dict[str, Any] = {"status": answer.status_code, "url": str(answer.url), "headers": kept}
    if truncated:
        result["truncated"] = True
    elif "json" in answer.headers.get("content-type", ""):
        with suppress(ValueError, RecursionError, NotData):
            value = json_module.loads(beginning)
            encode_data(value, "result")  # NaN, lone surrogates: what cannot be kept is shown as text
            return {**result, "json": value}
    return {**result, "body": _text(answer, beginning)}


def _text(answer: httpx.Response, raw: bytes) -> str:
    try:
        return raw.decode(answer.charset_encoding or "utf-8", "replace")
    except LookupError:
        return raw.decode("utf-8", "replace")


def _verdict(error: httpx.HTTPStatusError) -> Exception:
    """What an unexpected status means for the job."""
    status = error.response.status_code
    if status >= 500 or status in _PASSING_STATUS:
        return Retry(str(error), after=_retry_after(error.response))
    return Permanent(str(error))


def _retry_after(answer: httpx.Response) -> float | None:
    """Seconds that the server asks to wait: a number, or the time until a date; None if it does not ask."""
    text = answer.headers.get("retry-after", "").strip()
    if text.isdecimal():
        return float(min(int(text[:12]), 86_400))
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max(0.0, (moment - datetime.now(UTC)).total_seconds()), 86_400.0)


def _worth_repeating(error: BaseException) -> bool:
    """Not when the server has said when to come again."""
    return not (isinstance(error, httpx.HTTPStatusError) and "retry-after" in error.response.headers)
