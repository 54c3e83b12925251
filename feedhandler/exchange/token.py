"""The token that opens connections: fetched once, shared by all lines, renewed before anyone has to wait for it.

    none ──▶ fresh ──(margin before its end)──▶ stale        what there is
      └────────┴───────────────┴─▶ refused, limited, bad_key  what the last request came to, until one succeeds

| what comes of a request | state | the next one |
| --- | --- | --- |
| a token | fresh | a span before its end: twice its margin, or as long as all lines need |
| 401 or 403; key or secret can't be read | bad_key | after a long pause that doubles, or as soon as the files change |
| 429, or our own limit is reached | limited | at ``Retry-After``, else after a pause; when the limit allows |
| another status, no usable answer, no answer | refused | likewise, after a pause with jitter that doubles |

- Only one request is under way at a time; whoever wants a token meanwhile waits for its outcome. Within a pause
  whoever asks is told the same again, without another request.
- A token's life counts from the moment of asking. It is not handed out within its margin, which is a quarter of its
  life at most, so that short-lived tokens work as well. `TokenSource.run` renews it one margin earlier, in the
  background: an endpoint that fails for so long costs nobody anything. Where there are more lines than can be connected
  anew in that time, it is earlier still (`core.rotation`).
- A ``Retry-After`` is kept to whatever the status, up to an hour; only another key is tried before.
- At most ``REQUESTS_PER_MINUTE`` in any minute, wherever the exchange's begin: it counts a request at some moment
  between our decision and its end, so each counts until ``WINDOW_S`` after its end. Failures count, too, and a changed
  configuration changes nothing of it.
- **Other daemons with the same key** count: the requests of all that stand at one socket are written down together, so
  is the ``Retry-After`` of a 429, and a daemon that was restarted a moment ago is one of them, too (``shared``).
- A token that a handshake refuses is replaced, at most every ``REPLACE_EVERY_S``: a 403 may mean anything, and
  lines that are refused for another reason must not use up the requests.
- Key and secret are read anew for each request, from files in a thread: a disk that hangs holds up no line. `run`
  looks for changed files all the time and asks with a new key at once; the old token is good until then.
- The answer is data from outside: what would not pass as one WebSocket subprotocol is no token.
- Key, secret and token show in no text, no repr, no note and no exception, the values in its frames included.
"""

import re
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from random import SystemRandom
from typing import Final, NamedTuple, Protocol

import msgspec
import trio

from feedhandler.config import Credentials
from feedhandler.core.backoff import RETRY_AFTER_MAX_S, Backoff
from feedhandler.core.notes import Notify, note
from feedhandler.core.rotation import span_s
from feedhandler.errors import ConfigError, ConnectionFailed, TokenRefused
from feedhandler.exchange.web import Answer, Secret, ask

REQUESTS_PER_MINUTE: Final = 20
"""The exchange's limit for one key (exchange-api.md, section 2.1)."""
WINDOW_S: Final = 61.0
"""How long a request counts after its end: one that was given up may arrive a little later."""
TIMEOUT_S: Final = 10.0
KEYS_TIMEOUT_S: Final = 5.0
"""The longest that reading key and secret may take."""
KEYS_POLL_S: Final = 2.0
"""How often the files of key and secret are looked at."""
MARGIN_S: Final = 180.0
"""How long before its end a token is not handed out any more."""
EARLY_MIN_S: Final = 6.0
"""A token is not renewed in the background before this age: half of the requests are left to the lines."""
DOCUMENTED_LIFE_S: Final = 1800.0
"""The life of a token whose answer does not tell it."""
LIFE_MAX_S: Final = 86_400.0
"""The longest life that is believed."""
LOOK_AGAIN_S: Final = 60.0
"""The longest that nobody looks when the next renewal is due: there may be more lines by then."""
REPLACE_EVERY_S: Final = 30.0
PAUSE_S: Final = 1.0
PAUSE_MAX_S: Final = 30.0
"""The longest pause after a failure, ``Retry-After`` aside."""
BAD_KEY_PAUSE_S: Final = 30.0
BAD_KEY_PAUSE_MAX_S: Final = 300.0
TOKEN_MAX_CHARS: Final = 8192

NONE: Final = "none"
"""There is no token yet."""
FRESH: Final = "fresh"
"""There is a token, to be handed out."""
STALE: Final = "stale"
"""The token is within its margin or has ended; whoever asks causes a request."""
REFUSED: Final = "refused"
"""The last request brought no token; the endpoint is asked again after a pause."""
LIMITED: Final = "limited"
"""Likewise, since there were too many requests."""
BAD_KEY: Final = "bad_key"
"""Key and secret are not accepted or can't be read: somebody has to do something."""

