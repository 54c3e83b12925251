# ruff: noqa: ARG001 - tests ask for the clock by name, and for what their parameters say
"""The exchange as its clients see it."""

import contextlib
import json
import ssl
from functools import partial
from pathlib import Path

import httpx2
import pytest
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, open_websocket_url

from feedhandler.simulator.server import serve
from feedhandler.simulator.settings import Behaviour, Fault, FaultPlan, RandomFaults, Settings

BOOK = "publicOrderBook"
TRADES = "publicTrades"
DELTA = (
    b'{"resultType":"publicOrderBookDelta","market":"BTC-USD","data":{"orders":['
    b'{"orderType":"buy","price":"1.5","quantity":"%d"}],"statusCode":200,"ts":7}}'
)
TRADE = (
    b'{"resultType":"publicCompletedOrdersDelta","market":"BTC-USD","data":{"orders":['
    b'{"executionType":"taker","matchId":"m%d"}],"statusCode":200}}'
)


def behaving(**switches):
    """Return a plan with only a behaviour."""
    return FaultPlan(behaviour=Behaviour(**switches))


async def ask(line, message, **content):
    """Send a request; return its answer."""
    await line.send_message(json.dumps({"message": message, "content": content}))
    return json.loads(await line.get_message())


async def test_broadcasts_reach_subscribers_byte_for_byte_and_in_order(start, join, autojump_clock):
    """Every subscriber of a market gets the very bytes that were broadcast, in their order."""
    exchange = await start()
    sent = [(BOOK, DELTA % 1), (TRADES, TRADE % 1), (BOOK, DELTA % 1), (BOOK, DELTA % 2)]
    async with join(exchange) as one, join(exchange) as two, join(exchange, subscriptions=BOOK) as book:
        for stream, payload in sent:
            exchange.broadcast("BTC-USD", stream, payload)
        for line in (one, two):
            assert [await line.get_message() for _ in sent] == [payload.decode() for _, payload in sent]
        assert [await book.get_message() for _ in range(3)] == [p.decode() for s, p in sent if s == BOOK]
    assert exchange.broadcasts == 4


async def test_ping_subscribe_unsubscribe_and_errors(start, join, autojump_clock):
    """Requests get the documented answers; what is no request gets status 400."""
    exchange = await start()
    async with join(exchange, subscriptions=None) as line:
        assert await ask(line, "ping", clientRequestId="x") == {
            "resultType": "pong",
            "data": {"clientRequestId": "x", "statusCode": 200},
        }
        answer = await ask(line, "subscribe", subscriptions=[BOOK])
        assert answer["resultType"] == "subscribed"
        assert answer["data"] == {"activeSubscriptions": ["orders", BOOK], "requestedSubscriptions": [BOOK]}
        exchange.broadcast("BTC-USD", BOOK, DELTA % 1)
        assert await line.get_message() == (DELTA % 1).decode()
        answer = await ask(line, "unsubscribe", subscriptions=[BOOK])
        assert answer["data"]["activeSubscriptions"] == ["orders"]
        exchange.broadcast("BTC-USD", BOOK, DELTA % 1)
        for bad in ("dance", "subscribe"):
            assert (await ask(line, bad))["data"]["statusCode"] == 400
        await line.send_message("no JSON")
        assert json.loads(await line.get_message())["data"]["statusCode"] == 400


async def test_snapshots_show_exactly_what_was_broadcast_before_them(start, join, autojump_clock):
    """A book snapshot stands behind the deltas that it contains; the trade snapshot has the newest first."""
    exchange = await start(markets=("X",))
    async with join(exchange, "X") as line:
        before = (await ask(line, "emitPublicOrderBook"))["data"]["orders"]
        exchange.broadcast("X", BOOK, DELTA % 9)
        exchange.broadcast("X", TRADES, TRADE % 1)
        exchange.broadcast("X", TRADES, TRADE % 2)
        await line.send_message('{"message":"emitPublicOrderBook","content":{"clientRequestId":"r"}}')
        assert await line.get_message() == (DELTA % 9).decode()
        await line.get_message()
        await line.get_message()
        after = json.loads(await line.get_message())["data"]
        assert after["clientRequestId"] == "r"
        assert after["ts"] == 7
        level = {"orderType": "buy", "price": "1.5", "quantity": "9"}
        assert after["orders"] == [*before, level]
        trades = (await ask(line, "emitPublicCompletedOrders"))["data"]["orders"]
        assert [row["matchId"] for row in trades] == ["m2", "m1"]


