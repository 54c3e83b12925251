"""What holds between keys: channels, labels, limits, secrets."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedhandler.config import STREAMS, Bounds, Config, Exchange, Feed, Limits, Publish, is_tight
from feedhandler.config.rules import broken_rules

EXCHANGE = Exchange(websocket_url="wss://e", markets_url="https://e/markets")


def broken(*feeds: Feed, exchange: Exchange = EXCHANGE, **limits: int) -> list[str]:
    """Give the rules that feeds break, by default those that do not concern limits."""
    most = {"connections_per_market": 10**6, "connections_agnostic": 10**6}
    return list(broken_rules(Config(exchange=exchange, feeds=feeds, limits=Limits(**(most | limits)))))


def feed(*markets: str, streams: str = "publicTrades", name: str = "", lines: int = 2) -> Feed:
    """Make a feed; the streams are separated by spaces."""
    return Feed(name=name, markets=markets, streams=tuple(streams.split()), lines=lines)


@pytest.mark.parametrize(
    ("first", "second", "channel"),
    [
        (feed("A"), feed("A", name="x"), "A/publicTrades"),
        (feed("A", "B"), feed("C", "B", name="x"), "B/publicTrades"),
        (feed("*"), feed("A", name="x"), "A/publicTrades"),
        (feed("A"), feed("*", name="x"), "A/publicTrades"),
        (feed("*"), feed("ALL", name="x"), "*/publicTrades"),
        (feed("ALL"), feed("A", name="x"), "A/publicTrades"),
        (feed("ALL", streams="trades"), feed("A", name="x", streams="trades"), "ALL/trades"),
        (feed("A", streams="trades"), feed("B", streams="trades"), "ALL/trades"),
        (feed("A", streams="orders"), feed("ALL", name="x", streams="trades orders"), "A/orders"),
        (feed("A", name="a"), feed("A", name="b", streams="publicOrderBook publicTrades"), "A/publicTrades"),
    ],
)
def test_a_channel_is_in_one_feed(first, second, channel):
    """Markets that are the same, or stand for each other, are refused with the same stream."""
    assert broken(first, second) == [f"feed[1].streams: channel {channel} is in feed[0] already"]


def test_two_feeds_of_one_market_need_other_streams_and_a_name():
    """The same market twice is fine with different streams, once a name tells their labels apart."""
    book = feed("A", streams="publicOrderBook")
    assert broken(feed("A"), book) == ["feed[1].name: expected a name, feed[0] has A without one too"]
    assert broken(feed("A"), feed("*", streams="publicOrderBook")) == [
        "feed[1].name: expected a name, feed[0] has A without one too"
    ]
    assert broken(feed("A"), feed("A", streams="publicOrderBook", name="book")) == []
    assert broken(feed("*"), feed("ALL", streams="orders trades")) == []
    assert (
        broken(
            feed("A", "B", name="t"),
            feed("A", streams="publicOrderBook", name="b"),
            feed("A", streams="orders"),
        )
        == []
    )
    assert broken(feed("ALL"), feed("ALL", streams="orders")) == [
        "feed[1].name: expected a name, feed[0] has ALL without one too"
    ]


def test_names_are_unique():
    """A name that two feeds share is refused even where their markets differ."""
    assert broken(feed("A", name="x"), feed("B", name="x")) == [
        'feed[1].name: "x" is the name of feed[0] already'
    ]


@pytest.mark.parametrize("every", ["ALL", "*"])
def test_every_market_stands_alone(every):
    """ALL and * can't stand beside other markets."""
    assert broken(feed("A", every)) == [f'feed[0].markets: expected "{every}" to stand alone, got 2 markets']


def test_listed_markets_need_their_url(finds):
    """["*"], which is the default too, needs to know where the exchange lists its markets."""
    without = '[exchange]\nwebsocket_url = "wss://e"\n'
    assert finds("[[feed]]", head=without) == ['feed[0].markets: ["*"] needs exchange.markets_url']
    assert finds("[[feed]]") == []


def test_the_name_of_the_control_socket_is_taken(finds):
    """A feed's socket of that name would keep the daemon from having its own."""
    mistake = "publish.socket: control.sock is the name of the control socket beside it"
    assert finds('[publish]\nsocket = "/run/control.sock"\n[[feed]]') == [mistake]


@pytest.mark.parametrize("markets", [("A", "B"), ("*",)])
def test_account_trades_are_in_one_feed_over_one_market(markets):
    """Every connection brings the trades of the whole account, so that several feeds would double them."""
    (found,) = broken(feed(*markets, streams="orders trades"))
    assert found.startswith("feed[0].streams: trades are the whole account's on every connection")
    assert broken(feed("A", streams="orders trades")) == []


FEEDS = st.builds(
    Feed,
    name=st.sampled_from(["", "x", "y", "z"]),
    markets=st.sampled_from([("A",), ("B",), ("A", "B"), ("B", "C"), ("*",), ("ALL",)]),
    streams=st.lists(st.sampled_from(STREAMS), min_size=1, unique=True).map(tuple),
    lines=st.integers(1, 8),
)


def _channels(one: Feed) -> set[str]:
    markets = {"A", "B", "C", "D"} if one.markets[0] in ("*", "ALL") else set(one.markets)
    return {
        "ALL/trades" if stream == "trades" else f"{m}/{stream}" for m in markets for stream in one.streams
    }


@settings(max_examples=300)
@given(st.lists(FEEDS, max_size=4))
def test_channels_of_two_feeds_are_found_as_by_writing_them_all_down(feeds):
    """A shared channel is reported exactly when two feeds share one once all are written down."""
    shared = any(_channels(a) & _channels(b) for a, b in itertools.combinations(feeds, 2))
    assert any(" is in feed[" in mistake for mistake in broken(*feeds)) == shared