_SYSTEM_RANDOM: Final = SystemRandom()
_SHAPE: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BAD_KEY: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


@dataclass(frozen=True, slots=True)
class Token:
    """A token: ``asked_s`` is the moment of asking, on trio's clock, and its life counts from there."""

    text: str = field(repr=False)
    life_s: float
    asked_s: float = 0.0

    @property
    def ends_s(self) -> float:
        """When it ends, on trio's clock."""
        return self.asked_s + self.life_s

    @property
    def margin_s(self) -> float:
        """How long before its end it is not handed out any more."""
        return min(MARGIN_S, self.life_s / 4)


class Refusal(NamedTuple):
    """What the last request came to, if not to a token."""

    state: str
    status: int
    text: str
    named_a_time: bool


class Shared(Protocol):
    """The requests of all daemons at one socket (`ingest.ledger`)."""

    retry_s: float
    """When it is worth while to ask again, after a request was not to begin."""

    def begin(self, most: int, *, despite_pause: bool = False) -> int | None:
        """Write down a request, at most so many at once, and return its entry; None where it must not begin yet."""

    def finish(self, entry: int) -> None:
        """Hear that a request is over."""

    def pause(self, pause_s: float) -> None:
        """Write down that nobody is to ask for so long."""


class TokenSource:
    """Hands out one token to all lines.

    ``credentials`` is called for each request, in a thread where it may block (``in_thread``); ``round_s`` tells how
    long it takes to connect all lines anew; ``most`` how many requests of a minute may have been ``shared`` before one
    of this daemon begins.
    """

    def __init__(
        self,
        url: str,
        credentials: Callable[[], Credentials | None],
        ssl_context: ssl.SSLContext,
        notify: Notify,
        *,
        in_thread: bool = False,
        draw: Callable[[], float] = _SYSTEM_RANDOM.random,
        round_s: Callable[[], float] = lambda: 0.0,
        shared: Shared | None = None,
        most: Callable[[], int] = lambda: REQUESTS_PER_MINUTE,
    ) -> None:
        self._url = url
        self._credentials = credentials
        self._ssl_context = ssl_context
        self._notify = notify
        self._in_thread = in_thread
        self._draw = draw
        self._round_s = round_s
        self._shared = shared
        self._most = most
        self._reading = trio.CapacityLimiter(1)
        self._asking = trio.Lock()
        self._counted_until_s: deque[float] = deque(maxlen=REQUESTS_PER_MINUTE)
        self._keys: Credentials | None = None
        self._is_key_new = False
        self._token: Token | None = None
        self._refusal: Refusal | None = None
        self._resume_s = 0.0
        self._replaceable_s = 0.0
        self._backoff = Backoff(PAUSE_S, PAUSE_MAX_S)
        self._bad_key_pause_s = BAD_KEY_PAUSE_S
        self._renewed = trio.Event()
        self._changed = trio.Event()

    def __repr__(self) -> str:
        return f"<TokenSource {self._url} {self.state}: {self._token}>"

    @property
    def state(self) -> str:
        """What there is to say of the token: `NONE`, `FRESH`, `STALE`, `REFUSED`, `LIMITED` or `BAD_KEY`."""
        if self._refusal is not None:
            return self._refusal.state
        if self._token is None:
            return NONE
        return FRESH if self._fresh() else STALE

    @property
    def age_s(self) -> float | None:
        """Age of the token; None where there is none."""
        return None if self._token is None else trio.current_time() - self._token.asked_s

    @property
    def expires_in_s(self) -> float | None:
        """What is left of the token's life, below 0 after its end; None where there is none."""
        return None if self._token is None else self._token.ends_s - trio.current_time()

    @property
    def retry_in_s(self) -> float | None:
        """How long the pause after a refusal still lasts; None without one."""
        return None if self._refusal is None else max(0.0, self._resume_s - trio.current_time())

    async def run(self) -> None:
        """Keep a token at hand, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_fresh)
            nursery.start_soon(self._watch_keys)

    async def get(self) -> Token:
        """Return a token outside of its margin; raise ``TokenRefused`` where there is none to be had."""
        token = self._fresh()
        if token is None:
            async with self._asking:
                token = self._fresh() or await self._renew()
        return token

    async def replace(self, refused: Token) -> bool:
        """Have a token replaced that the exchange refused; say whether there is another now."""
        async with self._asking:
            if self._token is not None and self._token.text == refused.text:
                return await self._replace()
            return self._token is not None

    async def wait_renewed(self) -> None:
        """Wait until there is another token than now."""
        await self._renewed.wait()

    def change(
        self,
        url: str,
        credentials: Callable[[], Credentials | None],
        ssl_context: ssl.SSLContext,
        *,
        in_thread: bool = False,
    ) -> None:
        """Go by another configuration from the next request on; what was asked in the last minute counts on."""
        if url != self._url:
            self._token = None
        self._url = url
        self._credentials = credentials
        self._ssl_context = ssl_context
        self._in_thread = in_thread
        self._expect_key()

    def _fresh(self) -> Token | None:
        """Return the token unless it is within its margin."""
        token = self._token
        return token if token and trio.current_time() < token.ends_s - token.margin_s else None

    # In the background

    async def _keep_fresh(self) -> None:
        """Renew the token early, and ask again after each pause."""
        while True:
            with trio.move_on_at(min(self._due_s(), trio.current_time() + LOOK_AGAIN_S)):
                await self._changed.wait()
            if trio.current_time() >= self._due_s():
                await self._try()

    def _due_s(self) -> float:
        """Return when the next request is due although nobody asks; a moment in the past means at once."""
        token = self._token
        if token is None or self._refusal is not None or self._is_key_new:
            return self._resume_s
        early_s = span_s(token.life_s, 2 * token.margin_s, self._round_s())
        return max(token.ends_s - early_s, token.asked_s + EARLY_MIN_S)

    async def _watch_keys(self) -> None:
        """Ask at once with a key or secret that has changed."""
        while True:
            while not self._in_thread:  # an environment never changes
                await self._changed.wait()
            await trio.sleep(KEYS_POLL_S)
            if not self._is_key_new and await self._have_keys_changed():
                self._expect_key()

    async def _have_keys_changed(self) -> bool:
        """Tell whether key and secret can be read and were not used in the last request."""
        try:
            return await self._read_keys() != self._keys
        except TokenRefused:
            return False

    def _expect_key(self) -> None:
        """Have the key tried that may be there now; the pause of a bad one is over."""
        self._is_key_new = True
        if self.state == BAD_KEY:
            self._resume_s = 0.0
        self._change()

    async def _try(self) -> None:
        """Ask, unless somebody else has asked meanwhile; what comes of it was noted."""
        async with self._asking:
            if trio.current_time() < self._due_s():
                return
            try:
                await self._renew()
            except TokenRefused:
                return

    # Requests

    async def _replace(self) -> bool:
        now_s = trio.current_time()
        if now_s < self._replaceable_s:
            return False
        self._replaceable_s = now_s + REPLACE_EVERY_S
        try:
            await self._renew()
        except TokenRefused:
            if self.state != BAD_KEY:
                return False
            self._token = None  # neither it nor the key is good: no handshake is worth trying
            raise
        return True

    async def _renew(self) -> Token:
        """Ask for a token, unless a pause holds."""
        refused: TokenRefused | None = None
        if trio.current_time() >= self._resume_s:
            try:
                return self._take(await self._ask())
            except TokenRefused as refusal:
                refused = refusal
        if refused is not None:
            self._remember(refused)
        raise self._again()

    async def _ask(self) -> Token:
        is_key_new, self._is_key_new = self._is_key_new, False
        try:
            self._keys = await self._read_keys()
        except TokenRefused:
            self._keys = None
            raise
        asked_s = trio.current_time()
        entry = self._begin(asked_s, despite_pause=is_key_new)
        try:
            answer = await self._post(self._keys)
        finally:
            self._counted_until_s.append(trio.current_time() + WINDOW_S)
            if self._shared is not None:
                self._shared.finish(entry)
        if (
            self._shared is not None
            and answer.status == HTTPStatus.TOO_MANY_REQUESTS
            and answer.retry_after_s
        ):
            self._shared.pause(answer.retry_after_s)
        return read_token(answer, asked_s)

    def _begin(self, now_s: float, *, despite_pause: bool) -> int:
        """Count a request among those of all daemons; return its entry there."""
        counted = self._counted_until_s
        retry_s = counted[0] if len(counted) == REQUESTS_PER_MINUTE else now_s
        entry: int | None = 0
        if retry_s <= now_s and self._shared is not None:
            entry = self._shared.begin(self._most(), despite_pause=despite_pause)
            retry_s = now_s if entry is not None else self._shared.retry_s
        if retry_s > now_s or entry is None:
            wait_s = max(0.0, retry_s - now_s)
            raise TokenRefused(0, "the limit of token requests per minute is reached", wait_s)
        return entry

    async def _read_keys(self) -> Credentials:
        """Read key and secret anew; that they can't be read now is no reason to stop."""
        credentials, why = None, "there is no API key and secret to be read"
        try:
            if self._in_thread:
                credentials = await self._read_in_thread()
            else:
                credentials = self._credentials()
        except ConfigError as error:
            why = "; ".join(error.mistakes)
        except trio.TooSlowError:
            why = "the API key and secret cannot be read in time"
        if credentials is None:
            raise TokenRefused(0, why)
        return credentials

    async def _read_in_thread(self) -> Credentials | None:
        """Read in a thread; one that hangs is left behind, and no second one is sent after it."""
        with trio.fail_after(KEYS_TIMEOUT_S):
            return await trio.to_thread.run_sync(
                self._credentials, abandon_on_cancel=True, limiter=self._reading
            )

    async def _post(self, keys: Credentials) -> Answer:
        try:
            return await ask(
                "POST",
                self._url,
                headers={"X-Api-Key": Secret(keys.key), "X-Api-Secret": Secret(keys.secret)},
                ssl_context=self._ssl_context,
                timeout_s=TIMEOUT_S,
            )
        except ConnectionFailed as failure:
            refusal = TokenRefused(0, f"token endpoint: {failure}")
        raise refusal

    def _take(self, token: Token) -> Token:
        """Have a new token."""
        self._token, self._refusal, self._resume_s = token, None, 0.0
        self._backoff.reset()
        self._bad_key_pause_s = BAD_KEY_PAUSE_S
        self._notify(note("token_renewed", life_s=token.life_s))
        self._renewed.set()
        self._renewed = trio.Event()
        self._change()
        return token

    def _remember(self, refused: TokenRefused) -> None:
        """Begin the pause that a refusal costs."""
        state = self._state_of(refused)
        pause_s = self._bad_key_pause(refused) if state == BAD_KEY else self._pause(refused)
        self._refusal = Refusal(state, refused.status, str(refused), refused.retry_after is not None)
        self._resume_s = trio.current_time() + pause_s
        self._notify(
            note(
                "key_refused" if state == BAD_KEY else "token_refused",
                state=state,
                status=refused.status,
                detail=str(refused),
                retry_s=round(pause_s, 3),
            )
        )
        self._change()

    def _state_of(self, refused: TokenRefused) -> str:
        if self._keys is None or refused.status in _BAD_KEY:
            return BAD_KEY
        own_limit = refused.status == 0 and refused.retry_after is not None
        return LIMITED if own_limit or refused.status == HTTPStatus.TOO_MANY_REQUESTS else REFUSED

    def _pause(self, refused: TokenRefused) -> float:
        return max(PAUSE_S, self._backoff.failed(self._draw(), refused.retry_after))

    def _bad_key_pause(self, refused: TokenRefused) -> float:
        pause_s = max(self._bad_key_pause_s, min(refused.retry_after or 0.0, RETRY_AFTER_MAX_S))
        self._bad_key_pause_s = min(2 * self._bad_key_pause_s, BAD_KEY_PAUSE_MAX_S)
        return pause_s

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _again(self) -> TokenRefused:
        """Tell the refusal to a line; one that named a time names what is left of it."""
        assert self._refusal is not None
        _, status, text, named_a_time = self._refusal
        return TokenRefused(status, text, self.retry_in_s if named_a_time else None)


def read_token(answer: Answer, asked_s: float = 0.0) -> Token:
    """Read the answer of the token endpoint; raise ``TokenRefused`` where it holds no token."""
    status = answer.status
    if status != HTTPStatus.OK:
        why = "the API key is not accepted" if status in _BAD_KEY else "the token endpoint gave no token"
        raise TokenRefused(status, f"{why} (HTTP status {status})", answer.retry_after_s)
    token = _token(answer.body, asked_s)
    if token is None:
        raise TokenRefused(status, "the answer of the token endpoint holds no token")
    return token


def _token(body: bytes, asked_s: float) -> Token | None:
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    text = fields.get("access_token") if isinstance(fields, dict) else None
    if not isinstance(text, str) or len(text) > TOKEN_MAX_CHARS or not _SHAPE.fullmatch(text):
        return None
    return Token(text, _life_s(fields.get("expires_in")), asked_s)


def _life_s(expires_in: object) -> float:
    """Read how long a token lives; the documented time where the answer tells nothing sensible."""
    if isinstance(expires_in, bool) or not isinstance(expires_in, int | float):
        return DOCUMENTED_LIFE_S
    return float(min(expires_in, LIFE_MAX_S)) if expires_in > 0 else DOCUMENTED_LIFE_S