async def test_a_lagging_snapshot_shows_an_older_book(start, join, autojump_clock):
    """With a lag of 30 s a level appears in the snapshot 30 s after its delta."""
    exchange = await start(plan=behaving(snapshot_lag_s=30.0))
    async with join(exchange, subscriptions="orders") as line:
        exchange.broadcast("BTC-USD", BOOK, DELTA % 9)
        prices = []
        for _ in range(2):
            rows = (await ask(line, "emitPublicOrderBook"))["data"]["orders"]
            prices.append("1.5" in {row["price"] for row in rows})
            await trio.sleep(31)
    assert prices == [False, True]


async def test_market_all_gets_everything_with_the_market_named(start, join, autojump_clock):
    """Over ALL every market's events come, with `market` even where the exchange leaves it out otherwise."""
    exchange = await start(markets=("A-B", "C-D"), plan=behaving(market_in_public=False))
    plain = b'{"resultType":"publicOrderBookDelta","data":{"orders":[],"statusCode":200}}'
    async with join(exchange, "ALL") as agnostic, join(exchange, "A-B") as named:
        exchange.broadcast("A-B", BOOK, plain)
        exchange.broadcast("C-D", BOOK, plain)
        assert [json.loads(await agnostic.get_message())["market"] for _ in range(2)] == ["A-B", "C-D"]
        assert await named.get_message() == plain.decode()
        assert (await ask(agnostic, "emitPublicOrderBook"))["data"]["statusCode"] == 400
        assert (await ask(agnostic, "emitPublicOrderBook", market="C-D"))["resultType"] == "publicOrderBook"
        assert (await ask(named, "emitPublicOrderBook", market="C-D"))["data"]["statusCode"] == 400


@pytest.mark.parametrize(
    ("switch", "check"),
    [
        ({"snapshot_ts": False}, lambda snapshot: "ts" not in snapshot["data"]),
        ({"snapshot_market": False}, lambda snapshot: "market" not in snapshot),
        ({"snapshot_request_id": False}, lambda snapshot: "clientRequestId" not in snapshot["data"]),
        ({"extra_keys": True}, lambda snapshot: "revision" in snapshot and "origin" in snapshot["data"]),
        ({"fragment_bytes": 100}, lambda snapshot: len(snapshot["data"]["orders"]) == 100),
    ],
)
async def test_snapshot_switches(start, join, autojump_clock, switch, check):
    """Every way in which the documents leave a snapshot open can be had."""
    exchange = await start(plan=behaving(**switch))
    async with join(exchange) as line:
        assert check(await ask(line, "emitPublicOrderBook", clientRequestId="x"))


TOKEN_REQUEST = b"POST /api/v1/token HTTP/1.1\r\nHost: x\r\nX-Api-Key: k\r\nX-Api-Secret: s\r\n\r\n"


@pytest.mark.parametrize(
    ("kind", "start_of_answer", "held"),
    [
        ("html", b"HTTP/1.1 200 ", True),
        ("cut", b"HTTP/1.1 200 ", True),
        ("empty", b"HTTP/1.1 200 ", False),
        ("array", b"HTTP/1.1 200 ", True),
        ("no_token", b"HTTP/1.1 200 ", True),
        ("odd_token", b"HTTP/1.1 200 ", True),
        ("redirect", b"HTTP/1.1 307 ", False),
        ("no_http", b"\x00\x15SSH", True),
        ("close", b"", False),
    ],
)
async def test_the_token_endpoint_may_answer_something_else(
    start, autojump_clock, kind, start_of_answer, held
):
    """Each odd answer comes and the connection is closed behind it; where it holds a token, that is a good one."""
    exchange = await start(plan=behaving(endpoint_answer=kind))
    async with await trio.open_tcp_stream("127.0.0.1", int(exchange.url.rsplit(":", 1)[1])) as stream:
        await stream.send_all(TOKEN_REQUEST)
        answer, _ = await read_to_end(stream)
    assert answer.startswith(start_of_answer)
    assert (b"simulated.token-000001.x" in answer) == held
    assert exchange.gate.expiry("simulated.token-000001.x") is not None


