# ruff: noqa: ARG001 - the clock works by being asked for
"""Feeds of the account, focused connections and market=ALL: the daemon as a whole, with the clock under control."""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from itertools import cycle, groupby
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_websocket import open_websocket_url

from feedhandler.config import Feed, Publish, Recovery
from feedhandler.simulator.messages import with_market
from feedhandler.simulator.settings import Behaviour
from tests.support.references import rows
from tests.support.stage import BTC, ETH, Stage, staged

BOOK, TRADES = "publicOrderBook", "publicTrades"
ACCOUNT = Feed(name="account", markets=("ALL",), streams=("orders", "trades"), lines=2)
FOCUSED = (
    Feed(name="trades", markets=(BTC,), streams=(TRADES,), lines=2),
    Feed(name="book", markets=(BTC,), streams=(BOOK,), lines=2),
)
ALL = Feed(markets=("ALL",), lines=2)


def over_all(stage: Stage) -> dict[str, list[bytes]]:
    """Return what the exchange has broadcast, as a connection over all markets gets it, by channel."""
    found: defaultdict[str, list[bytes]] = defaultdict(list)
    never = stage.exchange.behaviour.order_market == "never"
    for market, stream, payload in stage.broadcasts():
        nameless = never and stream == "orders"
        told = payload if market == "ALL" or nameless else with_market(payload, market)
        nowhere = nameless and b'"order"' not in payload  # a refusal that shows no order, of no market
        found[f"{'ALL' if nowhere else market}/{stream}"].append(told)
    return dict(found)


def compact(payload: bytes) -> bytes:
    """Return a message without spaces between its tokens."""
    return json.dumps(json.loads(payload), separators=(",", ":")).encode()


def assert_same(got: Mapping[str, list[bytes]], truth: Mapping[str, list[bytes]], where: str = "") -> None:
    """Assert that the channels whose name ends so have the same events in the same order, and that there are some."""
    names = {name for name in got.keys() | truth.keys() if name.endswith(where)}
    assert names
    counts = {name: (len(got.get(name, ())), len(truth.get(name, ()))) for name in names}
    assert all(one == other for one, other in counts.values()), counts
    assert {name: got.get(name) for name in names} == {name: truth.get(name) for name in names}


def assert_unmarked(stage: Stage) -> None:
    """Assert that nothing says that the stream is not whole and in order."""
    assert stage.reading.of("gap") == []
    assert {event.get("class", "") for event in stage.reading.of("event")} <= {""}


# The account


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"order_market": "never", "fills_per_message": 4, "partial_fill_times": False},
        {"order_market": "always", "order_status": False, "order_request_id": False},
        {"refusals_show_order": True, "order_request_id_in_order": False, "modify_replies": 4},
        {"refusals_show_order": True, "spaced_json": True, "extra_keys": True, "order_request_id": False},
    ],
)
async def test_what_happens_to_the_account_comes_out_once(
    tmp_path: Path, autojump_clock: MockClock, switches: dict[str, Any]
) -> None:
    """(3, 7) In every wording that is left open, with real repeats, and lines killed at event after event: exact."""
    kills: Iterator[tuple[Any, int]] = zip(
        cycle(("close", "reset", "half_frame")), cycle((0, 1)), strict=False
    )
    behaviour = Behaviour(**switches)
    async with staged(
        tmp_path, feeds=(ACCOUNT,), behaviour=behaviour, account_rate=1000, markets=(BTC, ETH)
    ) as stage:
        for count in range(30):
            stage.say(10 + count % 4)
            kind, line = next(kills)
            stage.strike(kind, line, "ALL")
            stage.say(10 + count % 3)
            await stage.until(lambda count=count: len(stage.named("line_lost")) > count)
            await stage.talk_until(stage.all_up)
        await stage.talk(0.5)
        await trio.sleep(1)
        truth = over_all(stage)
        assert_same(
            stage.reading.sequences, {k: v for k, v in truth.items() if k.endswith(("/orders", "/trades"))}
        )
        assert_unmarked(stage)
        assert any(len(list(run)) > 1 for one in truth.values() for _, run in groupby(one))


