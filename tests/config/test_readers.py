"""Each kind of value: what it takes, and that nothing else gets through."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedhandler.config import Config, Publish
from feedhandler.config.checking import build, reader_of
from feedhandler.config.model import Feed
from feedhandler.config.readers import Real, Whole, is_loopback, split_address

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
SECTIONS = [field.type for field in msgspec.structs.fields(Config) if isinstance(field.type, type)] + [Feed]
FIELDS = [field for section in SECTIONS for field in msgspec.structs.fields(section)]
KEYS = [field.encode_name for field in (*msgspec.structs.fields(Config), *FIELDS)]


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.encode_name)
def test_every_field_takes_its_default(field):
    """No default of the model is outside its own range."""
    if field.required or field.default is None:
        return
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    mistakes: list[str] = []
    taken = reader_of(field)(
        value if isinstance(value, str | int | float | list) else str(value), "p", mistakes
    )
    assert (taken, mistakes) == (field.default, [])


@pytest.mark.parametrize(
    "reader", [reader_of(field) for field in FIELDS], ids=KEYS[len(Config.__struct_fields__) :]
)
@settings(max_examples=60)
@given(value=ANYTHING)
def test_a_value_is_taken_or_named_and_never_raises(reader, value):
    """Whatever TOML may hold either fits without a mistake or is refused on one printable line."""
    mistakes: list[str] = []
    reader(value, "section.key", mistakes)
    assert all(mistake.startswith("section.key") for mistake in mistakes)
    assert all("\n" not in mistake and "\0" not in mistake for mistake in mistakes)


@settings(max_examples=80)
@given(
    tree=st.dictionaries(
        st.sampled_from(KEYS) | st.text(),
        ANYTHING
        | st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=4)
        | st.lists(st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=4), max_size=3),
        max_size=6,
    )
)
def test_any_tree_is_a_list_of_mistakes_or_a_configuration(tree):
    """The walk never raises; without a mistake, the feeds are there and the URL is set."""
    mistakes: list[str] = []
    config = build(tree, mistakes)
    assert mistakes or (config.feeds and config.exchange.websocket_url)


@given(low=st.integers(-100, 100), size=st.integers(0, 100), value=st.integers(-300, 300))
def test_a_range_includes_both_ends(low, size, value):
    """A number is taken exactly when it is within both bounds, as a float where the field is one."""
    for reader in (Whole(low, low + size), Real(low, low + size)):
        mistakes: list[str] = []
        taken = reader(value, "p", mistakes)
        if low <= value <= low + size:
            assert (taken, mistakes) == (value, [])
        else:
            assert mistakes == [f"p: expected {low}..{low + size}, got {value}"]


@pytest.mark.parametrize("value", ["true", "1.0", "inf", '"1"'])
def test_a_whole_number_is_nothing_else(finds, value):
    """Booleans, floats and text are no whole numbers."""
    assert finds(f"[[feed]]\nlines = {value}") == [f"feed[0].lines: expected 1..8, got {value}"]


@pytest.mark.parametrize("value", ["true", "-inf", "nan", '"1"', "-0.001", "3600.5"])
def test_a_number_is_finite_and_in_range(finds, value):
    """Booleans, text, infinities and NaN are no seconds."""
    assert finds(f"[[feed]]\n[publish]\ndrain_s = {value}") == [
        f"publish.drain_s: expected 0..3600, got {value}"
    ]


@pytest.mark.parametrize(
    "url",
    ["wss://e", "ws://127.0.0.1:8765", "ws://localhost", "wss://[::1]:1/path", "wss://e:65535/"],
)
def test_a_websocket_url_may_be(loads, url):
    """Hosts, ports, paths and IPv6 addresses are fine."""
    assert loads(f'[exchange]\nwebsocket_url = "{url}"\n[[feed]]\nmarkets = ["A"]', head="")


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("", 'expected a URL wss:// or ws:// with a host, got ""'),
        ("https://e", "expected a URL wss:// or ws:// with a host"),
        ("e.example", "expected a URL wss:// or ws:// with a host"),
        ("wss:///x", "expected a URL wss:// or ws:// with a host"),
        ("wss://e:0", "expected a URL wss:// or ws:// with a host"),
        ("wss://e:65536", "expected a URL wss:// or ws:// with a host"),
        ("wss://e:x", "expected a URL wss:// or ws:// with a host"),
        ("wss://[::1", "expected a URL wss:// or ws:// with a host"),
        ("wss://e e", "expected a URL wss:// or ws:// with a host"),
        ("wss://e/\\n", "expected a URL wss:// or ws:// with a host"),
        ("wss://e/" + "x" * 3000, "expected a URL wss:// or ws:// with a host"),
        ("wss://user:hunter2@e", "expected a URL without user and password"),
        ("wss://e/#x", "expected a URL without a fragment (#...)"),
        (
            "wss://e/?market=A",
            "expected a URL without a query (?...): market and subscriptions are added by the program",
        ),
    ],
)
def test_a_websocket_url_may_not_be(finds, url, fault):
    """What cannot be connected to, or would show a password, is refused without being quoted."""
    found = finds(f'[exchange]\nwebsocket_url = "{url}"\n[[feed]]\nmarkets = ["A"]', head="")
    assert found == [f"exchange.websocket_url: {fault}"]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("localhost:0", ("localhost", 0)),
        ("[::]:65535", ("::", 65535)),
        ("", None),
        (":9464", None),
        ("::1:9464", None),
        ("[x]:1", None),
        ("[]:1", None),
        ("host", None),
        ("host:", None),
        ("host:65536", None),
        ("host:-1", None),
        ("host:99999999999", None),
        ("host:²", None),
        ("a b:1", None),
        ("http://a:1", None),
    ],
)
def test_an_address_is_host_and_port(finds, text, address):
    """Host and port are both needed, an IPv6 host stands in brackets; the empty text switches it off."""
    assert split_address(text) == address
    found = finds(f'[[feed]]\n[observe]\nhttp = "{text}"')
    assert bool(found) == (address is None and text != "")


@pytest.mark.parametrize("market", ["BTC-USD", "a/b", "Ü", "BTC USD", "x" * 64])
def test_market_names_are_opaque(loads, market):
    """Whatever the exchange may call a market is taken as it is."""
    assert loads(f'[[feed]]\nmarkets = ["{market}"]').feeds[0].markets == (market,)


@pytest.mark.parametrize("market", ["", " ", " A", "A ", "a\\tb", "a\\u0000", "a\\u2028b", "BTC-*", "x" * 65])
def test_market_names_are_visible_and_no_patterns(finds, market):
    """Empty names, control characters, white space around them and patterns are refused."""
    (found,) = finds(f'[[feed]]\nmarkets = ["{market}"]')
    assert found.startswith('feed[0].markets[0]: expected a market name such as "BTC-USD", got ')


@pytest.mark.parametrize("key", ["markets", "streams"])
def test_a_list_of_a_feed_is_neither_empty_nor_doubled(finds, key):
    """An empty list, a bare word and an item that stands twice are mistakes."""
    word = {"markets": "A", "streams": "orders"}[key]
    assert finds(f'[[feed]]\n{key} = ["{word}", "{word}"]') == [
        f'feed[0].{key}[1]: "{word}" stands in the list twice'
    ]
    assert finds(f"[[feed]]\n{key} = []")[0].startswith(f"feed[0].{key}: expected a list of ")
    assert finds(f'[[feed]]\n{key} = "{word}"')[0].startswith(f"feed[0].{key}: expected a list of ")


@pytest.mark.parametrize("name", ["a b", "a/b", "-a", "é", "x" * 65, "a\\n"])
def test_a_feed_name_can_stand_in_labels_and_files(finds, name):
    """Names that a file, a label or a URL would have to escape are refused."""
    (found,) = finds(f'[[feed]]\nname = "{name}"')
    assert found.startswith("feed[0].name: expected letters, digits, ")


@pytest.mark.parametrize(("mode", "bits"), [("0660", 0o660), ("600", 0o600), ("0777", 0o777), ("000", 0)])
def test_a_mode_is_octal(loads, mode, bits):
    """Three octal digits, with or without a zero before them."""
    assert loads(f'[[feed]]\n[publish]\nmode = "{mode}"').publish.mode_bits == bits


@pytest.mark.parametrize("mode", ["", "0o660", "0680", "66", "1660", "rw", "٦٦٠"])
def test_a_mode_is_nothing_else(finds, mode):
    """Other bits, other bases and other digits are refused."""
    assert len(finds(f'[[feed]]\n[publish]\nmode = "{mode}"')) == 1


def test_account_uids_are_numbers(loads, finds):
    """Numeric uids only, possibly none; left out means the daemon's own and root."""
    assert loads("[[feed]]\n[publish]\naccount_uids = [0, 1001]").publish.account_uids == (0, 1001)
    assert loads("[[feed]]\n[publish]\naccount_uids = []").publish.account_uids == ()
    assert finds('[[feed]]\n[publish]\naccount_uids = [-1, "root", 5, 5]') == [
        "publish.account_uids[0]: expected 0..4294967294, got -1",
        'publish.account_uids[1]: expected 0..4294967294, got "root"',
        "publish.account_uids[3]: 5 stands in the list twice",
    ]


