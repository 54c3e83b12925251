# ruff: noqa: ARG001 - the clock works by being asked for
"""The simulated account: what orders cause, in every wording that the documents leave open, and who gets it."""

import json
from collections import Counter
from itertools import islice, pairwise
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from feedhandler.core.messages import Event
from feedhandler.exchange.messages import Dialect
from feedhandler.simulator.account import ORDERS_MAX, Account, AccountTraffic
from feedhandler.simulator.messages import Wording
from feedhandler.simulator.settings import Behaviour, FaultPlan

START_MS = 1_775_000_000_000
ORDER = {"orderType": "buy", "price": "1.5", "quantity": "2", "clientRequestId": "id"}
ACCOUNT = "orders,trades"

behaviours = st.builds(
    Behaviour,
    order_market=st.sampled_from(["never", "all", "always"]),
    order_status=st.booleans(),
    order_request_id=st.booleans(),
    order_request_id_in_order=st.booleans(),
    refusals_show_order=st.booleans(),
    modify_replies=st.sampled_from([3, 4]),
    fills_per_message=st.integers(1, 4),
    partial_fill_times=st.booleans(),
    spaced_json=st.booleans(),
    extra_keys=st.booleans(),
)


def traffic(behaviour: Behaviour, seed: int = 1, rate: float = 10.0) -> AccountTraffic:
    """Return the traffic of a new account."""
    account = Account(behaviour, Wording(behaviour), seed)
    return AccountTraffic(account, ("A-B", "C-D"), rate, seed)


@given(behaviour=behaviours, seed=st.integers())
def test_the_same_seed_gives_the_same_valid_messages(behaviour: Behaviour, seed: int) -> None:
    """Whatever the wording, each message is an event of its channel as the daemon reads it, in the order of time."""
    steps = list(islice(traffic(behaviour, seed).steps(START_MS), 100))
    assert steps == list(islice(traffic(behaviour, seed).steps(START_MS), 100))
    assert [step.due_s for step in steps] == sorted(step.due_s for step in steps)
    for step in steps:
        assert Dialect(step.market).classify(step.payload) == Event(
            f"{step.market}/{step.stream}", step.payload
        )
        data = json.loads(step.payload)["data"]
        if step.stream == "trades":
            assert 1 <= len(data) <= behaviour.fills_per_message
        else:
            assert ("statusCode" in data) == behaviour.order_status
            assert "clientRequestId" not in data or behaviour.order_request_id


def test_the_account_really_repeats_itself_and_is_bounded() -> None:
    """Refusals come byte for byte several times; the rate is about what was asked for; orders have a bound."""
    source = traffic(Behaviour(refusals_show_order=True))
    steps = list(islice(source.steps(START_MS), 5_000))
    assert any(one.payload == two.payload for one, two in pairwise(steps))
    assert 5_000 / steps[-1].due_s == pytest.approx(10, rel=0.3)
    assert Counter(step.stream for step in steps).keys() == {"orders", "trades"}
    account = Account(Behaviour(), Wording(Behaviour()), 1)
    for _ in range(2 * ORDERS_MAX):
        account.create("A-B", ("buy", "1", "1"), "", START_MS)
    assert len(account.orders) == ORDERS_MAX


@pytest.mark.parametrize("who", ["account", "originator"])
async def test_a_client_s_orders_are_told_to_the_account_or_to_the_client(start, join, autojump_clock, who):
    """What a request causes comes to all that are subscribed, or only to the connection that asked."""
    exchange = await start(
        markets=("A-B", "C-D"), plan=_plan(order_events=who, order_market="always", modify_replies=4)
    )
    async with (
        join(exchange, "A-B", ACCOUNT) as client,
        join(exchange, "ALL", ACCOUNT) as all_,
        join(exchange, "C-D", ACCOUNT) as elsewhere,
    ):
        got: list[list[Any]] = [[], [], []]
        async with trio.open_nursery() as nursery:
            for line, place in zip((client, all_, elsewhere), got, strict=True):
                nursery.start_soon(_collect, line, place)
            await client.send_message(json.dumps({"message": "createOrder", "content": ORDER}))
            await trio.sleep(1)
            order_id = got[0][-1]["data"]["order"]["orderId"]
            for verb in ("modifyOrder", "cancelOrder", "cancelOrder"):
                content = {"orderId": order_id, "cancelBy": "orderId", "price": "2"}
                await client.send_message(json.dumps({"message": verb, "content": content}))
                await trio.sleep(1)
            await client.send_message(json.dumps({"message": "createOrder", "content": {"price": "1"}}))
            await all_.send_message(json.dumps({"message": "createOrder", "content": ORDER}))
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
    told = [(one["resultType"], one["data"].get("statusCode")) for one in got[0]]
    assert told == [
        ("createOrder", 202),
        ("createOrder", 200),
        ("modifyOrder", 202),
        ("modifyOrder", 200),
        ("modifyOrder", 200),
        ("createOrder", 200),
        ("cancelOrder", 202),
        ("cancelOrder", 200),
        ("cancelOrder", 404),
        ("createOrder", 400),
    ]
    assert got[1][:-1] == (got[0] if who == "account" else [])
    assert got[1][-1]["resultType"] == "error"  # over ALL a request has to name its market
    assert got[2] == []


async def _collect(line, place):
    while True:
        place.append(json.loads(await line.get_message()))


def _plan(**switches: Any) -> FaultPlan:
    return FaultPlan(behaviour=Behaviour(**switches))


@pytest.mark.parametrize("scope", ["market", "account"])
async def test_orders_are_told_to_their_market_or_to_the_whole_account(start, join, autojump_clock, scope):
    """A switch says whether a connection to another market hears of an order."""
    exchange = await start(markets=("A-B", "C-D"), plan=_plan(order_scope=scope))
    async with (
        join(exchange, "A-B", ACCOUNT) as own,
        join(exchange, "C-D", ACCOUNT) as other,
        join(exchange, "ALL", ACCOUNT) as all_,
    ):
        for said in exchange.account.create("A-B", ("buy", "1", "1"), "", 1):
            exchange.broadcast(*said)
        assert json.loads(await own.get_message())["resultType"] == "createOrder"
        assert json.loads(await all_.get_message())["market"] == "A-B"
        heard = None
        with trio.move_on_after(1):
            heard = await other.get_message()
        assert (heard is not None) == (scope == "account")


@pytest.mark.parametrize(("market", "named"), [("never", False), ("all", True), ("always", True)])
async def test_over_all_markets_orders_may_or_may_not_name_theirs(start, join, autojump_clock, market, named):
    """A switch says whether the market stands beside the order, too; trades of the account never say it there."""
    exchange = await start(markets=("A-B",), plan=_plan(order_market=market))
    async with join(exchange, "ALL", ACCOUNT) as line:
        for step in islice(exchange.account.create("A-B", ("buy", "1", "1"), "", 1), 1):
            exchange.broadcast(*step)
        order = next(iter(exchange.account.orders.values()))
        exchange.broadcast(*exchange.account.fill([(order, "1")], 2)[0])
        assert ("market" in json.loads(await line.get_message())) == named
        assert "market" not in json.loads(await line.get_message())
