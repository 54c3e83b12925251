# ruff: noqa: ARG001 - the clock works by being asked for
"""All lines of every feed go in the middle of recorded traffic, for as long as 50 ms to 60 s of the tape's time.

The tape's first part has happened when the daemon starts, so the play begins `BEFORE_S` before the outage; it ends
`AFTER_S` behind it, or with the tape. What the consumer got is held against the truth record by record.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from feedhandler.config import Feed
from feedhandler.simulator import player, tapes
from feedhandler.simulator.exchange import Exchange
from feedhandler.simulator.market import Market
from feedhandler.simulator.messages import BOOK, TRADES, Wording
from feedhandler.simulator.settings import Behaviour
from feedhandler.simulator.traffic import Step
from tests.support.references import rows
from tests.support.stage import Stage, staged

BEFORE_S, AFTER_S = 5.0, 10.0

pytestmark = pytest.mark.tapes


class Tape:
    """A tape around an outage: what has happened before the play, and what is played."""

    def __init__(self, path: Path, at_s: float, end_s: float) -> None:
        self.path = path
        self.markets, _ = tapes.survey(path)
        self._start_s = at_s - BEFORE_S
        self._end_s = end_s
        self._steps: Iterator[Step] = tapes.steps(path, Wording(Behaviour()))

    def prepare(self, exchange: Exchange) -> None:
        """Let the first part have happened before anybody listened."""
        for step in self._steps:
            state = exchange.markets[step.market]
            if step.snapshot is not None:
                _replace(state, step, exchange.wording)
            else:
                state.record(0.0, step.stream, step.payload)
            if step.due_s >= self._start_s:
                break

    async def play(self, exchange: Exchange, outage: trio.Event) -> None:
        """Play the rest at its recorded times; tell when the outage is to begin."""
        start = trio.current_time()
        for step in self._steps:
            if step.due_s > self._end_s:
                break
            if step.due_s >= self._start_s + BEFORE_S:
                outage.set()
            await trio.sleep_until(start + step.due_s - self._start_s)
            player._play_step(exchange, step, 1.0)


def _replace(state: Market, step: Step, wording: Wording) -> None:
    difference = state.replace(step.snapshot or ())
    if difference:
        state.record(0.0, BOOK, wording.delta(step.market, difference, state.ts))


@pytest.mark.parametrize("seconds", [0.05, 1, 10, 60])
@pytest.mark.parametrize(
    ("name", "at_s"),
    [
        ("binance-spot-2024-08-08", 320.0),
        ("binance-usdm-2024-08-08", 170.0),
        ("dydx-2021-10-28", 15.0),
        ("lines-bequant-2021-07-03", 15.0),
        ("lines-hitbtc-2021-07-15", 15.0),
    ],
)
async def test_an_outage_in_the_middle_of_a_tape(
    tapes: Path, tmp_path: Path, autojump_clock: MockClock, name: str, at_s: float, seconds: float
) -> None:
    """(4) (5) At most one gap a channel, the book is the true one at every seq, and trades come once, in their order.

    Every trade that a snapshot of the exchange still held is among them, marked if it did not come on a line.
    """
    tape = Tape(tapes / f"{name}.jsonl.gz", at_s, at_s + seconds + AFTER_S)
    feeds = (Feed(markets=tuple(tape.markets), lines=2),)
    outage = trio.Event()
    async with staged(tmp_path, tapes=(tape.path,), feeds=feeds, before=tape.prepare, wait=False) as stage:
        shown = watch_trade_snapshots(stage)
        await stage.until(stage.all_connected)
        await stage.until(stage.all_synchronised)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tape.play, stage.exchange, outage)
            await outage.wait()
            for market in tape.markets:
                stage.strike("outage", "all", market, duration_s=seconds)
        await stage.until(stage.all_connected)
        await stage.until(stage.all_synchronised)
        await trio.sleep(5)
        for market in tape.markets:
            check_book(stage, market)
            check_trades(stage, market, shown[market])


def watch_trade_snapshots(stage: Stage) -> defaultdict[str, list[list[Any]]]:
    """Write down what the exchange shows of its recent trades."""
    shown: defaultdict[str, list[list[Any]]] = defaultdict(list)
    desk = stage.exchange._desk
    answer = desk.trade_snapshot

    def write_down(market: str, now: float, request_id: str | None = None) -> bytes:
        reply = answer(market, now, request_id)
        shown[market].append(rows(reply))
        return reply

    desk.trade_snapshot = write_down  # type: ignore[method-assign]
    return shown


def check_book(stage: Stage, market: str) -> None:
    """Assert one gap, a true book at every seq, and the state all along."""
    channel = f"{market}/{BOOK}"
    shapes = stage.follow_book(market).shapes
    assert [shape for shape in shapes if shape != "events"] == ["snapshot", "gap", "snapshot"]
    assert all(pair != ("gap", "events") for pair in pairwise(shapes))
    states = stage.reading.states(channel)
    assert states[states.index("live") + 1] in {"down", "syncing", "quiet"}
    assert states[len(states) - states[::-1].index("down") :][:2] == ["syncing", "live"]


def check_trades(stage: Stage, market: str, shown: list[list[Any]]) -> None:
    """Assert that trades come once and in order, and which of them come."""
    channel = f"{market}/{TRADES}"
    truth = [row for payload in stage.truth.get(channel, []) for row in rows(payload)]
    events = stage.reading.of("event", channel)
    got = [row for event in events for row in rows(json.dumps(event["msg"]))]
    assert len(stage.reading.of("gap", channel)) <= 1
    assert {event.get("class", "") for event in events} <= {"", "backfilled"}
    assert got == [row for row in truth if row in set(got)]
    assert len(got) == len(set(got))
    held = {row for snapshot in shown for row in snapshot}
    missing = [row for row in truth if row not in set(got)]
    assert held.isdisjoint(missing)
    assert stage.reading.of("gap", channel) or not missing
