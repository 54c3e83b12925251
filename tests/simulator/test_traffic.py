"""Generated traffic: repeatable, shaped like the recordings, and never impossible."""

from itertools import islice, pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedhandler.simulator.market import Market
from feedhandler.simulator.messages import BOOK, TRADES, Wording
from feedhandler.simulator.settings import Behaviour
from feedhandler.simulator.traffic import MarketTraffic, merge

START_MS = 1_775_000_000_000


def traffic(seed=1, rate=1000.0, market="BTC-USD", **switches):
    """Return generated traffic."""
    return MarketTraffic(market, rate, seed, Wording(Behaviour(**switches)))


@settings(max_examples=20)
@given(seed=st.integers(), spaced=st.booleans(), ts=st.booleans(), rows=st.sampled_from([1, 2]))
def test_the_same_seed_gives_the_same_valid_messages(seed, spaced, ts, rows):
    """The same seed gives the same steps; each is a message of its stream, in the wording asked for."""
    switches = {"spaced_json": spaced, "delta_ts": ts, "rows_per_match": rows, "extra_keys": True}
    steps = list(islice(traffic(seed, **switches).steps(START_MS), 200))
    assert steps == list(islice(traffic(seed, **switches).steps(START_MS), 200))
    assert [step.due_s for step in steps] == sorted(step.due_s for step in steps)
    for step in steps:
        message = msgspec.json.decode(step.payload)
        assert (
            message["resultType"]
            == {BOOK: "publicOrderBookDelta", TRADES: "publicCompletedOrdersDelta"}[step.stream]
        )
        assert message["data"]["origin"] == "simulated"
        assert (b": " in step.payload) is spaced
        if step.stream == BOOK:
            assert ("ts" in message["data"]) is ts
        else:
            assert len(message["data"]["orders"]) % rows == 0


@settings(max_examples=10)
@given(seed=st.integers())
def test_the_book_never_crosses(seed):
    """At no event is the best bid at or above the best ask, and neither side is empty."""
    source = traffic(seed)
    market = Market("BTC-USD", trade_rows=10)
    market.open(source.opening())
    for step in islice(source.steps(START_MS), 500):
        market.record(0, step.stream, step.payload)
        levels = market.levels(0)
        bids = [float(price) for side, price, _ in levels if side == "buy"]
        asks = [float(price) for side, price, _ in levels if side == "sell"]
        assert max(bids) < min(asks)


def test_the_shape_of_the_traffic():
    """Rate, bursts, share of trades, sweeps and real repeats are as described."""
    steps = list(islice(traffic().steps(START_MS), 50_000))
    gaps = [after.due_s - before.due_s for before, after in pairwise(steps)]
    assert 50_000 / steps[-1].due_s == pytest.approx(1000, rel=0.1)
    assert sum(gap < 100e-6 for gap in gaps) / len(gaps) > 0.5
    assert sum(step.stream == TRADES for step in steps) / len(steps) == pytest.approx(0.1, abs=0.05)
    assert any(one.payload == two.payload for one, two in pairwise(steps))
    assert any(
        a.payload == c.payload != b.payload for a, b, c in zip(steps, steps[1:], steps[2:], strict=False)
    )
    most_at_once = max(after - before for before, after in zip(*_sweep_bounds(steps), strict=True))
    assert most_at_once >= 100


def _sweep_bounds(steps):
    """Return the places where runs of trades begin and end."""
    kinds = [step.stream == TRADES for step in steps]
    edges = [place for place in range(1, len(kinds)) if kinds[place] != kinds[place - 1]]
    edges = edges[kinds[0] :]
    return edges[0 : len(edges) // 2 * 2 : 2], edges[1::2]


def test_merged_markets_come_in_the_order_of_time():
    """Several markets are merged by time, each keeping its own order."""
    markets = [traffic(market=name) for name in ("A-B", "C-D")]
    merged = list(islice(merge(markets, START_MS), 1000))
    assert [step.due_s for step in merged] == sorted(step.due_s for step in merged)
    own = [step for step in merged if step.market == "A-B"]
    assert own == list(islice(traffic(market="A-B").steps(START_MS), len(own)))