async def test_connections_may_order_the_account_s_streams_differently(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Two connections that mix orders and trades each in its own way, and one that is late: every channel is exact."""
    account = Feed(name="account", markets=("ALL",), streams=("orders", "trades"), lines=3)
    async with staged(tmp_path, feeds=(account,), account_rate=1000) as stage:
        stage.strike("interleave", 1, "ALL", depth=6, duration_s=20)
        stage.strike("delay", 2, "ALL", delay_s=0.3, duration_s=20)
        await stage.talk(15, every_s=0.005)
        await trio.sleep(10)
        truth = over_all(stage)
        assert_same(
            stage.reading.sequences, {k: v for k, v in truth.items() if k.endswith(("/orders", "/trades"))}
        )
        assert_unmarked(stage)


@pytest.mark.parametrize("who", ["account", "originator"])
@pytest.mark.parametrize("market", ["ALL", BTC])
async def test_another_client_s_orders_come_out_once_or_are_none_of_ours(
    tmp_path: Path, autojump_clock: MockClock, who: Any, market: str
) -> None:
    """A client's orders, refusals without an order included, are events of the account where all of it gets them."""
    account = Feed(name="account", markets=(market,), streams=("orders", "trades"), lines=2)
    behaviour = Behaviour(order_events=who)
    async with staged(tmp_path, feeds=(account,), behaviour=behaviour, wait=False) as stage:
        await stage.until(stage.all_connected)
        told: list[bytes] = []
        async with (
            open_websocket_url(f"{stage.exchange.url}/?market={BTC}&subscriptions=orders") as client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(_listen, client, told)
            order = {"orderType": "buy", "price": "1", "quantity": "1", "clientRequestId": "of-a-client"}
            for _ in range(20):
                await _ask(client, "createOrder", order)
                order_id = list(stage.exchange.account.orders)[-1]
                for verb in ("modifyOrder", "cancelOrder", "cancelOrder", "cancelOrder"):
                    await _ask(client, verb, {"orderId": order_id, "clientRequestId": "again"})
            await trio.sleep(5)
            nursery.cancel_scope.cancel()
        got = stage.reading.sequences
        if who == "originator":
            assert len(told) == 20 * 9
            assert got == {}
        else:
            name = f"{BTC}/orders"
            assert [with_market(one, BTC) if market == "ALL" else one for one in told] == got[name]
            assert (
                Counter(Counter(told).values())[40] == 1
            )  # the refusals, none of which tells itself from the next
        assert stage.named("line_lost", "garbage_received", "foreign_event") == []
        assert_unmarked(stage)


async def _listen(client: Any, told: list[bytes]) -> None:
    while True:
        told.append((await client.get_message()).encode())


async def _ask(client: Any, message: str, content: dict[str, Any]) -> None:
    await client.send_message(json.dumps({"message": message, "content": content}))
    await trio.sleep(0.05)


async def test_an_account_to_which_nothing_happens_is_quiet(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """(2) Minutes without an order, then one at a time while lines die between them: quiet, and nothing is missing."""
    trade = (
        b'{"resultType":"completedOrdersDelta","data":[{"market":"A","matchId":"m%d","orderFilledAt":%d}]}'
    )
    trades = [trade % (number, number) for number in range(1, 7)]
    async with staged(tmp_path, feeds=(ACCOUNT,), wait=False) as stage:
        await stage.until(stage.all_connected)
        await trio.sleep(120)
        assert stage.reading.states("ALL/trades") == ["down", "live", "quiet"]
        assert stage.named("line_lost", "line_restarted") == []
        for number, payload in enumerate(trades):
            stage.exchange.broadcast("ALL", "trades", payload)
            await trio.sleep(30)
            stage.strike("reset", number % 2, "ALL")
            await trio.sleep(30)
        assert stage.reading.sequences == {"ALL/trades": trades}
        assert stage.reading.states("ALL/trades")[-2:] == ["live", "quiet"]
        assert_unmarked(stage)


async def asked(path: Path, *channels: str) -> list[dict[str, Any]]:
    """Ask for channels by name; return what comes within some seconds, heartbeats aside."""
    records: list[dict[str, Any]] = []
    async with await trio.open_unix_socket(os.fspath(path)) as stream:
        await stream.send_all(json.dumps({"op": "subscribe", "channels": channels}).encode() + b"\n")
        with trio.move_on_after(8):
            rest = b""
            async for data in stream:
                *lines, rest = (rest + data).split(b"\n")
                records += map(json.loads, lines)
    return [one for one in records if one["type"] not in {"hello", "heartbeat"}]


async def test_what_answers_a_ping_is_no_event_of_the_account(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """An exchange that answers a ping with a failure of no known type tells nothing of the account by it."""
    requests: list[dict[str, Any]] = []
    async with staged(tmp_path, feeds=(ACCOUNT,), wait=False) as stage:
        _overhear(stage, requests)
        await stage.until(lambda: len(requests) > 2)
        failure = {"resultType": "error", "data": {"statusCode": 400, "body": "no"}}
        for request in requests[:2]:
            failure["data"]["clientRequestId"] = request["content"]["clientRequestId"]  # type: ignore[index]
            for line in stage.exchange.connections("ALL"):
                stage.exchange.reply(line, json.dumps(failure).encode())
        await trio.sleep(1)
        assert stage.reading.sequences == {}
        failure["data"]["clientRequestId"] = "of-somebody-else"  # type: ignore[index]
        for line in stage.exchange.connections("ALL"):
            stage.exchange.reply(line, json.dumps(failure).encode())
        await trio.sleep(1)
        assert stage.reading.sequences == {"ALL/other": [json.dumps(failure).encode()]}


async def test_orders_can_be_asked_for_by_name_before_the_first_one(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Over all markets no channel is open before its first event: it is chosen by its name all the same, and complete.

    What nothing in the configuration brings is unknown, and what is not for the peer is forbidden.
    """
    feeds = (Feed(markets=("ALL",), streams=("orders",)), Feed(markets=(ETH,), streams=(TRADES,)))
    order = (
        b'{"resultType":"createOrder","data":{"statusCode":200,'
        b'"order":{"market":"BTC-USD","orderId":"%d","updatedAt":%d}}}'
    )
    found: dict[str, list[dict[str, Any]]] = {}

    async def ask(*channels: str) -> None:
        found[" ".join(channels)] = await asked(stage.config.publish.socket, *channels)

    async with staged(tmp_path, feeds=feeds, markets=(BTC, ETH), wait=False) as stage:
        await stage.until(stage.all_connected)
        async with trio.open_nursery() as nursery:
            for names in ([f"{BTC}/orders", "ALL/orders"], [f"{ETH}/other"]):
                nursery.start_soon(ask, *names)
            for name in (f"{BTC}/{TRADES}", f"ALL/{TRADES}", f"{BTC}/{BOOK}", "*/orders/x", "/orders"):
                nursery.start_soon(ask, name)
            await trio.sleep(1)
            for number in range(3):
                stage.exchange.broadcast(BTC, "orders", order % (number, number))
                await trio.sleep(0.5)
        got = found.pop(f"{BTC}/orders ALL/orders")
        assert got[0] == {"type": "subscribed", "channels": {}}
        assert [one["seq"] for one in got if one["type"] == "event"] == [1, 2, 3]
        assert {one["channel"] for one in got[1:]} == {f"{BTC}/orders"}
        assert found.pop(f"{ETH}/other") == [{"type": "subscribed", "channels": {}}]
        assert {one[0]["code"] for one in found.values()} == {"unknown_channel"}


async def test_an_order_that_may_come_is_forbidden_to_others(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Who may not read the account's channels is told so, whether one of the name may ever come or not."""
    publish = Publish(socket=tmp_path / "feed.sock", account_uids=(os.getuid() + 1,))
    feeds = (Feed(markets=("ALL",), streams=("orders",)),)
    async with staged(tmp_path, feeds=feeds, publish=publish, wait=False) as stage:
        for name in (f"{BTC}/orders", "X/trades", f"{BTC}/other"):
            (answer,) = await asked(stage.config.publish.socket, name)
            assert answer["code"] == "forbidden"


async def test_an_outage_of_the_account_is_a_gap_of_each_of_its_channels(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """(4) Nobody can recover what happened to the account meanwhile: one gap a channel, then live; markets go on."""
    feeds = (ACCOUNT, Feed(markets=(BTC,), lines=2))
    async with staged(tmp_path, feeds=feeds, account_rate=1000) as stage:
        await stage.talk(2)
        before = {name: len(events) for name, events in over_all(stage).items()}
        stage.strike("outage", "all", "ALL", duration_s=5)
        await stage.talk(8)
        await stage.talk_until(stage.all_up)
        await stage.talk(0.5)
        await trio.sleep(1)
        truth = over_all(stage)
        names = {"ALL/trades", f"{BTC}/orders"}
        assert {(gap["channel"], gap["reason"]) for gap in stage.reading.of("gap")} == {
            (n, "outage") for n in names
        }
        assert len(stage.reading.of("gap")) == 2
        for name in names:
            got = stage.reading.sequences[name]
            (gap,) = stage.reading.of("gap", name)
            split = gap["seq"] - 1
            assert split >= before[name]
            assert got[:split] == truth[name][:split]
            assert got[split:] == truth[name][-len(got[split:]) :]
            assert len(got) < len(truth[name])
            assert "down" in stage.reading.states(name)
            assert stage.reading.states(name)[-1] == "live"
        for name in (f"{BTC}/{BOOK}", f"{BTC}/{TRADES}"):
            assert stage.reading.sequences[name] == stage.truth[name]
            assert stage.reading.states(name)[-1] == "live"
            since = min(gap["since"] for gap in stage.reading.of("gap"))
            assert [one for one in stage.reading.of("state", name) if one["since"] >= since] == []


async def test_the_account_s_trades_and_v1_s_public_ones_keep_apart(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Under V1's names both are `completedOrdersDelta`: the shape tells, and nothing of the account gets public."""
    folder = tmp_path
    feeds = (ACCOUNT, Feed(markets=(BTC,), lines=2))
    publish = Publish(socket=folder / "feed.sock", account_uids=(os.getuid() + 1,))
    behaviour = Behaviour(v1_names=True)
    async with staged(folder, feeds=feeds, behaviour=behaviour, account_rate=1000, publish=publish) as stage:
        await stage.talk(5)
        await trio.sleep(1)
        got, truth = stage.reading.sequences, stage.truth
        assert got.keys() == {f"{BTC}/{BOOK}", f"{BTC}/{TRADES}"}
        assert_same(got, {name: truth[name] for name in got})
        assert all(b"completedOrdersDelta" in one for one in got[f"{BTC}/{TRADES}"])
        assert not any(b"orderId" in line for line in stage.reading.lines)
        assert b"completedOrdersDelta" in truth["ALL/trades"][0]
        channels = {channel.name: channel for channel in stage.daemon.publisher._channels}
        for name in ("ALL/trades", f"{BTC}/orders"):
            assert channels[name].account
            assert channels[name].next - 1 == len(truth[name])
        assert stage.follow_book().shapes == ["snapshot", "events"]
        assert_unmarked(stage)


async def test_the_account_over_one_market_hears_the_trades_of_all(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Account trades cover all markets whatever the connection's is, and orders of a feed for each market do not."""
    feeds = (
        Feed(name="fills", markets=(BTC,), streams=("trades",), lines=2),
        Feed(name="orders", markets=(BTC, ETH), streams=("orders",), lines=2),
    )
    async with staged(tmp_path, feeds=feeds, account_rate=1000, markets=(BTC, ETH)) as stage:
        await stage.talk(10)
        await trio.sleep(1)
        names = ("ALL/trades", f"{BTC}/orders", f"{ETH}/orders")
        assert_same(stage.reading.sequences, {name: stage.truth[name] for name in names})
        fills = {row["market"] for one in stage.truth["ALL/trades"] for row in json.loads(one)["data"]}
        assert fills == {BTC, ETH}
        assert_unmarked(stage)


async def test_orders_of_the_whole_account_on_every_connection_come_out_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Where a connection to one market hears of all orders, its feed leaves those of other feeds to them."""
    feeds = (Feed(markets=(BTC, ETH), streams=("orders",), lines=2),)
    behaviour = Behaviour(order_scope="account", refusals_show_order=True)
    async with staged(
        tmp_path, feeds=feeds, behaviour=behaviour, account_rate=1000, markets=(BTC, ETH)
    ) as stage:
        for number in range(10):
            stage.strike("reset", number % 2, (BTC, ETH)[number % 2])
            await stage.talk(0.5)
            await stage.talk_until(stage.all_up)
        await trio.sleep(1)
        names = (f"{BTC}/orders", f"{ETH}/orders")
        assert_same(stage.reading.sequences, {name: stage.truth[name] for name in names})
        assert {(one["feed"], one["channel"]) for one in stage.named("foreign_event")} == {
            (BTC, f"{ETH}/orders"),
            (ETH, f"{BTC}/orders"),
        }
        assert_unmarked(stage)


# Focused connections


async def test_feeds_of_one_market_keep_their_streams_apart(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """(3) One feed for trades, one for the book: their lines ask for their stream only, and both channels are exact."""
    async with staged(tmp_path, feeds=FOCUSED) as stage:
        asked = sorted(line.subscriptions for line in stage.exchange.connections(BTC))
        assert asked == [[BOOK], [BOOK], [TRADES], [TRADES]]
        for number in range(12):
            stage.strike(("close", "reset", "half_frame")[number % 3], number % 4)
            await stage.talk(0.3)
            await stage.talk_until(stage.all_up)
        await stage.arrived()
        stage.assert_exact()
        assert stage.follow_book().shapes == ["snapshot", "events"]
        assert set(stage.daemon.feeds) == {f"trades/{BTC}", f"book/{BTC}"}
        assert {fields["feed"] for fields in stage.named("line_lost")} == set(stage.daemon.feeds)


@pytest.mark.parametrize(("dead", "alive"), [(TRADES, BOOK), (BOOK, TRADES)])
async def test_the_failure_of_one_feed_leaves_the_other_of_its_market_untouched(
    tmp_path: Path, autojump_clock: MockClock, dead: str, alive: str
) -> None:
    """(4) All lines of one of them die and cannot come back for a while: a gap and its repair there, nothing here."""
    async with staged(tmp_path, feeds=FOCUSED) as stage:
        await stage.talk(2)
        stage.exchange.behaviour = Behaviour(handshake_status=503)
        for line in stage.exchange.connections(BTC):
            if line.subscriptions == [dead]:
                stage.strike("reset", line.index)
        await stage.talk(6)
        assert stage.reading.states(f"{BTC}/{dead}")[-1] == "down"
        stage.exchange.behaviour = Behaviour()
        await stage.talk_until(stage.all_up)
        await stage.until(lambda: bool(stage.reading.of("gap")))
        await stage.until(stage.all_synchronised)
        await stage.talk(1)
        await trio.sleep(1)
        label = {TRADES: f"trades/{BTC}", BOOK: f"book/{BTC}"}
        (gap,) = stage.reading.of("gap")
        assert gap["channel"] == f"{BTC}/{dead}"
        assert stage.reading.sequences[f"{BTC}/{alive}"] == stage.truth[f"{BTC}/{alive}"]
        assert set(stage.reading.states(f"{BTC}/{alive}")) <= {"down", "syncing", "live"}
        assert stage.reading.states(f"{BTC}/{alive}")[-1] == "live"
        assert stage.reading.states(f"{BTC}/{dead}")[-1] == "live"
        since = gap["since"]
        changes = [one for one in stage.reading.of("state", f"{BTC}/{alive}") if one["since"] >= since]
        assert changes == []
        assert {fields["feed"] for fields in stage.named("line_lost", "connect_failed")} == {label[dead]}
        if dead == TRADES:
            got = stage.reading.of("event", f"{BTC}/{TRADES}")
            assert [row for event in got for row in rows(json.dumps(event["msg"]))] == [
                row for payload in stage.truth[f"{BTC}/{TRADES}"] for row in rows(payload)
            ]
            assert stage.follow_book().shapes == ["snapshot", "events"]
        else:
            assert stage.follow_book().shapes == ["snapshot", "events", "gap", "snapshot", "events"]


# Over market=ALL


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"snapshot_market": False, "market_in_public": False},
        {"snapshot_market": False, "snapshot_request_id": False, "snapshot_ts": False, "delta_ts": False},
        {"v1_names": True, "spaced_json": True},
    ],
)
async def test_one_feed_over_all_markets_is_exact_in_each(
    tmp_path: Path, autojump_clock: MockClock, switches: dict[str, Any]
) -> None:
    """(3, 5) Channels open with the first event of their market; lines die at every turn; all books are right."""
    markets = (BTC, ETH, "SOL-USD")
    asked: list[dict[str, Any]] = []
    async with staged(
        tmp_path,
        markets=markets,
        feeds=(ALL,),
        behaviour=Behaviour(**switches),
        recovery=Recovery(audit_s=2.0),
    ) as stage:
        _overhear(stage, asked)
        for number in range(20):
            stage.say(number % 4)
            stage.strike(("close", "reset", "half_frame")[number % 3], number % 2, "ALL")
            stage.say(1 + number % 3)
            await stage.until(lambda number=number: len(stage.named("line_lost")) > number)
            await stage.talk_until(stage.all_up)
        await stage.talk(5)
        await stage.arrived()
        truth = over_all(stage)
        assert_same(stage.reading.sequences, truth, f"/{TRADES}")
        for market in markets:
            follower = stage.follow_book(market, [compact(one) for one in truth[f"{market}/{BOOK}"]])
            assert set(follower.shapes) == {"snapshot", "events"}
            first = stage.reading.of("event", f"{market}/{TRADES}")[0]
            assert first["seq"] == 1
        assert {one["content"]["market"] for one in asked if one["message"].startswith("emit")} == set(
            markets
        )
        assert stage.named("event_misshapen") == []
        assert_unmarked(stage)


def _overhear(stage: Stage, asked: list[dict[str, Any]]) -> None:
    """Write down what the lines ask from now on."""
    answer = stage.exchange._desk.answer

    def overheard(asker: Any, raw: bytes, now: float) -> bytes:
        asked.append(json.loads(raw))
        return answer(asker, raw, now)

    stage.exchange._desk.answer = overheard  # type: ignore[method-assign]


async def test_a_public_event_without_its_market_is_counted_and_seen(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Over ALL nobody can tell its channel: each line's copy is noted, and it comes out once as unknown, if it can."""
    async with staged(tmp_path, feeds=(ALL,)) as stage:
        await stage.talk(1)
        nameless = b'{"resultType":"publicCompletedOrdersDelta","data":{"orders":[],"statusCode":200}}'
        for line in stage.exchange.connections("ALL"):
            stage.exchange.reply(line, nameless)
        await stage.talk(1)
        await stage.arrived()
        assert stage.reading.sequences["ALL/other"] == [nameless]
        assert sorted(fields["line"] for fields in stage.named("event_misshapen")) == ["a", "b"]
        assert {fields["reason"] for fields in stage.named("event_misshapen")} == {"market"}
        assert stage.named("line_lost") == []
        assert_same(stage.reading.sequences, over_all(stage), f"/{TRADES}")


async def test_an_outage_over_all_markets_is_repaired_in_each(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """(4, 5) One gap a channel; each market's trades are recovered from its own snapshot, each book replaced."""
    async with staged(tmp_path, markets=(BTC, ETH), feeds=(ALL,)) as stage:
        await stage.talk(3)
        stage.strike("outage", "all", "ALL", duration_s=5)
        await stage.talk(8)
        await stage.talk_until(stage.all_up)
        await stage.until(stage.all_synchronised)
        await stage.talk(2)
        await trio.sleep(2)
        gaps = Counter(gap["channel"] for gap in stage.reading.of("gap"))
        assert gaps == {f"{market}/{stream}": 1 for market in (BTC, ETH) for stream in (BOOK, TRADES)}
        for market in (BTC, ETH):
            assert stage.follow_book(market).shapes == ["snapshot", "events", "gap", "snapshot", "events"]
            got = stage.reading.of("event", f"{market}/{TRADES}")
            assert [row for event in got for row in rows(json.dumps(event["msg"]))] == [
                row for payload in stage.truth[f"{market}/{TRADES}"] for row in rows(payload)
            ]
