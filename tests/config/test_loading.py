"""One file: defaults, and all mistakes at once, each on its line."""

from pathlib import Path

import pytest

from feedhandler.config import (
    Bounds,
    Config,
    Exchange,
    Feed,
    Health,
    Limits,
    Log,
    Observe,
    Publish,
    Standby,
    load,
)
from feedhandler.errors import ConfigError


def test_every_key_but_the_url_and_one_feed_has_a_default(loads):
    """The shortest configuration is a URL and one feed, and has the defaults of the contract."""
    config = loads('[exchange]\nwebsocket_url = "wss://e"\n[[feed]]\nmarkets = ["BTC-USD"]\n', head="")
    assert config == Config(
        exchange=Exchange(
            websocket_url="wss://e",
            token_url="",
            markets_url="",
            api_key_file=None,
            api_secret_file=None,
            ca_file=None,
        ),
        limits=Limits(
            connections_per_minute=20,
            connections_per_market=5,
            connections_total=0,
            connections_agnostic=5,
        ),
        feeds=(Feed(name="", markets=("BTC-USD",), streams=("publicTrades", "publicOrderBook"), lines=2),),
        publish=Publish(
            socket=Path("/run/feedhandler/feed.sock"),
            mode="0660",
            group="",
            drain_s=5,
            account_uids=None,
            backlog_mib=64,
            consumer_mib=0,
            peak_mib_s=4,
        ),
        observe=Observe(http="127.0.0.1:9464", incidents=None),
        standby=Standby(lines=1, http=""),
        log=Log(format="", level="info"),
        health=Health(),
        bounds=Bounds(),
    )


def test_all_mistakes_are_reported_at_once(finds):
    """Faulty values, unknown keys and broken rules of one file come together, each with its path."""
    text = """
        [limits]
        connections_per_minute = "many"
        [[feed]]
        markets = ["BTC-USD", ""]
        lines = 0
        [[feed]]
        markets = ["BTC-USD"]
        streams = ["publicTrades", "books"]
        name = "second"
        line = 3
        [publish]
        mode = 660
        drain_s = nan
        [obsrve]
        http = ""
    """
    words = '"publicTrades", "publicOrderBook", "orders", "trades"'
    assert finds(text) == [
        "obsrve: unknown key, did you mean observe?",
        'feed[0].markets[1]: expected a market name such as "BTC-USD", got ""',
        "feed[0].lines: expected 1..8, got 0",
        "feed[1].line: unknown key, did you mean lines?",
        f'feed[1].streams[1]: expected one of {words}, got "books"',
        'limits.connections_per_minute: expected 1..100000, got "many"',
        'publish.mode: expected an octal mode such as "0660", got 660',
        "publish.drain_s: expected 0..3600, got nan",
        "feed[1].streams: channel BTC-USD/publicTrades is in feed[0] already",
    ]


def test_an_empty_file_says_what_is_needed(finds):
    """Without any key the two that have no default are named."""
    assert finds("", head="") == [
        "feed: expected at least one [[feed]], got none",
        "exchange.websocket_url: missing; it has no default",
    ]


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("feed = []", "feed: expected at least one [[feed]], got none"),
        ("feed = 3", "feed: expected [[feed]], a list of tables, got 3"),
        ("[feed]\nlines = 2", "feed: expected [[feed]], a list of tables, got a table"),
        ("feed = [1]", "feed[0]: expected a table, got 1"),
        ("[[feed]]\n[[log]]", "log: expected a table, got a list of tables"),
        ("[[feed]]\n[log]\nlevel = 1979-05-27", "log.level: expected one of "),
    ],
)
def test_the_wrong_shape_is_a_mistake(finds, text, mistake):
    """Tables, lists and dates where something else belongs are named for what they are."""
    found = finds(text, head='exchange = {websocket_url = "wss://e", markets_url = "https://e"}\n')
    assert len(found) == 1
    assert found[0].startswith(mistake)


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ('websocket_url = "wss://e"', "websocket_url: unknown key, did you mean exchange.websocket_url?"),
        ("[publish]\nlines = 2", "publish.lines: unknown key, did you mean feed[0].lines?"),
        ('[publish]\nsockett = "x"', "publish.sockett: unknown key, did you mean socket?"),
        ("[publish]\nzzz = 1", "publish.zzz: unknown key"),
        ('[publish]\n"a\\nb" = 1', 'publish."a\\u000ab": unknown key'),
    ],
)
def test_an_unknown_key_comes_with_the_one_that_was_meant(finds, text, mistake):
    """A misspelt key and one in the wrong place are told where they belong; nothing is guessed for others."""
    assert mistake in finds(text + '\n[[feed]]\nmarkets = ["A"]', head="")


def test_a_mistake_stays_on_one_short_line(finds):
    """Long and many-line values are quoted escaped and cut."""
    found = finds(f'[[feed]]\n[log]\nlevel = """a\nb{"x" * 5000}"""')
    assert len(found) == 1
    assert found[0].isprintable()
    assert len(found[0]) < 200


def test_a_certificate_file_must_be_there(finds, tmp_path):
    """A CA file that cannot be read is a mistake now and not at the first connection."""
    found = finds(f'ca_file = "{tmp_path}/ca.pem"\n[[feed]]')
    assert found == [f"exchange.ca_file: {tmp_path}/ca.pem cannot be read: No such file or directory"]


def test_a_faulty_file_is_all_that_is_reported(tmp_path):
    """Where the text is no TOML, nothing is said about keys that may be in it."""
    file = tmp_path / "f.toml"
    file.write_text("[exchange]\nwebsocket_url = \n")
    with pytest.raises(ConfigError) as caught:
        load(file, ["publish.nothing=1"], environ={})
    assert caught.value.mistakes == (f"{file}: Invalid value (at line 2, column 17)",)