@pytest.mark.parametrize("kind", ["huge", "endless", "silence", "reset"])
async def test_the_token_endpoint_may_answer_without_an_end(start, autojump_clock, kind):
    """It may send megabytes, never stop, say nothing, or break off; a client that leaves ends it."""
    exchange = await start(plan=behaving(endpoint_answer=kind))
    received = 0
    async with await trio.open_tcp_stream("127.0.0.1", int(exchange.url.rsplit(":", 1)[1])) as stream:
        await stream.send_all(TOKEN_REQUEST)
        with trio.move_on_after(100), contextlib.suppress(trio.BrokenResourceError):
            while received < 9 * 1024 * 1024 and (data := await stream.receive_some()):
                received += len(data)
    assert (received > 8 * 1024 * 1024) == (kind in {"huge", "endless"})
    assert exchange.gate.compliance.token_requests == 1


async def test_key_and_secret_at_another_address_are_a_breach(start, autojump_clock):
    """A client that follows a redirect with its secret, or sends it anywhere else, is written down."""
    exchange = await start(plan=behaving(endpoint_answer="redirect"))
    keys = {"X-Api-Key": "k", "X-Api-Secret": "s"}
    async with httpx2.AsyncClient(base_url=exchange.http_url, follow_redirects=True) as http:
        assert (await http.post("/api/v1/token", headers=keys)).status_code == 404
    assert exchange.gate.compliance.breaches == [
        "key and secret were sent to an address that is not the token endpoint"
    ]


async def test_tokens_over_http_and_their_use(start, join, autojump_clock):
    """A token from the endpoint opens a connection, and an expired or unknown one does not."""
    exchange = await start(api_key="k", api_secret="s", plan=behaving(token_life_s=60.0, token_required=True))
    async with httpx2.AsyncClient(base_url=exchange.http_url) as http:
        assert (
            await http.post("/api/v1/token", headers={"X-Api-Key": "k", "X-Api-Secret": "no"})
        ).status_code == 401
        answer = await http.post("/api/v1/token", headers={"X-Api-Key": "k", "X-Api-Secret": "s"})
        assert (await http.get("/api/v1/markets")).json() == [{"market": "BTC-USD"}]
        assert (await http.get("/elsewhere")).status_code == 404
        assert (await http.get("/")).status_code == 400
    assert answer.json()["token_type"] == "Bearer"
    assert answer.json()["expires_in"] == 60
    token = answer.json()["access_token"]
    async with join(exchange, token=token) as line:
        assert line.subprotocol == f"authorization#{token}"
    for bad in ("", "unknown"):
        with pytest.raises(ConnectionRejected):
            async with join(exchange, token=bad):
                pass
    await trio.sleep(61)
    with pytest.raises(ConnectionRejected) as rejected:
        async with join(exchange, token=token):
            pass
    assert rejected.value.status_code == 401
    compliance = exchange.gate.compliance
    assert (compliance.expired_tokens_used, compliance.unknown_tokens_used, compliance.token_requests) == (
        1,
        1,
        2,
    )


async def test_no_echo_of_the_subprotocol(start, join, autojump_clock):
    """Without the echo a connection opens all the same."""
    exchange = await start(plan=behaving(echo_subprotocol=False))
    _, token = exchange.gate.issue(trio.current_time(), "k", "s")
    async with join(exchange, token=token) as line:
        assert line.subprotocol is None


