"""The files in `config/`: they load, are complete, and say what is true."""

import re
from pathlib import Path

import msgspec
import pytest

from feedhandler.config import Config, Exchange, Feed, Log, Publish, load

FOLDER = Path(__file__).parents[2] / "config"

CONTRACT = """
[exchange]
websocket_url = "wss://ws.trade.rails.xyz"
token_url = "https://api-auth.trade.rails.xyz/api/v1/token"  # left out: no token is sent
markets_url = "https://market-data.trade.rails.xyz/api/v1/markets"
api_key_file = "api-key"
api_secret_file = "./api-secret"
ca_file = "ca.pem"

[limits]
connections_per_minute = 20
connections_per_market = 5
connections_total = 0
connections_agnostic = 5

[[feed]]
markets = ["BTC-USD", "ETH-USD"]
streams = ["publicTrades", "publicOrderBook"]
lines = 2

[[feed]]
name = "account"
markets = ["ALL"]
streams = ["orders", "trades"]
lines = 2

[publish]
socket = "/run/feedhandler/feed.sock"
mode = "0660"
group = ""
drain_s = 5
account_uids = [1001]
backlog_mib = 64

[observe]
http = "127.0.0.1:9464"

[log]
format = "json"
level = "info"
"""


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.toml")), ids=lambda file: file.name)
def test_every_file_loads(file):
    """No example has a mistake, or needs a secret."""
    assert load(file, environ={})


def test_the_example_shows_the_defaults():
    """Every key of the example that is not marked as an example has its default."""
    config = load(FOLDER / "feedhandler.toml", environ={})
    assert config == Config(
        exchange=Exchange(websocket_url="wss://ws.trade.rails.xyz"),
        feeds=(Feed(markets=("BTC-USD", "ETH-USD")),),
    )


def test_the_example_has_every_key():
    """Each key of the model stands in the example, in its own section, as a key or as a comment."""
    text = (FOLDER / "feedhandler.toml").read_text()
    shown = dict(re.findall(r"^\[+(\w+)\]+(.*?)(?=^\[|\Z)", text, re.DOTALL | re.MULTILINE))
    for section in msgspec.structs.fields(Config):
        kind = section.type if isinstance(section.type, type) else Feed
        keys = {field.encode_name for field in msgspec.structs.fields(kind)}
        assert keys <= set(re.findall(r"^(?:# )?(\w+) = ", shown[section.encode_name], re.MULTILINE))


def test_the_simulator_is_reached_on_this_machine():
    """The simulator's file takes all markets of port 8765 and puts the socket above its own folder."""
    config = load(FOLDER / "simulator.toml", environ={})
    assert config.exchange.websocket_url == "ws://127.0.0.1:8765"
    assert config.feeds == (Feed(markets=("*",), lines=3),)
    assert config.publish.socket.resolve() == FOLDER.parent / "feed.sock"


def test_the_contract_of_the_configuration_loads(tmp_path):
    """A file with every key of the documentation, comments included, is read as it says."""
    for name in ("api-key", "api-secret", "ca.pem"):
        (tmp_path / name).write_text(name)
    file = tmp_path / "feedhandler.toml"
    file.write_text(CONTRACT)
    config = load(file, environ={})
    assert config == Config(
        exchange=Exchange(
            websocket_url="wss://ws.trade.rails.xyz",
            token_url="https://api-auth.trade.rails.xyz/api/v1/token",
            markets_url="https://market-data.trade.rails.xyz/api/v1/markets",
            api_key_file=tmp_path / "api-key",
            api_secret_file=tmp_path / "api-secret",
            ca_file=tmp_path / "ca.pem",
        ),
        feeds=(
            Feed(markets=("BTC-USD", "ETH-USD")),
            Feed(name="account", markets=("ALL",), streams=("orders", "trades")),
        ),
        publish=Publish(account_uids=(1001,)),
        log=Log(format="json"),
    )
    assert [feed.label(market) for feed in config.feeds for market in feed.markets] == [
        "BTC-USD",
        "ETH-USD",
        "account/ALL",
    ]
    assert config.observe.http_address == ("127.0.0.1", 9464)
