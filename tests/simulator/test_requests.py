"""The answers of the desk: hostile requests never raise."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from feedhandler.simulator.market import Market
from feedhandler.simulator.messages import ALL, Wording
from feedhandler.simulator.requests import Desk
from feedhandler.simulator.settings import Behaviour


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


@settings(deadline=None)
@given(raw=REQUESTS, market=st.sampled_from(["X", ALL]))
def test_every_request_gets_one_answer(raw, market):
    """Whatever comes, one JSON object answers it."""
    behaviour = Behaviour()
    desk = Desk(behaviour, Wording(behaviour), {"X": Market("X", trade_rows=3)}, 1)
    answer = json.loads(desk.answer(Asker(market), raw, 0.0).message)
    assert isinstance(answer["resultType"], str)
    assert isinstance(answer["data"], dict)
