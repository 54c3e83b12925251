"""The token that opens connections: fetched once, shared by all lines, renewed before it is old.

    none ──get──▶ asking ──▶ fresh ──(its margin before the end)──▶ stale ──get──▶ asking
                    └─▶ refused: whoever asks within the pause is told the same, without another request

- Only one request is under way at a time; whoever wants a token meanwhile waits for its outcome.
- A token's life counts from the moment of asking. It is not handed out within its margin, which is a quarter
  of its life at most, so that short-lived tokens work as well.
- At most ``REQUESTS_PER_MINUTE`` requests in any minute; above it the answer is a refusal that names the
  wait.
- After a refusal there is a pause: what ``Retry-After`` asks for, else a long one where the key is bad
  (401, 403) and a short one otherwise.
- The answer is data from outside: what would not pass as one WebSocket subprotocol is no token.
- Key, secret and token show in no text, no repr and no note; the key is read anew for each request.
"""

import re
import ssl
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, NamedTuple

import msgspec
import trio

from feedhandler.config import Credentials
from feedhandler.core.notes import Notify, note
from feedhandler.errors import ConfigError, ConnectionFailed, TokenRefused
from feedhandler.exchange.web import Answer, ask

REQUESTS_PER_MINUTE: Final = 20
"""The exchange's limit for one key (exchange-api.md, section 2.1)."""
MINUTE_S: Final = 60.0
TIMEOUT_S: Final = 10.0
MARGIN_S: Final = 180.0
"""How long before its end a token is renewed."""
DOCUMENTED_LIFE_S: Final = 1800.0
"""The life of a token whose answer does not tell it."""
LIFE_MAX_S: Final = 86_400.0
"""The longest life that is believed."""
YOUNG_S: Final = 5.0
"""A token of this age is not replaced when it is refused: its age is not the reason."""
PAUSE_S: Final = 1.0
BAD_KEY_PAUSE_S: Final = 30.0
PAUSE_MAX_S: Final = 3600.0
TOKEN_MAX_CHARS: Final = 8192

_SHAPE: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BAD_KEY: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


class Token(NamedTuple):
    """A token and how long it lives from the moment of asking."""

    text: str
    life_s: float

    def __repr__(self) -> str:
        return f"Token(life_s={self.life_s:g})"


class TokenSource:
    """Hands out one token to all lines."""

    def __init__(
        self,
        url: str,
        credentials: Callable[[], Credentials | None],
        ssl_context: ssl.SSLContext,
        notify: Notify,
        *,
        margin_s: float = MARGIN_S,
    ) -> None:
        self._url = url
        self._credentials = credentials
        self._ssl_context = ssl_context
        self._notify = notify
        self._margin_s = margin_s
        self._asking = trio.Lock()
        self._asked_s: deque[float] = deque(maxlen=REQUESTS_PER_MINUTE)
        self._token: Token | None = None
        self._since_s = 0.0
        self._refusal: TokenRefused | None = None
        self._resume_s = 0.0

    def __repr__(self) -> str:
        return f"<TokenSource {self._url}: {self._token}>"

    @property
    def age_s(self) -> float | None:
        """Age of the token; None where there is none."""
        return None if self._token is None else trio.current_time() - self._since_s

    async def get(self) -> str:
        """Return a token outside of its margin; raise ``TokenRefused`` where there is none to be had."""
        token = self._fresh()
        if token is None:
            async with self._asking:
                token = self._fresh() or await self._renew()
        return token.text

    async def replace(self, refused: str) -> bool:
        """Have a token replaced that the exchange refused; say whether there is another now."""
        async with self._asking:
            token = self._token
            if token is not None and token.text == refused:
                if trio.current_time() - self._since_s < YOUNG_S:
                    return False
                token = await self._renew()
            return token is not None and token.text != refused

    def _fresh(self) -> Token | None:
        """Return the token unless it is within its margin."""
        token = self._token
        if token is None:
            return None
        margin_s = min(self._margin_s, token.life_s / 4)
        return token if trio.current_time() < self._since_s + token.life_s - margin_s else None

    async def _renew(self) -> Token:
        """Ask for a token, unless a pause holds."""
        asked_s = trio.current_time()
        if self._refusal is not None and asked_s < self._resume_s:
            raise self._again(self._refusal, self._resume_s - asked_s)
        try:
            token = await self._ask(asked_s)
        except TokenRefused as refusal:
            self._remember(refusal)
            raise
        self._token, self._since_s, self._refusal = token, asked_s, None
        self._notify(note("token_renewed", life_s=token.life_s))
        return token

    async def _ask(self, asked_s: float) -> Token:
        headers = self._headers()
        if len(self._asked_s) == REQUESTS_PER_MINUTE and asked_s < self._asked_s[0] + MINUTE_S:
            wait_s = self._asked_s[0] + MINUTE_S - asked_s
            raise TokenRefused(0, "the limit of token requests per minute is reached", wait_s)
        self._asked_s.append(asked_s)
        return read_token(await self._post(headers))

    def _headers(self) -> dict[str, str]:
        """Read key and secret anew; that they are missing now is no reason to stop."""
        try:
            credentials = self._credentials()
        except ConfigError:
            credentials = None
        if credentials is None:
            raise TokenRefused(0, "there is no API key and secret to be read")
        return {"X-Api-Key": credentials.key, "X-Api-Secret": credentials.secret}

    async def _post(self, headers: dict[str, str]) -> Answer:
        try:
            return await ask(
                "POST", self._url, headers=headers, ssl_context=self._ssl_context, timeout_s=TIMEOUT_S
            )
        except ConnectionFailed as failure:
            refusal = TokenRefused(0, f"token endpoint: {failure}")
        raise refusal

    def _remember(self, refusal: TokenRefused) -> None:
        """Begin the pause that a refusal costs."""
        pause_s = BAD_KEY_PAUSE_S if refusal.status in _BAD_KEY else PAUSE_S
        self._refusal = refusal
        self._resume_s = trio.current_time() + min(max(pause_s, refusal.retry_after or 0.0), PAUSE_MAX_S)
        self._notify(note("token_refused", status=refusal.status, bad_key=refusal.status in _BAD_KEY))

    def _again(self, refusal: TokenRefused, wait_s: float) -> TokenRefused:
        """Repeat a refusal for another line; one that named a time names what is left of it."""
        return TokenRefused(refusal.status, str(refusal), wait_s if refusal.retry_after else None)


def read_token(answer: Answer) -> Token:
    """Read the answer of the token endpoint; raise ``TokenRefused`` where it holds no token."""
    status = answer.status
    if status != HTTPStatus.OK:
        why = "the API key is not accepted" if status in _BAD_KEY else "the token endpoint gave no token"
        raise TokenRefused(status, f"{why} (HTTP status {status})", answer.retry_after_s)
    try:
        fields = msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        fields = None
    text = fields.get("access_token") if isinstance(fields, dict) else None
    if not isinstance(text, str) or len(text) > TOKEN_MAX_CHARS or not _SHAPE.fullmatch(text):
        raise TokenRefused(status, "the answer of the token endpoint holds no token")
    return Token(text, _life_s(fields.get("expires_in")))


def _life_s(expires_in: object) -> float:
    """Read how long a token lives; the documented time where the answer tells nothing sensible."""
    if isinstance(expires_in, bool) or not isinstance(expires_in, int | float):
        return DOCUMENTED_LIFE_S
    return float(min(expires_in, LIFE_MAX_S)) if expires_in > 0 else DOCUMENTED_LIFE_S
