"""One HTTP request to the exchange: bounded in time and size, its faults mapped once.

This is the only file that knows httpx. Requests are rare (a token every half hour, the markets at start-up),
so each has a connection of its own and nothing stays open. Redirects are not followed and no proxy or other
setting is taken from the environment: keys go where the configuration says and nowhere else. An exception of
httpx holds the request with its headers, so none of them leaves this file, not even as a context.
"""

import ssl
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from time import time as wall_clock
from typing import Final, NamedTuple

import httpx
import trio

from feedhandler.errors import ConnectionFailed

ANSWER_MAX_BYTES: Final = 4 * 1024 * 1024
"""The longest body that is read; an endpoint that sends more gives no answer."""


class Answer(NamedTuple):
    """What an endpoint answered; ``retry_after_s`` if it named a time."""

    status: int
    body: bytes
    retry_after_s: float | None = None


async def ask(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    ssl_context: ssl.SSLContext,
    timeout_s: float,
) -> Answer:
    """Send one request and return the answer; raise ``ConnectionFailed`` where there is none."""
    failure = ConnectionFailed("timeout", f"no complete answer within {timeout_s:g} s")
    with trio.move_on_after(timeout_s):
        try:
            return await _ask(method, url, headers, ssl_context)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            failure = _failure(error)
    raise failure


def retry_after_s(value: str, wall_s: float) -> float | None:
    """Read a ``Retry-After`` header, seconds or a date, as seconds from now; None where it is neither."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:12])
    try:
        moment = parsedate_to_datetime(value)
        return max(0.0, (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - wall_s)
    except (ValueError, OverflowError):
        return None


async def _ask(method: str, url: str, headers: Mapping[str, str], ssl_context: ssl.SSLContext) -> Answer:
    async with (
        httpx.AsyncClient(verify=ssl_context, trust_env=False, timeout=None) as client,  # noqa: S113 ask() bounds it
        client.stream(method, url, headers=dict(headers)) as response,
    ):
        body = bytearray()
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > ANSWER_MAX_BYTES:
                raise httpx.DecodingError("too long")
        retry_after = response.headers.get("retry-after")
        return Answer(
            response.status_code,
            bytes(body),
            None if retry_after is None else retry_after_s(retry_after, wall_clock()),
        )


def _failure(error: Exception) -> ConnectionFailed:
    """Map an exception of httpx to ours; the text tells nothing of the request."""
    if isinstance(error, httpx.ConnectError):
        return ConnectionFailed("unreachable", "no connection to the endpoint")
    if isinstance(error, httpx.NetworkError):
        return ConnectionFailed("unreachable", "the connection to the endpoint broke")
    return ConnectionFailed("protocol", "the endpoint gave no usable HTTP answer")
