"""One HTTP request to the exchange: bounded in time and size, its faults mapped once.

This is the only file that knows httpx2. Requests are rare (a token every half hour, the markets at start-up),
so each has a connection of its own and nothing stays open. Redirects are not followed and no proxy or other
setting is taken from the environment: keys go where the configuration says and nowhere else. An exception of
httpx2 holds the request with its headers, so none of them leaves this file, not even as a context, and ours leaves
it without the frames in which the headers stood.
"""

import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from time import time as wall_clock
from typing import Final

import httpx2
import trio

from feedhandler.errors import ConnectionFailed

ANSWER_MAX_BYTES: Final = 4 * 1024 * 1024
"""The longest body that is kept; an endpoint that sends more has given no answer."""

STEPS: Final = 3
"""TCP, TLS, answer: each has its share of the time. httpx2 closes a TLS handshake that is too slow for it, but
leaves the socket of one open that is cancelled from outside."""


@dataclass(frozen=True, slots=True)
class Secret:
    """The value of a header; it shows in no representation."""

    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an endpoint answered; ``retry_after_s`` if it named a time. The body may hold a token and does not show."""

    status: int
    body: bytes = field(repr=False)
    retry_after_s: float | None = None


async def ask(
    method: str,
    url: str,
    *,
    headers: Mapping[str, Secret],
    ssl_context: ssl.SSLContext,
    timeout_s: float,
) -> Answer:
    """Send one request and return the answer; raise ``ConnectionFailed`` where there is none."""
    failure = ConnectionFailed("timeout", "no complete answer of the endpoint in time")
    with trio.move_on_after(timeout_s):
        try:
            return await _ask(method, url, headers, ssl_context, timeout_s / STEPS)
        except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as error:
            failure = _failure(error)
        except ConnectionFailed as own:
            failure = own.with_traceback(None)
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


async def _ask(
    method: str, url: str, headers: Mapping[str, Secret], ssl_context: ssl.SSLContext, step_s: float
) -> Answer:
    sent = {name.encode(): secret.value.encode(errors="replace") for name, secret in headers.items()}
    sent[b"Accept-Encoding"] = b"identity"
    async with (
        httpx2.AsyncClient(verify=ssl_context, trust_env=False, timeout=step_s) as client,
        client.stream(method, url, headers=sent) as response,
    ):
        body = bytearray()
        with (
            trio.CancelScope() as enough
        ):  # the library parts from half a body in peace only where it is cancelled
            async for piece in response.aiter_raw():
                body += piece[: ANSWER_MAX_BYTES + 1 - len(body)]
                if len(body) > ANSWER_MAX_BYTES:
                    enough.cancel()
        if len(body) > ANSWER_MAX_BYTES:
            raise ConnectionFailed("protocol", "the answer of the endpoint is too long")
        retry_after = response.headers.get("retry-after")
        return Answer(
            response.status_code,
            bytes(body),
            None if retry_after is None else retry_after_s(retry_after, wall_clock()),
        )


def _failure(error: Exception) -> ConnectionFailed:
    """Map an exception of httpx2 to ours; the text tells nothing of the request."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            text = f"the certificate of the endpoint is not accepted: {cause.verify_message}"
            return ConnectionFailed("tls", text)
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return ConnectionFailed("tls", "the TLS handshake with the endpoint was not completed")
    if any(isinstance(cause, socket.gaierror | UnicodeError) for cause in causes):
        return ConnectionFailed("dns", "the name of the endpoint does not resolve")
    return _plain_failure(error)


def _plain_failure(error: Exception) -> ConnectionFailed:
    if isinstance(error, httpx2.ConnectError):
        return ConnectionFailed("unreachable", "no connection to the endpoint")
    if isinstance(error, httpx2.NetworkError):
        return ConnectionFailed("unreachable", "the connection to the endpoint broke")
    if isinstance(error, httpx2.TimeoutException):
        return ConnectionFailed("timeout", "no answer of the endpoint in time")
    return ConnectionFailed("protocol", "the endpoint gave no usable HTTP answer")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Return an exception and what it came from, the nearest first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
