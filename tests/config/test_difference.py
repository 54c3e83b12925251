"""What a changed configuration means for a daemon that runs."""

from pathlib import Path

import msgspec
import pytest

from feedhandler.config import (
    Config,
    Exchange,
    Feed,
    Health,
    Limits,
    Log,
    Publish,
    Wanted,
    adopt,
    changes,
    clashes,
    wanted,
)

CONFIG = Config(exchange=Exchange(websocket_url="wss://e"), feeds=(Feed(markets=("A", "B")),))
STREAMS = ("publicTrades", "publicOrderBook")


def test_what_can_change_changes_and_the_rest_is_named():
    """Key by key: a section may take effect in part, and what is in force is old where it has to be."""
    new = msgspec.structs.replace(
        CONFIG,
        exchange=Exchange(websocket_url="wss://other", markets_url="https://m", api_key_file=Path("/k")),
        limits=Limits(connections_per_minute=7),
        publish=Publish(socket=Path("/s"), backlog_mib=1),
        log=Log(level="debug", format="console"),
        health=Health(quiet_s=1.0),
    )
    config, fixed = adopt(CONFIG, new)
    assert fixed == ("exchange.websocket_url", "publish.socket", "publish.backlog_mib", "log.format")
    assert config.exchange == Exchange(
        websocket_url="wss://e", markets_url="https://m", api_key_file=Path("/k")
    )
    assert (config.limits, config.health) == (new.limits, new.health)
    assert (config.publish, config.log) == (CONFIG.publish, Log(level="debug"))


def test_nothing_changed_is_nothing_fixed():
    """The same configuration is in force as it is."""
    assert adopt(CONFIG, CONFIG) == (CONFIG, ())


def test_every_live_key_exists():
    """No key is promised to take effect that is not there."""
    from feedhandler.config.difference import LIVE_KEYS, LIVE_SECTIONS  # noqa: PLC0415

    fields = {field.name: field for field in msgspec.structs.fields(Config)}
    assert fields.keys() >= LIVE_SECTIONS
    for key in LIVE_KEYS:
        section, name = key.split(".")
        assert name in fields[section].type.__struct_fields__, key


def test_feeds_that_are_wanted():
    """One for each market; a listed market never takes the label of a feed that is named."""
    feeds = (
        Feed(markets=("*",), lines=3),
        Feed(name="x", markets=("A",)),
        Feed(markets=("ALL",), streams=("orders",)),
    )
    assert wanted(feeds, ("x/A", "B")) == {
        "x/A": Wanted("A", STREAMS, 2),
        "ALL": Wanted("ALL", ("orders",), 2),
        "B": Wanted("B", STREAMS, 3),
    }


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (Wanted("A", STREAMS, 2), ((), (), ())),
        (Wanted("A", STREAMS[::-1], 2), ((), (), ())),
        (Wanted("A", STREAMS, 3), ((), (), ("a",))),
        (Wanted("A", STREAMS[:1], 2), ((), (), ("a",))),
        (Wanted("B", STREAMS, 2), (("a",), ("a",), ())),
        (None, (("a",), (), ())),
    ],
)
def test_what_is_to_be_done(now, expected):
    """A feed is kept, changed, given up, or is another one under the same label."""
    running = {"a": Wanted("A", STREAMS, 2), "other": Wanted("O", STREAMS, 1)}
    target = {"other": Wanted("O", STREAMS, 1)} | ({} if now is None else {"a": now})
    assert changes(running, target) == expected


def test_what_speaks_against_feeds():
    """A channel in two feeds, and lines above each limit; account trades are one channel whatever the market."""
    limits = Limits(connections_per_market=3, connections_total=5, connections_agnostic=1)
    both = {"A": Wanted("A", STREAMS, 2), "x/A": Wanted("A", STREAMS[:1], 2)}
    assert list(clashes(both, limits)) == [
        "channel A/publicTrades is in feed A already",
        "4 lines of market A together, limits.connections_per_market is 3",
    ]
    many = {name: Wanted(name, STREAMS, 2) for name in "ABC"} | {"ALL": Wanted("ALL", ("orders",), 2)}
    assert list(clashes(many, limits)) == [
        "6 lines of all markets together, limits.connections_total is 5",
        "2 lines over market=ALL together, limits.connections_agnostic is 1",
    ]
    trades = {"A": Wanted("A", ("trades",), 1), "B": Wanted("B", ("trades",), 1)}
    assert list(clashes(trades, Limits())) == ["channel ALL/trades is in feed A already"]
    assert list(clashes({}, limits)) == []