@pytest.mark.parametrize(
    ("switch", "market", "status"),
    [
        ({"handshake_status": 503, "retry_after_s": 7}, "BTC-USD", 503),
        ({"connections_per_market": 1}, "BTC-USD", 403),
        ({"connections_per_minute": 1}, "BTC-USD", 429),
        ({"connections_specific": 1}, "BTC-USD", 403),
        ({"connections_agnostic": 1}, "ALL", 403),
        ({}, "NO-SUCH", 404),
    ],
)
async def test_refused_handshakes(start, join, autojump_clock, switch, market, status):
    """Caps and refusals are answered with their status, the second connection at the latest."""
    exchange = await start(plan=behaving(**switch))
    with pytest.raises(ConnectionRejected) as rejected:
        async with join(exchange, market), join(exchange, market):
            pass
    assert rejected.value.status_code == status
    assert exchange.gate.compliance.refusals == {status: 1}
    retry = [value for name, value in rejected.value.headers if name == b"retry-after"]
    assert retry == ([b"7"] if switch.get("retry_after_s") else [])


async def test_a_silent_handshake(start, join_raw, autojump_clock):
    """A silent exchange takes the connection and never answers."""
    exchange = await start(plan=behaving(handshake="silence"))
    with pytest.raises(trio.TooSlowError), trio.fail_after(600):
        await join_raw(exchange)


@pytest.mark.parametrize(
    "switch", [{"max_connection_age_s": 10.0}, {"close_at_token_expiry": True, "token_life_s": 10.0}]
)
async def test_connections_closed_by_age_or_token(start, join, autojump_clock, switch):
    """A connection is closed at its maximum age or when its token expires."""
    exchange = await start(plan=behaving(**switch))
    _, token = exchange.gate.issue(trio.current_time(), "k", "s")
    began = trio.current_time()
    async with join(exchange, token=token) as line:
        with pytest.raises(ConnectionClosed) as closed:
            await line.get_message()
        assert closed.value.reason.code == 1008
    assert 9.9 < trio.current_time() - began < 11


async def test_server_pings_are_timed(start, join, autojump_clock):
    """The exchange pings and knows how long the slowest answer took."""
    exchange = await start(plan=behaving(ping_every_s=5.0))
    async with join(exchange):
        await trio.sleep(21)
    compliance = exchange.gate.compliance
    assert compliance.pings_sent == compliance.pongs_received == 4
    assert compliance.slowest_pong_s < 0.1


async def test_unknown_types_and_unsolicited_snapshots(start, join, autojump_clock):
    """The exchange says things that nobody asked for where it is told to."""
    exchange = await start(plan=behaving(unknown_types_every_s=1.0, unsolicited_snapshot_every_s=1.5))
    async with join(exchange) as line:
        kinds = {json.loads(await line.get_message())["resultType"] for _ in range(4)}
    assert kinds == {"marketStatus", "publicOrderBook"}


