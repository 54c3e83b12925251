"""Who may come in, as a story of moments."""

import pytest

from feedhandler.simulator.gate import BREACHES_MAX, KEYS_MAX, Answer, Compliance, Gate, Refusal
from feedhandler.simulator.settings import Behaviour


def test_token_requests_are_limited_per_minute():
    """The third request within a minute is refused where two are allowed, and a minute later not."""
    gate = Gate(Behaviour(tokens_per_minute=2, retry_after_s=9))
    answers = [gate.issue(now, "k", "s")[0] for now in (0, 1, 2, 62.5)]
    assert answers == [Answer(200), Answer(200), Answer(429, 9), Answer(200)]
    assert gate.compliance.token_requests_per_minute_max == 3


def test_a_token_needs_both_headers():
    """Without key and secret there is no token, whatever the exchange accepts."""
    assert Gate(Behaviour()).issue(0, "k", "")[0].status == 401
    assert Gate(Behaviour(token_status=500)).issue(0, "k", "s")[0].status == 500


def test_the_life_that_tokens_had_left():
    """The gate remembers how near to its end a token was used."""
    gate = Gate(Behaviour(token_life_s=60))
    _, token = gate.issue(0, "k", "s")
    for now in (10, 55, 20):
        gate.admit(now, "X", token, known=True)
    assert gate.compliance.token_life_left_min_s == 5


LIMIT = "21 token requests with one key in a minute, 20 are allowed"


def test_the_21st_token_request_of_a_minute_is_a_breach():
    """The limit counts any minute of each key: 20 requests are fine, and 20 more with another key or a minute later."""
    told = []
    gate = Gate(Behaviour(), on_breach=told.append)
    for now in range(20):
        gate.issue(now, "k", "s")
        gate.issue(now, "other", "s")
    for now in range(60, 80):
        assert gate.issue(now, "k", "s")[0] == Answer(200)
    assert gate.compliance.breaches == []
    assert gate.issue(79.5, "k", "s")[0] == Answer(429)
    assert gate.compliance.breaches == told == [LIMIT]


def test_a_request_before_the_named_time_is_a_breach():
    """Whoever is answered 429 with a time has to let it pass, with this key."""
    gate = Gate(Behaviour(token_status=429, retry_after_s=30))
    assert gate.issue(0, "k", "s")[0] == Answer(429, 30)
    gate.issue(10, "other", "s")
    gate.issue(30, "k", "s")
    assert gate.compliance.breaches == []
    gate.issue(55, "k", "s")
    assert gate.compliance.breaches == ["a token request 5 s before the time that a 429 named"]


@pytest.mark.parametrize(
    ("now", "status", "breaches"),
    [
        (44, 101, []),
        (50, 101, ["a token was used 10 s before its end"]),
        (70, 401, ["a token was used 10 s after its end"]),
    ],
)
def test_a_token_in_its_margin_is_a_breach(now, status, breaches):
    """(12) Within its margin a token opens a connection and is a breach; after its end it is refused, too."""
    gate = Gate(Behaviour(token_life_s=60, token_margin_s=15))
    _, token = gate.issue(0, "k", "s")
    assert gate.admit(now, "X", token, known=True).status == status
    assert gate.compliance.breaches == breaches


def test_keys():
    """A wrong key or secret is 401; a read-only key is 403, at the token endpoint or only at the handshake."""
    gate = Gate(Behaviour(), "key", "secret")
    pairs = [("key", "secret"), ("key", "wrong"), ("wrong", "secret"), ("", "")]
    assert [gate.issue(0, *pair)[0].status for pair in pairs] == [200, 401, 401, 401]
    assert Gate(Behaviour(read_only_key="token")).issue(0, "k", "s")[0].status == 403
    gate = Gate(Behaviour(read_only_key="handshake"))
    answer, token = gate.issue(0, "k", "s")
    assert answer.status == 200
    assert [gate.admit(0, "X", one, known=True).status for one in (token, "")] == [403, 101]


def test_revoked_tokens_are_unknown():
    """After they are revoked, tokens are refused although they would live on; that is no breach of the client."""
    gate = Gate(Behaviour())
    _, token = gate.issue(0, "k", "s")
    gate.revoke()
    assert gate.admit(1, "X", token, known=True).status == 401
    assert gate.compliance.unknown_tokens_used == 1
    assert gate.compliance.breaches == []


