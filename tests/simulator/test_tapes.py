"""Recorded traffic: synthetic tapes for the rules, the real ones beside the checkout where they are there."""

import gzip
import json
import os
from collections import defaultdict
from pathlib import Path

import pytest
import trio

from feedhandler.errors import ConfigError
from feedhandler.simulator import tapes
from feedhandler.simulator.messages import Wording
from feedhandler.simulator.settings import Behaviour

WORDING = Wording(Behaviour())
FOLDER = Path(os.environ.get("FEEDHANDLER_TAPES", Path(__file__).parents[3] / "shared" / "tapes"))
LINES_TAPES = ["lines-hitbtc-2021-07-15.jsonl.gz", "lines-bequant-2021-07-03.jsonl.gz"]


def book(t, first, last, *levels, **more):
    """Return a book line of a tape."""
    return {
        "t": t,
        "market": "X",
        "kind": "book",
        "ts": first,
        "seq": [first, last],
        "levels": levels,
        **more,
    }


def trade(t, number, **more):
    """Return a trade line of a tape."""
    fixed = {"market": "X", "kind": "trade", "side": "buy", "price": "2.50", "qty": "1"}
    return {"t": t, "ts": t, "id": str(number), **fixed, **more}


@pytest.fixture
def tape(tmp_path):
    """Return how to write a tape."""

    def tape(*lines):
        path = tmp_path / "tape.jsonl.gz"
        compact = (json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
        path.write_bytes(gzip.compress("".join(compact).encode()))
        return path

    return tape


OPENING = book(0, 0, 5, ["bid", "1.0", "3"], ["ask", "2.0", "4"], snapshot=True)


def test_a_tape_becomes_the_exchanges_messages(tape):
    """A delta and a trade come out in the exchange's words, at their times, strings untouched."""
    path = tape(OPENING, book(2_000_000, 6, 7, ["bid", "1.0", "0.000"]), trade(3_000_000, 42))
    names, books = tapes.survey(path)
    opening, delta, match = tapes.steps(path, WORDING)
    assert names == ["X"]
    assert books == {"X": [("buy", "1.0", "3"), ("sell", "2.0", "4")]}
    assert opening.snapshot == tuple(books["X"])
    assert delta.due_s == 0.002
    assert json.loads(delta.payload) == {
        "resultType": "publicOrderBookDelta",
        "market": "X",
        "data": {
            "orders": [{"orderType": "buy", "price": "1.0", "quantity": "0.000"}],
            "statusCode": 200,
            "ts": 6,
        },
    }
    row = json.loads(match.payload)["data"]["orders"][0]
    assert (row["executionType"], row["orderType"], row["price"]) == ("taker", "buy", "2.50")
    assert [step.payload for step in tapes.steps(path, WORDING)][2] == match.payload


def test_copies_on_several_lines_are_one_event_with_lags(tape):
    """Each event is broadcast once, when its first copy came; the lines' lags are kept."""
    path = tape(
        {**OPENING, "line": 1},
        book(10, 6, 6, ["bid", "1", "1"], line=1),
        {**OPENING, "t": 20, "line": 2},
        book(30, 6, 6, ["bid", "1", "1"], line=2),
        book(40, 7, 7, ["bid", "1", "1"], line=2),
        trade(50, 1, line=1),
    )
    steps = list(tapes.steps(path, WORDING))
    assert [(step.due_s * 1e9, tuple(lag * 1e9 for lag in step.lags)) for step in steps] == [
        (0, (0, 0)),
        (10, (0, 20)),
        (40, (0, 0)),
        (50, (0, 0)),
    ]


def test_real_repeats_on_a_line_stay_repeats(tape):
    """The same content twice on each line is two events."""
    same = {"ts": 1, "seq": None}
    path = tape(
        *(
            {**book(t, 0, 0, ["bid", "1", "1"], line=line), **same}
            for t, line in ((0, 1), (1, 1), (2, 2), (3, 2))
        )
    )
    assert [step.lags[1] for step in tapes.steps(path, WORDING)] == [2e-9, 2e-9]


def test_one_order_where_the_first_copies_mislead(tape):
    """An event that only one line got stands where that line has it, whoever was faster with the next."""
    path = tape(
        book(0, 2, 2, ["bid", "2", "2"], line=1),
        book(5, 1, 1, ["bid", "1", "1"], line=2),
        book(6, 2, 2, ["bid", "2", "2"], line=2),
    )
    prices = [json.loads(step.payload)["data"]["orders"][0]["price"] for step in tapes.steps(path, WORDING)]
    assert prices == ["1", "2"]


@pytest.mark.parametrize(
    "content", [b"no gzip", gzip.compress(b"no JSON\n", mtime=0), gzip.compress(b'{"t":1}\n', mtime=0)[:-4]]
)
def test_what_is_no_tape_is_named(tmp_path, content):
    """A file that is no tape is a mistake of who named it."""
    path = tmp_path / "tape.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="tape"):
        tapes.survey(path)


async def test_a_tape_plays_at_its_speed(start, join, autojump_clock, tape):  # noqa: ARG001 - the clock's
    """At double speed a tape takes half its time; then the exchange says that it is finished and stays."""
    path = tape(OPENING, *(trade(number * 1_000_000_000, number) for number in range(1, 11)))
    exchange = await start(tapes=(path,), markets=None, speed=2.0, wait=1)
    async with join(exchange, "X") as line:
        await exchange.started_playing.wait()
        began = trio.current_time()
        for _ in range(10):
            await line.get_message()
        assert trio.current_time() - began == pytest.approx(5, abs=0.01)
        await exchange.finished.wait()
        assert len(exchange.connections("X")) == 1
    assert exchange.broadcasts == 10


async def test_a_snapshot_in_mid_tape_is_broadcast_as_the_difference(start, join, autojump_clock, tape):  # noqa: ARG001
    """What the later snapshot changes comes as one delta, the opening not at all."""
    later = book(2_000_000_000, 9, 9, ["bid", "1.0", "3"], ["ask", "2.5", "4"], snapshot=True)
    exchange = await start(tapes=(tape(OPENING, trade(1_000_000_000, 1), later),), markets=None, wait=1)
    async with join(exchange, "X") as line:
        assert "publicCompletedOrdersDelta" in await line.get_message()
        delta = json.loads(await line.get_message())
    assert [(row["price"], row["quantity"]) for row in delta["data"]["orders"]] == [
        ("2.0", "0"),
        ("2.5", "4"),
    ]


async def test_recorded_lags_are_replayed_on_the_lines(start, join, autojump_clock, tape):  # noqa: ARG001
    """Connection k gets its events when recorded line k got them."""
    copies = [trade(10**9, 1) | {"t": t, "line": line} for t, line in ((10**9, 1), (3 * 10**9, 2))]
    path = tape(OPENING | {"line": 1}, *copies)
    exchange = await start(tapes=(path,), markets=None, wait=2)
    async with join(exchange, "X") as one, join(exchange, "X") as two:
        await exchange.started_playing.wait()
        began = trio.current_time()
        await one.get_message()
        first = trio.current_time() - began
        await two.get_message()
        second = trio.current_time() - began
    assert (first, second) == (pytest.approx(1, abs=0.01), pytest.approx(3, abs=0.01))


@pytest.mark.tapes
@pytest.mark.parametrize("name", LINES_TAPES)
def test_the_recorded_lines_agree_with_the_order_found(name):
    """In every market of the recordings the order found is each line's order, and nothing is missing."""
    path = FOLDER / name
    if not path.exists():
        pytest.skip("the recorded exchange traffic is not there")
    found = defaultdict(list)
    for step in tapes.steps(path, WORDING):
        if step.snapshot is None:
            found[step.market].append(step.payload)
    lines = defaultdict(list)
    for raw in tapes._lines(path):
        entry = tapes._decode(raw)
        if not entry.snapshot:
            step = tapes._step(entry, 0, (), WORDING)
            lines[entry.market, entry.line].append(step.payload)
    for (market, _), messages in lines.items():
        rest = iter(found[market])
        assert all(message in rest for message in messages)
    longest = {market: max(len(lines[market, line]) for line in range(1, 5)) for market in found}
    assert {market: len(messages) for market, messages in found.items()} == longest