@settings(max_examples=300)
@given(st.lists(FEEDS, max_size=4), st.integers(1, 12), st.integers(0, 12), st.integers(1, 12))
def test_lines_above_a_limit_are_found_as_by_counting(feeds, per_market, total, agnostic):
    """Each limit is reported exactly when a count over all feeds is above it."""
    named = [one for one in feeds if one.markets != ("ALL",)]
    most = max(
        (sum(f.lines for f in named if m in f.markets or f.markets == ("*",)) for m in "ABC*"), default=0
    )
    counts = {
        "per_market": (most, per_market),
        "total": (sum(one.lines * len(one.markets) for one in named), total or 10**6),
        "agnostic": (sum(one.lines for one in feeds if one.markets == ("ALL",)), agnostic),
    }
    found = broken(
        *feeds,
        connections_per_market=per_market,
        connections_total=total,
        connections_agnostic=agnostic,
    )
    for name, (lines, limit) in counts.items():
        assert any(f"limits.connections_{name}" in mistake for mistake in found) == (lines > limit)


def test_lines_above_a_limit_name_the_feed_that_crosses_it():
    """One feed alone is told its maximum, several together their sum; each limit is reported once."""
    assert broken(feed("A", lines=6), connections_per_market=5) == [
        "feed[0].lines: expected at most 5 (limits.connections_per_market), got 6"
    ]
    assert broken(
        feed("A", lines=3), feed("A", lines=3, streams="publicOrderBook", name="b"), connections_per_market=5
    ) == ["feed[1].lines: 6 lines of market A together, limits.connections_per_market is 5"]
    focused = [
        feed("A", streams=one, name=one, lines=2) for one in ("publicTrades", "publicOrderBook", "orders")
    ]
    assert broken(*focused, connections_per_market=5) == [
        "feed[2].lines: 6 lines of market A together, limits.connections_per_market is 5"
    ]
    assert broken(*focused, connections_per_market=6) == []
    assert broken(feed("A", "B"), feed("C"), feed("D"), connections_total=5) == [
        "feed[1].lines: 6 lines of all markets together, limits.connections_total is 5"
    ]
    assert broken(feed("ALL", lines=8), connections_agnostic=5) == [
        "feed[0].lines: expected at most 5 (limits.connections_agnostic), got 8"
    ]


@pytest.mark.parametrize(
    ("websocket_url", "token_url", "paths"),
    [
        ("wss://e", "https://t", []),
        ("ws://127.0.0.1:1", "http://localhost:1", []),
        ("ws://e", "https://t", ["exchange.websocket_url"]),
        ("wss://e", "http://t", ["exchange.token_url"]),
        ("ws://e", "http://t", ["exchange.websocket_url", "exchange.token_url"]),
        ("ws://e", "", []),
    ],
)
def test_secrets_leave_the_machine_encrypted(websocket_url, token_url, paths):
    """A token over ws://, key and secret over http://: only to loopback."""
    exchange = Exchange(websocket_url=websocket_url, token_url=token_url)
    assert [mistake.split(":")[0] for mistake in broken(feed("A"), exchange=exchange)] == paths


def test_the_longest_backoff_is_not_the_shortest(finds):
    """The two bounds of the backoff can't be swapped."""
    assert finds("[[feed]]\n[bounds]\nbackoff_min_s = 5\nbackoff_max_s = 2") == [
        "bounds.backoff_max_s: expected at least 5 (bounds.backoff_min_s), got 2"
    ]


@pytest.mark.parametrize(
    ("text", "mistakes"),
    [
        ("consumer_mib = 13", []),
        ("consumer_mib = 64", []),
        ("consumer_mib = 65", ["publish.consumer_mib: expected at most 64 (publish.backlog_mib), got 65"]),
        (
            "consumer_mib = 12",
            [
                "publish.consumer_mib: expected more than 12 (bounds.snapshot_mib + publish.peak_mib_s), got 12"
            ],
        ),
        ("consumer_mib = 12\npeak_mib_s = 3", []),
        (
            "consumer_mib = 5\nbacklog_mib = 4",
            ["publish.consumer_mib: expected at most 4 (publish.backlog_mib), got 5"],
        ),
        ("consumer_mib = 13\nbacklog_mib = -1", ["publish.backlog_mib: expected 1..1048576, got -1"]),
        ("backlog_mib = 1", []),
    ],
)
def test_what_a_consumer_may_fall_behind_fits_in_between(finds, text, mistakes):
    """(9) More than a snapshot and a second of peak output, no more than the backlog; derived, it is legal."""
    assert finds(f"[[feed]]\n[publish]\n{text}") == mistakes


@given(backlog=st.integers(1, 2000), consumer=st.integers(0, 2000), snapshot=st.integers(1, 1024))
def test_a_limit_is_refused_or_doubtful_exactly_when_a_consumer_could_not_recover(
    backlog, consumer, snapshot
):
    """(9) What is accepted and not doubtful leaves room for snapshot and peak, and is held by the backlog."""
    publish, bounds = Publish(backlog_mib=backlog, consumer_mib=consumer), Bounds(snapshot_mib=snapshot)
    config = Config(exchange=EXCHANGE, feeds=(feed("A"),), publish=publish, bounds=bounds)
    recovers = snapshot + publish.peak_mib_s < (consumer or backlog * 3 / 4) and consumer <= backlog
    mistakes = list(broken_rules(config))
    assert (not mistakes and not is_tight(publish, bounds)) == recovers
    assert consumer or not mistakes
