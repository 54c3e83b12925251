"""What the token endpoint may answer instead of a token, byte for byte.

After it the exchange closes the connection (``close`` and ``silence`` are no bytes at all); ``endless`` goes on for as
long as the client reads. Where an answer holds a token it is a good one, so that a client that shows what it could not
read shows a secret.
"""

import itertools
from collections.abc import Iterable
from typing import Final

from feedhandler.simulator.settings import EndpointAnswer

HUGE_BYTES: Final = 8 * 1024 * 1024
PIECE: Final = b" " * (64 * 1024)


def odd_answer(kind: EndpointAnswer, token: str, elsewhere: str) -> Iterable[bytes]:
    """Return the pieces of an answer; ``elsewhere`` is where a redirect leads."""
    if kind == "huge":
        head = _head(200, f"Content-Length: {HUGE_BYTES}")
        return itertools.chain([head], itertools.repeat(PIECE, HUGE_BYTES // len(PIECE)))
    if kind == "endless":
        chunk = b"%x\r\n%b\r\n" % (len(PIECE), PIECE)
        return itertools.chain([_head(200, "Transfer-Encoding: chunked")], itertools.repeat(chunk))
    if kind == "redirect":
        return [_head(307, f"Location: {elsewhere}", "Content-Length: 0")]
    if kind == "cut":
        return [_head(200, "Content-Length: 4096") + f'{{"access_token":"{token}"'.encode()]
    if kind == "no_http":
        return [f"\x00\x15SSH-2.0-{token}\r\n".encode()]
    return [_whole(body) for body in _bodies(kind, token)]


def _bodies(kind: EndpointAnswer, token: str) -> list[str]:
    bodies = {
        "html": f"<html><body>Service unavailable {token}</body></html>",
        "empty": "",
        "array": f'["{token}"]',
        "no_token": f'{{"token":"{token}","expires_in":1800}}',
        "odd_token": f'{{"access_token":"{token}\\r\\nX: y","expires_in":1800}}',
    }
    return [bodies[kind]] if kind in bodies else []


def _whole(body: str) -> bytes:
    return _head(200, f"Content-Length: {len(body)}") + body.encode()


def _head(status: int, *headers: str) -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status} Odd", *headers, "", "")).encode()
