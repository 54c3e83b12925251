"""Connections against the limits, and the time that they take."""

from feedhandler.config import (
    Config,
    Exchange,
    Feed,
    Limits,
    Publish,
    Standby,
    describe,
    describe_pair,
    pair_mistakes,
    plan,
)

EXCHANGE = Exchange(websocket_url="wss://e", markets_url="https://m")
TIME = "time to full coverage, at 20 connections a minute:"


def config(*feeds: Feed, **limits: int) -> Config:
    """Make a configuration of feeds and limits."""
    return Config(exchange=EXCHANGE, feeds=feeds, limits=Limits(**limits))


def test_named_markets_and_the_account():
    """Lines of one market, of all markets and over ALL are counted against their own limits."""
    found = config(
        Feed(markets=("A", "B"), lines=2),
        Feed(name="book", markets=("B",), streams=("publicOrderBook",), lines=3),
        Feed(name="account", markets=("ALL",), streams=("orders", "trades"), lines=2),
        connections_total=7,
    )
    assert describe(found) == [
        "connections: 9 lines of 4 feeds",
        "  one market: 5 of 5 (B: B 2, book/B 3)",
        "  per-market feeds together: 7 of 7",
        "  over market=ALL: 2 of 5",
        f"{TIME} at most 27 s; every feed has a line within 12 s",
    ]


def test_listed_markets_not_known_yet():
    """Until the exchange has listed its markets, the need is told per market."""
    assert describe(config(Feed(markets=("*",), lines=2))) == [
        "connections: 0 lines of 0 feeds, and 2 lines for each market that the exchange lists",
        "  one market: 2 of 5 (each listed one)",
        "  per-market feeds together: 0 of no limit",
        f"{TIME} at most 0 s, and 6 s for each listed market",
    ]


def test_listed_markets_known():
    """With their number, feeds of listed markets count like others, and may turn out to be too many."""
    found = plan(config(Feed(markets=("*",), lines=2), connections_total=80), 50)
    assert (found.feeds, found.connections, found.per_market) == (50, 100, 2)
    assert (found.first_lines_s, found.coverage_s) == (150, 300)
    assert found.above_limits == ("limits.connections_total: 100 connections needed, 80 allowed",)
    assert describe(config(Feed(markets=("*",), lines=2), connections_total=80), 50)[-2:] == [
        f"{TIME} at most 5 min 0 s; every feed has a line within 2 min 30 s",
        "above a limit: limits.connections_total: 100 connections needed, 80 allowed",
    ]


def test_a_market_that_is_named_and_listed_has_both_lines():
    """Lines of ["*"] and of a named feed come together on the named market."""
    found = plan(
        config(Feed(markets=("*",), lines=2), Feed(name="a", markets=("A",), streams=("orders",), lines=1)),
        10,
    )
    assert (found.per_market, found.busiest, found.total) == (3, "A", 21)


def test_one_feed_of_one_line():
    """One is written without a plural."""
    assert describe(config(Feed(markets=("ALL",), lines=1)))[:2] == [
        "connections: 1 line of 1 feed",
        "  over market=ALL: 1 of 5",
    ]


def test_focused_feeds_are_named_where_they_share_a_market():
    """Who has to give up lines for whom can be read; a listed feed is among those of every market."""
    listed = Feed(markets=("*",), streams=("publicTrades",), lines=1)
    books = Feed(name="books", markets=("*",), streams=("publicOrderBook",), lines=2)
    fills = Feed(name="fills", markets=("A",), streams=("trades",), lines=2)
    assert describe(config(listed, books))[1] == "  one market: 3 of 5 (each listed one: * 1, books/* 2)"
    assert describe(config(listed, books, fills))[1] == "  one market: 5 of 5 (A: A 1, books/A 2, fills/A 2)"