def test_breaches_are_bounded():
    """The first breaches are kept, all are counted and told."""
    told = []
    compliance = Compliance(told.append)
    for number in range(BREACHES_MAX + 5):
        compliance.breach(f"{number}")
    assert compliance.breaches == [f"{number}" for number in range(BREACHES_MAX)]
    assert compliance.breaches_count == len(told) == BREACHES_MAX + 5


def test_keys_are_forgotten_beyond_the_bound():
    """Of many keys the oldest are forgotten, so a client that makes them up costs no memory."""
    gate = Gate(Behaviour())
    for number in range(KEYS_MAX + 10):
        gate.issue(0, f"key-{number}", "s")
    assert len(gate._keys_used) == KEYS_MAX


def test_retry_after_as_seconds_or_a_date():
    """The time to come again is told in either way that HTTP knows, or not at all."""
    answer = Answer(429, 90)
    assert Gate(Behaviour()).retry_after(answer, 0.0) == "90"
    assert Gate(Behaviour()).retry_after(Answer(429), 0.0) == ""
    dated = Gate(Behaviour(retry_after_date=True))
    assert dated.retry_after(answer, 0.0) == "Thu, 01 Jan 1970 00:01:30 GMT"


def test_handshakes_and_concurrent_connections_are_counted():
    """Peaks per minute and per market stay known after they are over."""
    gate = Gate(Behaviour())
    for now in (0, 1, 59, 61, 200):
        assert gate.admit(now, "X", "", known=True) == Answer(101)
        gate.opened("X")
    for _ in range(5):
        gate.closed("X")
    assert gate.compliance.handshakes_per_minute_max == 3
    assert gate.compliance.connections_max == {"X": 5}


def test_a_refusal_concerns_its_market_and_ends():
    """A refusal of one market does not concern another, one of all does; both end."""
    gate = Gate(Behaviour())
    gate.refuse(Refusal("X", 10.0, Answer(503, 3)), 0.0)
    assert gate.admit(5, "X", "", known=True) == Answer(503, 3)
    assert gate.admit(5, "Y", "", known=True) == Answer(101)
    gate.refuse(Refusal("", 20.0, Answer(429)), 12.0)
    assert [gate.admit(now, "Y", "", known=True).status for now in (15, 20)] == [429, 101]


def test_refusals_end_when_the_exchange_relents():
    """What would have been refused for an hour more is let in."""
    gate = Gate(Behaviour())
    gate.refuse(Refusal("X", 3600.0, Answer(503)), 0.0)
    gate.relent()
    assert gate.admit(1, "X", "", known=True) == Answer(101)


def test_a_handshake_too_many_in_a_minute_is_a_breach():
    """The 21st new connection within a minute breaks the rules, whatever it is answered."""
    gate = Gate(Behaviour(connections_per_minute=20))
    for second in range(21):
        gate.admit(second * 2.0, "X", "", known=True)
    assert gate.compliance.breaches == ["21 handshakes in a minute, 20 are allowed"]
    assert gate.admit(62.0, "X", "", known=True) == Answer(101)


def test_a_connection_too_many_at_once_is_a_breach():
    """The third connection of a market that may have two, the fourth of all, the second over ALL."""
    gate = Gate(Behaviour(connections_per_market=2, connections_specific=3, connections_agnostic=1))
    answers = []
    for market in ("X", "X", "X", "Y", "Y", "ALL", "ALL"):
        answer = gate.admit(0, market, "", known=True)
        answers.append(answer.status)
        if answer.status == 101:
            gate.opened(market)
    assert answers == [101, 101, 403, 101, 403, 101, 403]
    assert gate.compliance.breaches == [
        "one more connection of X, 2 are allowed",
        "one more connection of all, 3 are allowed",
        "one more connection of ALL, 1 are allowed",
    ]
    gate.closed("X")
    assert gate.admit(1, "Y", "", known=True) == Answer(101)


def test_a_handshake_before_the_named_time_is_a_breach():
    """Whoever was told when to come again and comes before breaks the rules, unless it was on its way already."""
    gate = Gate(Behaviour(handshake_status=503, retry_after_s=10))
    for now in (0.0, 0.5, 5.0, 16.0):
        gate.admit(now, "X", "", known=True)
    assert gate.compliance.breaches == ["a handshake 5.5 s before the time that a refusal named"]
