"""Asking daemons for their state: one or several, all at once, each answer or the reason why there is none."""

import ssl
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final, NamedTuple

import msgspec
import trio

from feedhandler.config.readers import Url
from feedhandler.errors import ConfigError, ConnectionFailed
from feedhandler.exchange.web import ask
from feedhandler.observe.status import Status

DEFAULT_URL: Final = "http://127.0.0.1:9464"
ANSWER_S: Final = 5.0
"""The longest that an answer may take."""

_read_url = Url(("http", "https"), optional=False)
_decode = msgspec.json.Decoder(Status).decode


class Look(NamedTuple):
    """What one daemon answered: its state, as it came and as a value, or why there is none."""

    url: str
    status: Status | None
    body: bytes = b""
    failure: str = ""


class Asker:
    """Asks the daemons at some URLs; raises ``ConfigError`` where one is none."""

    def __init__(self, urls: Sequence[str]) -> None:
        mistakes: list[str] = []
        for url in urls:
            _read_url(url, "--url", mistakes)
        if mistakes:
            raise ConfigError(mistakes)
        self._urls = tuple(dict.fromkeys(url.rstrip("/") for url in urls)) or (DEFAULT_URL,)
        self._ssl = ssl.create_default_context()

    async def look(self, *, history: bool) -> list[Look]:
        """Ask all at once; return the answers in the order of the URLs."""
        looks: dict[str, Look] = {}

        async def one(url: str) -> None:
            looks[url] = await self._look(url, history=history)

        async with trio.open_nursery() as nursery:
            for url in self._urls:
                nursery.start_soon(one, url)
        return [looks[url] for url in self._urls]

    async def _look(self, url: str, *, history: bool) -> Look:
        target = f"{url}/status{'?history=1' if history else ''}"
        try:
            answer = await ask("GET", target, headers={}, ssl_context=self._ssl, timeout_s=ANSWER_S)
        except ConnectionFailed as failure:
            return Look(url, None, failure=f"no daemon answers ({failure})")
        if answer.status != HTTPStatus.OK:
            return Look(url, None, failure=f"answered with HTTP status {answer.status}")
        return read_look(url, answer.body)


def read_look(url: str, body: bytes) -> Look:
    """Read what a daemon answered."""
    try:
        return Look(url, _decode(body), body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Look(url, None, failure="the answer is no status of a feedhandler of this version")
