"""Who may come in: tokens, caps, refusals; and how well the clients keep to the rules.

The gate decides about one token request or handshake at a time and is told when a connection opens and
closes. It reads no clock: the time is handed in. `Compliance` counts what tests want to know afterwards, and
writes down each breach of a rule that the exchange documents: more token requests with one key than a minute may
have, one before the time that a 429 named, a token used in its margin or after its end, key and secret sent
to an address that is not the token endpoint, more handshakes than a minute may have, one before the time that a
refusal named, more connections at once than a market or all of them may have.

Bounds: `TOKENS_MAX` tokens and `KEYS_MAX` keys are remembered, the oldest is forgotten first; of breaches
the first `BREACHES_MAX` are kept and all counted; what is counted per minute is a ring of the moments of one minute.
"""

import math
from collections import Counter, deque
from collections.abc import Callable
from email.utils import formatdate
from hashlib import sha256
from typing import NamedTuple

from feedhandler.simulator.messages import ALL
from feedhandler.simulator.settings import Behaviour

TOKENS_MAX = 10_000
KEYS_MAX = 1000
BREACHES_MAX = 100
MINUTE_S = 60.0
EVERY_MARKET = ""
FOR_ALL = frozenset({403, 429, 503})
"""Refusals whose ``Retry-After`` is meant for the client as a whole."""
ON_THE_WAY_S = 1.0
"""A handshake that comes so soon after such a refusal was on its way already."""


class Answer(NamedTuple):
    """A status, and after how many seconds to come again (0: not said)."""

    status: int
    retry_after_s: int = 0


class PerMinute:
    """Counts what happens within any minute."""

    def __init__(self) -> None:
        self.most = 0
        self._moments: deque[float] = deque()

    def count(self, now: float) -> int:
        """Count the minute that ends now."""
        while self._moments and self._moments[0] <= now - MINUTE_S:
            self._moments.popleft()
        return len(self._moments)

    def add(self, now: float) -> int:
        """Count one more; return how many the last minute had."""
        self._moments.append(now)
        count = self.count(now)
        self.most = max(self.most, count)
        return count


class Compliance:
    """How well the clients keep to the rules."""

    def __init__(self, on_breach: Callable[[str], None] = lambda _: None) -> None:
        self.breaches: list[str] = []
        """What the clients did that the exchange's documents forbid, the first first; no secret stands in it."""
        self.breaches_count = 0
        self._on_breach = on_breach
        self.handshakes = 0
        self.handshakes_per_minute_max = 0
        self.connections_max: Counter[str] = Counter()
        """Most concurrent connections by market parameter."""
        self.connections_specific_max = 0
        """Most concurrent connections of all markets together, those over ``ALL`` not counted."""
        self.token_requests = 0
        self.token_requests_per_minute_max = 0
        self.expired_tokens_used = 0
        self.unknown_tokens_used = 0
        self.token_life_left_min_s: float | None = None
        """The least that was left of the life of a token that was used."""
        self.refusals: Counter[int] = Counter()
        """Handshakes by the status they were refused with."""
        self.slowest_pong_s = 0.0
        self.pings_sent = 0
        self.pongs_received = 0

    def breach(self, text: str) -> None:
        """Write down that a client has broken a rule."""
        self.breaches_count += 1
        if len(self.breaches) < BREACHES_MAX:
            self.breaches.append(text)
        self._on_breach(text)


class KeyUse:
    """The use of one key: its token requests, and before when a 429 forbids the next."""

    def __init__(self) -> None:
        self.requests = PerMinute()
        self.not_before = 0.0


class Refusal(NamedTuple):
    """For a while a market takes no connections."""

    market: str
    until: float
    answer: Answer