async def test_a_client_that_does_not_read_is_closed_as_slow(start, join_raw, autojump_clock):
    """An outbox over its bound ends its connection and no other."""
    exchange = await start(outbox_bytes=100_000)
    stuck = await join_raw(exchange)
    await trio.testing.wait_all_tasks_blocked()
    for number in range(100_000 // len(DELTA) + 2):
        exchange.broadcast("BTC-USD", BOOK, DELTA % number)
    assert exchange.connections("BTC-USD") == []
    await trio.sleep(5)
    await stuck.aclose()


async def test_playing_waits_for_its_audience_and_writes_the_truth(start, join, autojump_clock, tmp_path):
    """With `wait` every line gets all of the truth from its first event on."""
    truth = tmp_path / "truth.jsonl"
    exchange = await start(rate=200.0, wait=2, truth=truth)
    async with join(exchange) as one:
        await trio.sleep(10)
        assert not exchange.started_playing.is_set()
        async with join(exchange) as two:
            got = [[await line.get_message() for _ in range(300)] for line in (one, two)]
    assert got[0] == got[1]
    exchange.truth.flush()
    lines = [json.loads(line) for line in truth.read_text().splitlines()]
    assert len(lines) == exchange.broadcasts >= 300
    assert [line["msg"] for line in lines][:300] == [json.loads(message) for message in got[0]]
    assert truth.read_text().startswith(
        '{"market":"BTC-USD","stream":"' + lines[0]["stream"] + '","msg":' + got[0][0] + "}\n"
    )


async def test_flat_out_waits_for_the_connections(start, join):
    """At rate 0 nothing overflows: the exchange goes as fast as its clients.

    By the real clock: while all wait for the kernel to move megabytes, a virtual one would jump to the client's end.
    """
    exchange = await start(rate=0, wait=1)
    async with join(exchange) as line:
        for _ in range(3000):
            await line.get_message()
        assert len(exchange.connections("BTC-USD")) == 1


async def test_tls_with_a_made_up_authority(start, autojump_clock):
    """Over TLS a client that trusts the authority's file connects, and the file goes with the exchange."""
    exchange = await start(tls=True)
    context = ssl.create_default_context(cafile=str(exchange.ca_file))
    async with open_websocket_url(
        f"{exchange.url}/?market=BTC-USD&subscriptions=publicOrderBook", context
    ) as line:
        exchange.broadcast("BTC-USD", BOOK, DELTA % 3)
        assert await line.get_message() == (DELTA % 3).decode()
    assert isinstance(exchange.ca_file, Path)


async def read_to_end(stream):
    """Return all bytes until the end of the connection, and whether that was a reset."""
    data = bytearray()
    try:
        while piece := await stream.receive_some(65536):
            data += piece
    except trio.BrokenResourceError:
        return bytes(data), True
    finally:
        await stream.aclose()
    return bytes(data), False


def framed(*payloads):
    """Return the payloads as the text frames they should come in."""
    return b"".join(b"\x81\x7e" + len(payload).to_bytes(2, "big") + payload for payload in payloads)


@pytest.mark.parametrize("at", [1, 5, 9])
@pytest.mark.parametrize(
    ("kind", "how", "reset"),
    [
        ("close", "close", False),
        ("reset", "reset", True),
        ("half_frame", "close", False),
        ("half_frame", "reset", True),
    ],
)
async def test_a_line_dies_exactly_behind_an_event(
    start, join_raw, autojump_clock, faults, at, kind, how, reset
):
    """A line that is struck at event n delivers n events and dies as it was told."""
    fault = Fault(kind=kind, how=how, at_event=at, market="BTC-USD", line=0)
    exchange = await start(plan=FaultPlan(faults=(fault,)))
    stream = await join_raw(exchange)
    other = await join_raw(exchange)
    await trio.testing.wait_all_tasks_blocked()
    payloads = [DELTA % number for number in range(10)]
    for payload in payloads:
        exchange.broadcast("BTC-USD", BOOK, payload)
    data, was_reset = await read_to_end(stream)
    expected = framed(*payloads[:at])
    next_frame = framed(payloads[at])
    tail = {
        "close": b"\x88\x07\x03\xe9close",
        "reset": b"",
        "half_frame": next_frame[: len(next_frame) // 2],
    }[kind]
    assert data == expected + tail
    assert was_reset is reset
    whole = framed(*payloads)
    assert await receive_exactly(other, len(whole)) == whole
    await other.aclose()
    assert faults == [(kind, "BTC-USD", 0)]


async def receive_exactly(stream, size):
    """Return so many bytes."""
    data = bytearray()
    while len(data) < size:
        data += await stream.receive_some(size - len(data))
    return bytes(data)


async def test_a_muted_line_answers_and_delivers_everything_later(start, join, autojump_clock):
    """While muted only replies come; afterwards nothing is missing."""
    exchange = await start()
    async with join(exchange) as line:
        exchange.inject(Fault(kind="mute", duration_s=60, line=0))
        for number in range(3):
            exchange.broadcast("BTC-USD", BOOK, DELTA % number)
        began = trio.current_time()
        assert (await ask(line, "ping"))["resultType"] == "pong"
        await line.ping()
        assert trio.current_time() - began < 1
        assert [await line.get_message() for _ in range(3)] == [(DELTA % n).decode() for n in range(3)]
        assert trio.current_time() - began >= 60


async def test_delay_and_its_end(start, join, autojump_clock):
    """A delayed line gets its events so much later, and on time again after the fault."""
    exchange = await start()
    async with join(exchange) as line:
        exchange.inject(Fault(kind="delay", delay_s=0.5, duration_s=5, line=0))
        delays = []
        for _ in range(2):
            began = trio.current_time()
            exchange.broadcast("BTC-USD", BOOK, DELTA % 1)
            await line.get_message()
            delays.append(trio.current_time() - began)
            await trio.sleep(10)
    assert delays[0] == pytest.approx(0.5, abs=0.01)
    assert delays[1] < 0.01


async def test_throttle(start, join, autojump_clock):
    """A throttled line needs as long for its bytes as it was told."""
    exchange = await start()
    async with join(exchange) as line:
        exchange.inject(Fault(kind="throttle", bytes_per_s=len(DELTA), line=0))
        began = trio.current_time()
        for number in range(5):
            exchange.broadcast("BTC-USD", BOOK, DELTA % number)
        for _ in range(5):
            await line.get_message()
        assert 4 < trio.current_time() - began < 6


async def test_drop_concerns_one_line(start, join, autojump_clock):
    """Dropped events are missing on one line and come on the other."""
    exchange = await start()
    async with join(exchange) as one, join(exchange) as two:
        exchange.inject(Fault(kind="drop", count=2, market="BTC-USD", line=0))
        for number in range(4):
            exchange.broadcast("BTC-USD", BOOK, DELTA % number)
        assert await one.get_message() == (DELTA % 2).decode()
        assert await two.get_message() == (DELTA % 0).decode()


async def test_interleaving_keeps_each_stream_in_order(start, join, autojump_clock):
    """An interleaved line gets everything, each stream in order, and the two differently mixed."""
    exchange = await start()
    async with join(exchange) as line:
        exchange.inject(Fault(kind="interleave", depth=6, duration_s=10, line=0))
        sent = []
        for number in range(60):
            stream, payload = (BOOK, DELTA % number) if number % 2 else (TRADES, TRADE % number)
            exchange.broadcast("BTC-USD", stream, payload)
            sent.append(payload.decode())
        got = [await line.get_message() for _ in sent]
    assert sorted(got) == sorted(sent)
    assert got != sent
    for kind in ("publicOrderBookDelta", "publicCompletedOrdersDelta"):
        assert [message for message in got if kind in message] == [
            message for message in sent if kind in message
        ]
    assert all(abs(sent.index(message) - place) <= 6 for place, message in enumerate(got))


@pytest.mark.parametrize(
    ("variant", "start_of_frame"),
    [
        ("text", b"\x81"),
        ("array", b"\x81"),
        ("binary", b"\x82"),
        ("invalid_utf8", b"\x81"),
        ("oversize", b"\x81\x7f"),
    ],
)
async def test_garbage_comes_between_events(start, join_raw, autojump_clock, variant, start_of_frame):
    """Garbage is a frame of its own in front of the next event."""
    exchange = await start()
    stream = await join_raw(exchange)
    await trio.testing.wait_all_tasks_blocked()
    exchange.inject(Fault(kind="garbage", variant=variant, size_bytes=100_000, line=0))
    exchange.broadcast("BTC-USD", BOOK, DELTA % 1)
    data = bytearray()
    while not data.endswith(framed(DELTA % 1)):
        data += await stream.receive_some(65536)
    assert data.startswith(start_of_frame)
    assert len(data) > len(framed(DELTA % 1))
    assert (variant == "oversize") is (len(data) > 100_000)
    await stream.aclose()


@pytest.mark.parametrize("variant", ["line_breaks", "fragmented"])
async def test_the_next_event_in_an_unusual_dress(start, join, autojump_clock, variant):
    """One event comes with line breaks or in fragments and means the same."""
    exchange = await start()
    async with join(exchange) as line:
        exchange.inject(Fault(kind="garbage", variant=variant, line=0))
        exchange.broadcast("BTC-USD", BOOK, DELTA % 1)
        exchange.broadcast("BTC-USD", BOOK, DELTA % 2)
        first = await line.get_message()
        assert json.loads(first) == json.loads(DELTA % 1)
        assert ("\n" in first) is (variant == "line_breaks")
        assert await line.get_message() == (DELTA % 2).decode()


async def test_an_outage_ends_all_lines_and_refuses_new_ones(start, join, autojump_clock):
    """During an outage nobody is connected and nobody comes in; afterwards all is well."""
    exchange = await start()
    async with join(exchange) as one, join(exchange) as two:
        exchange.inject(Fault(kind="outage", market="BTC-USD", duration_s=8))
        for line in (one, two):
            with pytest.raises(ConnectionClosed):
                await line.get_message()
        with pytest.raises(ConnectionRejected) as rejected:
            async with join(exchange):
                pass
        assert rejected.value.status_code == 503
        await trio.sleep(8)
        async with join(exchange) as line:
            assert (await ask(line, "ping"))["resultType"] == "pong"


async def test_faults_by_time_happen_at_their_time(start, join, autojump_clock, faults):
    """A fault with `at_s` strikes so long after the start of playing."""
    exchange = await start(wait=1, plan=FaultPlan(faults=(Fault(kind="reset", at_s=3.0),)))
    await trio.sleep(7)
    async with join(exchange) as line:
        await exchange.started_playing.wait()
        began = trio.current_time()
        with pytest.raises(ConnectionClosed):
            await line.get_message()
        assert trio.current_time() - began == pytest.approx(3, abs=0.01)
    assert faults == [("reset", "BTC-USD", 0)]


async def keep_line(exchange, join):
    """Stay connected, whatever happens."""
    while True:
        try:
            async with join(exchange) as line:
                while True:
                    await line.get_message()
        except (ConnectionClosed, ConnectionRejected):
            await trio.sleep(0.5)


async def test_random_faults_spare_a_line(start, join, autojump_clock, nursery, faults):
    """However often lots are drawn, one settled and untouched line is there at any time."""
    plan = FaultPlan(
        random=RandomFaults(kinds=("close", "reset", "mute", "drop", "outage"), every_s=0.2, duration_s=1.0)
    )
    exchange = await start(rate=50.0, wait=3, plan=plan)
    for _ in range(3):
        nursery.start_soon(keep_line, exchange, join)
    await exchange.started_playing.wait()
    await trio.sleep(3)
    for _ in range(600):
        await trio.sleep(0.1)
        settled = trio.current_time() - 2.0
        lines = exchange.connections("BTC-USD")
        assert any(line.opened_at <= settled and line.touched_until <= settled for line in lines)
    kinds = {kind for kind, _, _ in faults}
    assert kinds == {"close", "reset", "mute", "drop"}
    assert len(faults) > 10
    nursery.cancel_scope.cancel()


async def test_time_alone_settles_no_line(start, join, autojump_clock, faults):
    """Where lines count as settled by their events, they are spared until those were sent, and read by the client."""
    random = RandomFaults(kinds=("reset",), every_s=0.1, settle_s=1.0, settle_events=3)
    exchange = await start(plan=FaultPlan(random=random))
    async with join(exchange) as one, join(exchange) as other:
        await trio.sleep(30)
        for _ in range(3):
            assert faults == []
            exchange.broadcast("BTC-USD", BOOK, b"{}")
        await trio.sleep(30)
        for line in (one, other):
            assert faults == []
            for _ in range(3):
                await line.get_message()
            await trio.sleep(0.9)
        assert faults == []
        await trio.sleep(2)
        assert len(faults) == 1


async def test_a_line_takes_the_place_of_the_dead(start, join, autojump_clock):
    """The number of a line that is gone goes to the next that comes."""
    exchange = await start()
    async with join(exchange), join(exchange):
        exchange.inject(Fault(kind="reset", market="BTC-USD", line=0))
        await trio.sleep(1)
        assert [line.index for line in exchange.connections("BTC-USD")] == [1]
        async with join(exchange):
            assert [line.index for line in exchange.connections("BTC-USD")] == [0, 1]


@pytest.mark.parametrize(
    ("shape", "body"),
    [("strings", ["A-B"]), ("objects", [{"market": "A-B"}]), ("wrapped", {"markets": [{"market": "A-B"}]})],
)
async def test_shapes_of_the_list_of_markets(start, autojump_clock, shape, body):
    """The list of markets comes in any shape that it might have."""
    exchange = await start(markets=("A-B",), plan=behaving(markets_shape=shape))
    async with httpx2.AsyncClient(base_url=exchange.http_url) as http:
        assert (await http.get("/api/v1/markets")).json() == body
        assert (await http.head("/elsewhere")).status_code == 404


@pytest.mark.parametrize(
    "noise",
    [
        b"\x16\x03\x01 this is no HTTP\r\n\r\n",
        b"GET //[?market=%ff HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"POST /api/v1/token HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000,
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n",
        b"",
    ],
)
async def test_noise_on_the_port_hurts_nobody(start, join, autojump_clock, noise):
    """A client that speaks something else loses its connection; the exchange goes on."""
    exchange = await start()
    stream = await trio.open_tcp_stream("127.0.0.1", int(exchange.url.rsplit(":", 1)[1]))
    await stream.send_all(noise)
    with trio.fail_after(100):
        await read_to_end(stream)
    async with join(exchange) as line:
        assert (await ask(line, "ping"))["resultType"] == "pong"


MASKED_START = b"\x01\xfe\xff\xff\0\0\0\0" + b"x" * 65535
MASKED_REST = b"\x80\x85\0\0\0\0xxxxx"


@pytest.mark.parametrize(("noise", "code"), [(b"\xff" * 20, 1002), (MASKED_START + MASKED_REST, 1009)])
async def test_a_client_that_breaks_the_protocol_is_closed(start, join_raw, autojump_clock, noise, code):
    """Bad frames end with 1002, a request over the bound with 1009."""
    exchange = await start()
    stream = await join_raw(exchange)
    await stream.send_all(noise)
    data, _ = await read_to_end(stream)
    assert data[0] == 0x88
    assert int.from_bytes(data[2:4], "big") == code


async def test_faults_that_find_nobody_are_noted(nursery, autojump_clock):
    """A fault without a victim strikes nobody and is noted; connections are noted as they come and go."""
    notes = []
    settings = Settings(markets=("A-B",))
    exchange = await nursery.start(partial(serve, settings, notify=notes.append))
    exchange.inject(Fault(kind="reset"))
    exchange.inject(Fault(kind="reset", market="A-B", line=3))
    assert [note.name for note in notes] == ["simulated_fault_missed"] * 2


async def test_ping_floods_are_answered(start, join, autojump_clock, faults):
    """A flood of pings is as many pings, each answered."""
    exchange = await start()
    async with join(exchange):
        exchange.inject(Fault(kind="ping", count=50, line="all"))
        await trio.sleep(1)
    assert exchange.gate.compliance.pongs_received == 50
    assert faults == [("ping", "BTC-USD", 0)]


async def test_account_events_go_to_their_subscribers(start, join, autojump_clock):
    """Account trades reach whoever is subscribed to them, whatever market the connection named."""
    exchange = await start(markets=("A-B", "C-D"))
    async with join(exchange, "A-B", "trades") as one, join(exchange, "ALL", "trades,orders") as two:
        exchange.broadcast("ALL", "trades", b'{"resultType":"completedOrdersDelta","data":[]}')
        for line in (one, two):
            assert await line.get_message() == '{"resultType":"completedOrdersDelta","data":[]}'


async def test_a_client_that_asks_and_never_reads_is_closed_as_slow(start, join_raw, autojump_clock):
    """Unread replies count toward the bound of the outbox, too."""
    exchange = await start(outbox_bytes=20_000)
    stream = await join_raw(exchange)
    await trio.testing.wait_all_tasks_blocked()
    (line,) = exchange.connections("BTC-USD")
    for _ in range(4):
        exchange.reply(line, exchange.book_snapshot("BTC-USD"))
    assert exchange.connections("BTC-USD") == []
    data, _ = await read_to_end(stream)
    assert data == b"\x88\x0a\x03\xf5too slow"
