"""The list of markets, in whatever shape it comes."""

import ssl

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from feedhandler.errors import OperationalError
from feedhandler.exchange.markets import (
    MARKETS_MAX,
    MISSING_ANSWERS,
    Change,
    Listing,
    fetch_markets,
    parse_markets,
)


@pytest.mark.parametrize(
    "body",
    [
        b'["BTC-USD","ETH-USD"]',
        b'["BTC-USD","BTC-USD","ETH-USD"]',
        b'[{"market":"BTC-USD"},{"market":"ETH-USD"}]',
        b'[{"id":7,"name":"BTC-USD"},{"id":8,"name":"ETH-USD"}]',
        b'[{"id":"1","symbol":"BTC-USD"},{"id":"2","symbol":"ETH-USD"}]',
        b'{"markets":["BTC-USD","ETH-USD"]}',
        b'{"statusCode":200,"data":{"markets":[{"name":"BTC-USD"},{"name":"ETH-USD"}]}}',
        b'{"statusCode":200,"listing":[{"ticker":"BTC-USD"},{"ticker":"ETH-USD"}]}',
        b'["BTC-USD",null,7,"","ALL","*","a\\nb"," x",["y"],{"z":1},"ETH-USD"]',
    ],
)
def test_shapes(body: bytes) -> None:
    """Names come out once and in order; what is no usable name is left out."""
    assert parse_markets(body) == ("BTC-USD", "ETH-USD")


@pytest.mark.parametrize(
    "body",
    [b"", b"nonsense", b"\xff", b"null", b"7", b"{}", b"[" * 99_999, b'{"a":{"b":{"c":{"d":{"e":["X"]}}}}}'],
)
def test_nothing_to_be_found(body: bytes) -> None:
    """An answer without markets gives none."""
    assert parse_markets(body) == ()


def test_the_number_is_bounded() -> None:
    """More markets than the bound are left out."""
    body = b"[" + b",".join(b'"M%d"' % i for i in range(MARKETS_MAX + 5)) + b"]"
    assert len(parse_markets(body)) == MARKETS_MAX + 5
    listing = Listing()
    listing.take(parse_markets(body))
    assert listing.markets == tuple(f"M{i}" for i in range(MARKETS_MAX))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=7), inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_any_json_is_read(value: object) -> None:
    """No answer raises, and whatever comes out could be a channel's market."""
    import msgspec  # noqa: PLC0415

    for name in parse_markets(msgspec.json.encode(value)):
        assert name
        assert name.isprintable()


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (200, b'["BTC-USD"]', ("BTC-USD",)),
        (200, b"[]", "names no market"),
        (503, b'["BTC-USD"]', "HTTP status 503"),
    ],
)
async def test_fetch(nursery: trio.Nursery, status: int, body: bytes, outcome: tuple[str, ...] | str) -> None:
    """The endpoint's answer is the list, or the reason why there is none."""

    async def play(stream: trio.SocketStream) -> None:
        async with stream:
            assert (await stream.receive_some()).startswith(b"GET /api/v1/markets HTTP/1.1\r\n")
            await stream.send_all(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body)

    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    nursery.start_soon(trio.serve_listeners, play, [listener])
    url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/api/v1/markets"
    if isinstance(outcome, tuple):
        assert await fetch_markets(url, ssl.create_default_context()) == outcome
        return
    with pytest.raises(OperationalError, match=outcome):
        await fetch_markets(url, ssl.create_default_context())


# The list, again and again

ABC = ("A", "B", "C", "D")


def listing(*answers: tuple[str, ...]) -> Listing:
    """Return a listing that has heard some answers."""
    result = Listing()
    for answer in answers:
        result.take(answer)
    return result


def test_a_new_market_counts_at_once() -> None:
    """What appears comes behind what there is, in its order."""
    one = listing(("B", "A"))
    assert one.take(("C", "A", "B")) == Change(appeared=("C",))
    assert one.markets == ("B", "A", "C")


def test_a_missing_market_vanishes_after_several_good_answers() -> None:
    """One that is back before that was never gone; answers that are no good do not count."""
    one = listing(ABC)
    for _ in range(MISSING_ANSWERS - 1):
        assert one.take(ABC[1:]) == Change()
    assert one.take(ABC) == Change()
    for _ in range(MISSING_ANSWERS - 1):
        assert one.take(ABC[1:]) == Change()
        assert one.take(()) == Change(doubtful=True)
        assert one.take(("D",)) == Change(doubtful=True)
    assert one.markets == ABC
    assert one.take(ABC[1:]) == Change(vanished=("A",))
    assert one.markets == ABC[1:]


@pytest.mark.parametrize("answer", [(), ("A",), ("X", "Y", "Z")])
def test_an_answer_that_lacks_most_is_never_believed(answer: tuple[str, ...]) -> None:
    """However often it comes, nothing vanishes, and nothing that it names in passing appears."""
    one = listing(ABC)
    for _ in range(10 * MISSING_ANSWERS):
        assert one.take(answer) == Change(doubtful=True)
    assert one.markets == ABC


def test_one_of_two_may_vanish() -> None:
    """A single market less is never suspicious, as long as any is named."""
    one = listing(("A", "B"))
    for _ in range(MISSING_ANSWERS):
        change = one.take(("B",))
    assert change == Change(vanished=("A",))


@given(st.lists(st.lists(st.sampled_from("ABCDEF"), unique=True).map(tuple), max_size=30))
def test_nothing_vanishes_that_was_not_missing_in_a_row(answers: list[tuple[str, ...]]) -> None:
    """Against the definition: the last good answers all lack what vanishes, and one of them names what counts."""
    one = Listing()
    good: list[tuple[str, ...]] = []
    for answer in answers:
        before = one.markets
        change = one.take(answer)
        if change.doubtful:
            assert one.markets == before
            continue
        good.append(answer)
        for market in change.vanished:
            assert all(market not in some for some in good[-MISSING_ANSWERS:])
            assert market not in one.markets
        for market in one.markets:
            assert any(market in some for some in good[-MISSING_ANSWERS:])