class Gate:
    """Decides who may come in."""

    def __init__(
        self,
        behaviour: Behaviour,
        api_key: str = "",
        api_secret: str = "",
        on_breach: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.behaviour = behaviour
        self.compliance = Compliance(on_breach)
        self._keys = (api_key, api_secret)
        self._tokens: dict[str, float] = {}
        self._issued = 0
        self._handshakes = PerMinute()
        self._keys_used: dict[bytes, KeyUse] = {}
        self._open: Counter[str] = Counter()
        self._refusals: list[Refusal] = []
        self._not_before = self._warned_at = -math.inf

    # Tokens

    def issue(self, now: float, key: str, secret: str) -> tuple[Answer, str]:
        """Answer a token request."""
        behaviour = self.behaviour
        use = self._use_of(key)
        if not self._is_within_limit(now, use):
            use.not_before = now + behaviour.retry_after_s
            return Answer(429, behaviour.retry_after_s), ""
        if behaviour.token_status != 200:
            if behaviour.token_status == 429:
                use.not_before = now + behaviour.retry_after_s
            return Answer(behaviour.token_status, behaviour.retry_after_s), ""
        if not (key and secret) or any(
            want and want != got for want, got in zip(self._keys, (key, secret), strict=True)
        ):
            return Answer(401), ""
        if behaviour.read_only_key == "token":
            return Answer(403), ""
        return Answer(200), self._new_token(now)

    def _use_of(self, key: str) -> KeyUse:
        """Return what is known of a key, which is not kept itself."""
        digest = sha256(key.encode()).digest()
        use = self._keys_used.setdefault(digest, KeyUse())
        if len(self._keys_used) > KEYS_MAX:
            del self._keys_used[next(iter(self._keys_used))]
        return use

    def _is_within_limit(self, now: float, use: KeyUse) -> bool:
        """Count a token request, and tell whether the key may make it."""
        compliance, limit = self.compliance, self.behaviour.tokens_per_minute
        compliance.token_requests += 1
        if now < use.not_before:
            compliance.breach(f"a token request {use.not_before - now:g} s before the time that a 429 named")
        count = use.requests.add(now)
        most = max(compliance.token_requests_per_minute_max, count)
        compliance.token_requests_per_minute_max = most
        if limit and count > limit:
            compliance.breach(f"{count} token requests with one key in a minute, {limit} are allowed")
        return not limit or count <= limit

    def _new_token(self, now: float) -> str:
        self._issued += 1
        token = f"simulated.token-{self._issued:06d}.x"
        self._tokens[token] = now + self.behaviour.token_life_s
        if len(self._tokens) > TOKENS_MAX:
            del self._tokens[next(iter(self._tokens))]
        return token

    def expiry(self, token: str) -> float | None:
        """Return when a token expires, None if it was never issued."""
        return self._tokens.get(token)

    # Handshakes

    def admit(self, now: float, market: str, token: str, *, known: bool) -> Answer:
        """Answer a handshake: 101, or the status it is refused with."""
        self.compliance.handshakes += 1
        count = self._handshakes.add(now)
        self.compliance.handshakes_per_minute_max = self._handshakes.most
        self._judge_pace(now, count)
        answer = self._answer(now, market, token, count, known=known)
        if answer.status != 101:
            self.compliance.refusals[answer.status] += 1
            if answer.retry_after_s and answer.status in FOR_ALL:
                self._not_before = max(self._not_before, now + answer.retry_after_s)
                self._warned_at = now
        return answer

    def _judge_pace(self, now: float, count: int) -> None:
        """Write down who comes too often, or before the time that a refusal named."""
        limit = self.behaviour.connections_per_minute
        if limit and count > limit:
            self.compliance.breach(f"{count} handshakes in a minute, {limit} are allowed")
        if self._warned_at + ON_THE_WAY_S < now < self._not_before:
            left_s = self._not_before - now
            self.compliance.breach(f"a handshake {left_s:g} s before the time that a refusal named")

    def _answer(self, now: float, market: str, token: str, count: int, *, known: bool) -> Answer:
        behaviour = self.behaviour
        again = behaviour.retry_after_s
        if behaviour.handshake_status != 101:
            return Answer(behaviour.handshake_status, again)
        refusal = self._refusal(now, market)
        if refusal is not None:
            return refusal.answer
        if behaviour.connections_per_minute and count > behaviour.connections_per_minute:
            return Answer(behaviour.connections_per_minute_status, again)
        if not self._is_token_good(now, token):
            return Answer(behaviour.bad_token_status)
        if token and behaviour.read_only_key == "handshake":
            return Answer(403)
        return Answer(behaviour.unknown_market_status) if not known else self._within_caps(market)

    def _within_caps(self, market: str) -> Answer:
        behaviour = self.behaviour
        cap = behaviour.connections_agnostic if market == ALL else behaviour.connections_per_market
        cap_in_all = behaviour.connections_specific if market != ALL else 0
        if (cap and self._open[market] >= cap) or (cap_in_all and self._specific() >= cap_in_all):
            which = f"of {market}, {cap}" if cap and self._open[market] >= cap else f"of all, {cap_in_all}"
            self.compliance.breach(f"one more connection {which} are allowed")
            return Answer(behaviour.connections_over_status, behaviour.retry_after_s)
        return Answer(101)

    def _specific(self) -> int:
        return self._open.total() - self._open[ALL]

    def _is_token_good(self, now: float, token: str) -> bool:
        if not token:
            return not self.behaviour.token_required
        expiry = self._tokens.get(token)
        compliance = self.compliance
        if expiry is None:
            compliance.unknown_tokens_used += 1
            return False
        left = expiry - now
        least = compliance.token_life_left_min_s
        compliance.token_life_left_min_s = left if least is None else min(least, left)
        compliance.expired_tokens_used += left <= 0
        if left <= self.behaviour.token_margin_s:
            moment = f"{left:g} s before" if left > 0 else f"{-left:g} s after"
            compliance.breach(f"a token was used {moment} its end")
        return left > 0

    def revoke(self) -> None:
        """Forget all tokens, as if they had never been issued."""
        self._tokens.clear()

    def _refusal(self, now: float, market: str) -> Refusal | None:
        standing = (old for old in self._refusals if now < old.until and old.market in {EVERY_MARKET, market})
        return next(standing, None)

    def refuse(self, refusal: Refusal, now: float) -> None:
        """Refuse handshakes for a while."""
        self._refusals = [old for old in self._refusals if now < old.until]
        self._refusals.append(refusal)

    def relent(self) -> None:
        """End all refusals that were to last longer."""
        self._refusals.clear()

    def retry_after(self, answer: Answer, wall_s: float) -> str:
        """Return the ``Retry-After`` header of an answer, empty for none."""
        if not answer.retry_after_s:
            return ""
        if self.behaviour.retry_after_date:
            return formatdate(wall_s + answer.retry_after_s, usegmt=True)
        return str(answer.retry_after_s)

    # Connections

    def opened(self, market: str) -> None:
        """Count a connection in."""
        self._open[market] += 1
        most = self.compliance.connections_max
        most[market] = max(most[market], self._open[market])
        self.compliance.connections_specific_max = max(
            self.compliance.connections_specific_max, self._specific()
        )

    def closed(self, market: str) -> None:
        """Count a connection out."""
        self._open[market] -= 1