def test_account_streams_in_a_public_feed_are_doubtful():
    """It is legal to hear of the account on the lines of a market, and seldom meant."""
    mixed = Feed(markets=("A",), streams=("publicTrades", "orders", "trades"))
    assert describe(config(Feed(markets=("B",)), mixed))[-1] == (
        "doubtful: feed[1].streams: orders, trades share their lines with public streams; "
        "expected a feed of their own"
    )
    own = Feed(name="account", markets=("A",), streams=("orders", "trades"))
    assert describe(config(Feed(markets=("A",)), own))[-1].startswith(TIME)


def test_a_uid_that_may_be_anybody_is_doubtful():
    """Whoever has no number here is 65534 to the kernel, in containers for example."""
    one = (Feed(markets=("ALL",)),)
    found = Config(exchange=EXCHANGE, feeds=one, publish=Publish(account_uids=(1001, 65534)))
    assert describe(found)[-1] == (
        "doubtful: publish.account_uids: 65534 may be anybody: "
        "the kernel calls every user so who has no number here"
    )
    found = Config(exchange=EXCHANGE, feeds=one, publish=Publish(account_uids=(1001,)))
    assert describe(found)[-1].startswith(TIME)


def test_a_consumer_that_may_fall_behind_by_too_little_is_doubtful():
    """(9) A small backlog is legal; that its three quarters are no more than a snapshot and a second is said."""
    one = Feed(markets=("ALL",), lines=1)
    for backlog_mib, share in ((16, "12"), (1, "0.75")):
        found = Config(exchange=EXCHANGE, feeds=(one,), publish=Publish(backlog_mib=backlog_mib))
        assert describe(found)[-1] == (
            f"doubtful: publish.backlog_mib: a consumer may fall {share} MiB behind, three quarters of it; "
            "expected more than 12 (bounds.snapshot_mib + publish.peak_mib_s)"
        )
    found = Config(exchange=EXCHANGE, feeds=(one,), publish=Publish(backlog_mib=17))
    assert describe(found)[-1].startswith(TIME)


def pair(standby: int, *feeds: Feed, **limits: int) -> Config:
    """Make a configuration of two daemons, of which one has so many lines of each feed."""
    return Config(exchange=EXCHANGE, feeds=feeds, limits=Limits(**limits), standby=Standby(lines=standby))


def test_a_pair_with_a_place_left():
    """Lines of both daemons count together; a standby has no more of a feed than the feed has."""
    found = pair(2, Feed(markets=("A", "B"), lines=2), Feed(name="all", markets=("ALL",), lines=1))
    assert describe_pair(found) == [
        "with a standby (run --standby): 10 lines; one market: 4 of 5; over market=ALL: 2 of 5"
    ]
    assert pair_mistakes(found) == []


def test_a_pair_that_has_every_place():
    """That is allowed, and said: nothing is left for a replacement beside its predecessor."""
    found = pair(1, Feed(markets=("A",), lines=4), connections_total=5)
    assert describe_pair(found) == [
        "with a standby (run --standby): 5 lines; one market: 5 of 5; per-market feeds together: 5 of 5",
        "  no place is left: a line ends before its replacement begins",
    ]
    assert pair_mistakes(found) == []


def test_a_pair_above_the_limits():
    """One daemon would be within them; two are refused, one line for each limit."""
    found = pair(1, Feed(markets=("A", "B"), lines=5), connections_total=11)
    mistakes = [
        (
            "standby.lines: expected fewer than 1, both daemons together are above limits.connections_per_market: "
            "6 connections needed, 5 allowed"
        ),
        (
            "standby.lines: expected fewer than 1, both daemons together are above limits.connections_total: "
            "12 connections needed, 11 allowed"
        ),
    ]
    assert pair_mistakes(found) == mistakes
    assert describe_pair(found)[1:] == [f"not with a standby: {mistake}" for mistake in mistakes]
    assert pair_mistakes(pair(0, Feed(markets=("A", "B"), lines=5), connections_total=11)) == []
