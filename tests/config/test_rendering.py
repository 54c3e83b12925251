"""The rendered configuration: complete, and the same again when it is loaded."""

import tempfile
import tomllib
from pathlib import Path

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

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
    render,
)
from feedhandler.config.checking import reader_of
from feedhandler.config.readers import NAME_CHARS, OneOf, Real, Whole
from feedhandler.config.toml import literal

ENVIRON = {"FEEDHANDLER_API_KEY": "k", "FEEDHANDLER_API_SECRET": "s"}

VISIBLE = st.characters(exclude_categories=["C", "Z"], exclude_characters="*:/")
MARKETS = st.text(VISIBLE | st.just("/"), min_size=1, max_size=NAME_CHARS).filter(lambda name: name != "ALL")
PATHS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40)
ABSOLUTE = PATHS.map(lambda text: Path("/") / text.lstrip("/"))
STREAMS = st.lists(
    st.sampled_from(["publicTrades", "publicOrderBook", "orders"]), min_size=1, unique=True
).map(tuple)
EVERY = st.sampled_from([("*",), ("ALL",)])


URLS = st.sampled_from(["https://e.example/x", "http://127.0.0.1:1/"])


@st.composite
def feeds(draw: st.DrawFn) -> tuple[Feed, ...]:
    """Draw feeds that share no market, or one feed over every market."""
    if draw(st.booleans()):
        return (Feed(markets=draw(EVERY), streams=draw(STREAMS), lines=draw(st.integers(1, 5))),)
    markets = draw(st.lists(MARKETS, min_size=1, max_size=6, unique=True))
    size = draw(st.integers(1, len(markets)))
    parts = [tuple(markets[start : start + size]) for start in range(0, len(markets), size)]
    names = st.sampled_from(["", "a", "A.b-c_9"])
    return tuple(
        Feed(
            name=name and f"{name}{index}", markets=part, streams=draw(STREAMS), lines=draw(st.integers(1, 5))
        )
        for index, (part, name) in enumerate((part, draw(names)) for part in parts)
    )


def in_range(kind: type[msgspec.Struct]) -> st.SearchStrategy[msgspec.Struct]:
    """Draw a section of which each number is within the range of its reader."""
    drawn: dict[str, st.SearchStrategy[object]] = {}
    for field in msgspec.structs.fields(kind):
        match reader_of(field):
            case Whole(low=low, high=high):
                drawn[field.name] = st.integers(low, high)
            case Real(low=low, high=high):
                drawn[field.name] = st.floats(low, high)
            case OneOf(words=words):
                drawn[field.name] = st.sampled_from(words)
    return st.builds(kind, **drawn)


def with_ordered_backoff(bounds: Bounds) -> Bounds:
    """Swap the bounds of the backoff where the first is the longer one."""
    low, high = sorted((bounds.backoff_min_s, bounds.backoff_max_s))
    return msgspec.structs.replace(bounds, backoff_min_s=low, backoff_max_s=high)


CONFIGS = st.builds(
    Config,
    exchange=st.builds(
        Exchange,
        websocket_url=st.sampled_from(["wss://e.example", "ws://[::1]:8765/x"]),
        token_url=URLS | st.just(""),
        markets_url=URLS,
    ),
    limits=st.builds(
        Limits,
        connections_per_minute=st.integers(1, 100_000),
        connections_per_market=st.integers(5, 100_000),
        connections_total=st.just(0) | st.integers(30, 100_000),
        connections_agnostic=st.integers(5, 100_000),
    ),
    feeds=feeds(),
    publish=st.builds(
        Publish,
        socket=ABSOLUTE,
        mode=st.sampled_from(["0660", "600"]),
        group=st.text(VISIBLE, max_size=20),
        drain_s=st.floats(0, 3600),
        account_uids=st.none() | st.lists(st.integers(0, 2**32 - 2), unique=True, max_size=3).map(tuple),
        backlog_mib=st.integers(1, 1024),
        peak_mib_s=st.integers(1, 65_536),
    ),
    standby=st.builds(Standby, lines=st.integers(0, 8), http=st.sampled_from(["", "[::1]:9465"])),
    observe=st.builds(Observe, http=st.sampled_from(["", "[::1]:9464"]), incidents=st.none() | ABSOLUTE),
    log=in_range(Log),
    health=in_range(Health),
    bounds=in_range(Bounds).map(with_ordered_backoff),
)


@settings(max_examples=60)
@given(CONFIGS)
def test_what_is_rendered_loads_as_the_same(config):
    """Any valid configuration, rendered and loaded, is equal to itself."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rendered.toml"
        file.write_text(render(config))
        assert load(file, environ=ENVIRON) == config


@settings(max_examples=200)
@given(
    st.recursive(
        st.text() | st.booleans() | st.integers() | st.floats(allow_nan=False), st.lists, max_leaves=8
    )
)
def test_a_literal_reads_back(value):
    """Every string, number and list is written so that TOML reads the same."""
    if not _has_surrogates(value):
        assert tomllib.loads(f"value = {literal(value)}") == {"value": value}


def _has_surrogates(value: object) -> bool:
    if isinstance(value, list):
        return any(map(_has_surrogates, value))
    return isinstance(value, str) and any("\ud800" <= char <= "\udfff" for char in value)


def test_every_key_is_present():
    """Each field of each section stands in the text, those without a value as well."""
    config = Config(exchange=Exchange(websocket_url="wss://e"), feeds=(Feed(), Feed(name="b")))
    text = render(config)
    assert text.count("[[feed]]") == 2
    for section in msgspec.structs.fields(Config):
        value = getattr(config, section.name)
        for field in msgspec.structs.fields(value[0] if isinstance(value, tuple) else value):
            assert f"\n{field.encode_name} = " in text or f"\n# {field.encode_name}: " in text


def test_rendered_text():
    """A section as an operator reads it."""
    config = Config(exchange=Exchange(websocket_url="wss://e", api_key_file=Path("/k")), feeds=(Feed(),))
    assert render(config).startswith(
        """\
[exchange]
websocket_url = "wss://e"
token_url = ""
markets_url = ""
markets_refresh_s = 600.0
api_key_file = "/k"
api_secret_file = ""
ca_file = ""

[limits]
connections_per_minute = 20
connections_per_market = 5
connections_total = 0
connections_agnostic = 5

[[feed]]
name = ""
markets = ["*"]
streams = ["publicTrades", "publicOrderBook"]
lines = 2

[publish]
socket = "/run/feedhandler/feed.sock"
mode = "0660"
group = ""
drain_s = 5.0
# account_uids: the daemon's own uid and root
backlog_mib = 64
consumer_mib = 0
peak_mib_s = 4
"""
    )