@pytest.mark.parametrize("path", ["", "a\\u0000b", "x" * 4096])
def test_the_socket_has_a_path(finds, path):
    """The socket's path is no option, and is a path."""
    (found,) = finds(f'[[feed]]\n[publish]\nsocket = "{path}"')
    assert found.startswith("publish.socket: expected a path, got ")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("LOCALHOST.", True),
        ("localhost.example", False),
        ("128.0.0.1", False),
        ("0.0.0.0", False),
        ("::", False),
        (None, False),
    ],
)
def test_loopback_is_this_machine_only(host, loopback):
    """Only addresses that can't leave the machine count as loopback."""
    assert is_loopback(host) is loopback


def test_byte_bounds_follow_their_units(loads):
    """The helpers in bytes are the keys times their unit."""
    config = loads("[[feed]]\n[bounds]\nwindow_mib = 2\nread_kib = 8\n[publish]\nbacklog_mib = 3")
    bounds = config.bounds
    assert (bounds.window_bytes, bounds.read_bytes, config.publish.backlog_bytes) == (
        2 << 20,
        8 << 10,
        3 << 20,
    )
    assert (bounds.hold_bytes, bounds.message_bytes) == (32 << 20, 16 << 20)
    assert (bounds.request_bytes, bounds.send_bytes, bounds.snapshot_bytes) == (1 << 20, 256 << 10, 8 << 20)
    assert (config.publish.consumer_bytes, config.publish.peak_bytes) == (9 << 18, 4 << 20)
    assert Publish(consumer_mib=13).consumer_bytes == 13 << 20
