"""The answers of the desk: hostile requests never raise."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedhandler.simulator.market import Market
from feedhandler.simulator.messages import ALL, Wording
from feedhandler.simulator.requests import Desk
from feedhandler.simulator.settings import SUBSCRIBE_LATE_S, Behaviour


class Asker:
    """A connection as the desk sees it."""

    def __init__(self, market):
        self.market = market
        self.subscriptions = ["orders"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
VERBS = ["ping", "subscribe", "unsubscribe", "emitPublicOrderBook", "emitPublicCompletedOrders"]
REQUESTS = st.binary() | st.builds(
    lambda message, content: json.dumps({"message": message, "content": content}).encode(),
    st.sampled_from(VERBS) | JSON,
    st.fixed_dictionaries({}, optional={"clientRequestId": JSON, "market": JSON, "subscriptions": JSON})
    | JSON,
)


@pytest.mark.parametrize(
    ("how", "kind", "streams", "late_s"),
    [
        ("reply", "subscribed", ["orders", "publicTrades"], 0.0),
        ("late", "subscribed", ["orders", "publicTrades"], SUBSCRIBE_LATE_S),
        ("error", "error", ["orders"], 0.0),
        ("silence", "", ["orders"], 0.0),
        ("deaf", "", ["orders", "publicTrades"], 0.0),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_subscribing_as_the_behaviour_is(how, kind, streams, late_s, named):
    """Each switch answers in its way, and has its effect or none."""
    behaviour = Behaviour(subscribe_answer=how, subscribe_request_id=named)
    asker = Asker("X")
    desk = Desk(behaviour, Wording(behaviour), {"X": Market("X", trade_rows=3)}, 1)
    raw = b'{"message":"subscribe","content":{"clientRequestId":"7","subscriptions":["publicTrades"]}}'
    answer = desk.answer(asker, raw, 0.0)
    assert (asker.subscriptions, answer.late_s) == (streams, late_s)
    if kind:
        message = json.loads(answer.message)
        assert message["resultType"] == kind
        assert message["data"].get("clientRequestId") == ("7" if named else None)
    else:
        assert answer.message == b""
    unknown = desk.answer(asker, raw.replace(b"publicTrades", b"news"), 0.0)
    assert json.loads(unknown.message)["data"]["statusCode"] == 400


@given(raw=REQUESTS, market=st.sampled_from(["X", ALL]))
def test_every_request_gets_one_answer(raw, market):
    """Whatever comes, one JSON object answers it."""
    behaviour = Behaviour()
    desk = Desk(behaviour, Wording(behaviour), {"X": Market("X", trade_rows=3)}, 1)
    answer = json.loads(desk.answer(Asker(market), raw, 0.0).message)
    assert isinstance(answer["resultType"], str)
    assert isinstance(answer["data"], dict)
