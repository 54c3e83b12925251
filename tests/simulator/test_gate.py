"""Who may come in, as a story of moments."""

from feedhandler.simulator.gate import Answer, Gate, Refusal
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
