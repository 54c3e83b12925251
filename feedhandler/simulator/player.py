"""Playing: brings traffic to the exchange at the right moments.

Events are due at moments counted from the start of playing; whoever is late catches up, and lets the
connections' tasks run after every `BATCH` events. Flat out, the exchange waits for its healthy connections
instead of the clock.
"""

import heapq
from collections.abc import Iterable
from itertools import chain
from random import Random

import trio

from feedhandler.simulator import tapes, traffic
from feedhandler.simulator.exchange import Exchange, now_ms
from feedhandler.simulator.messages import OTHER
from feedhandler.simulator.traffic import Step

BATCH = 512

START_PAUSE_S = 0.5
"""Between the last connection that was waited for and the first event, so that clients can ask for their books."""


async def play(exchange: Exchange) -> None:
    """Play everything that the settings name: the tapes one after another, generated traffic beside them."""
    settings = exchange.settings
    if settings.wait:
        await exchange.wait_connected(settings.wait)
        await trio.sleep(START_PAUSE_S)
    exchange.started_playing.set()
    exchange.strike_at_event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_strike_by_script, exchange)
        nursery.start_soon(_say_unknown_things, exchange)
        nursery.start_soon(_push_snapshots, exchange)
        if settings.rate is not None and exchange.traffic:
            steps = traffic.merge(
                exchange.traffic, now_ms() if settings.start_ms is None else settings.start_ms
            )
            nursery.start_soon(_pace, exchange, steps, 1.0 if settings.rate else 0.0)
        if settings.tapes:
            await _play_tapes(exchange)
            exchange.truth.flush()
            exchange.finished.set()


async def _play_tapes(exchange: Exchange) -> None:
    for path in exchange.settings.tapes:
        await _pace(exchange, tapes.steps(path, exchange.wording), exchange.settings.speed)


async def _pace(exchange: Exchange, steps: Iterable[Step], speed: float) -> None:
    start = trio.current_time()
    for number, step in enumerate(steps, 1):
        if speed and (due := start + step.due_s / speed) > trio.current_time():
            await trio.sleep_until(due)
        _play_step(exchange, step, speed)
        if number % BATCH == 0:
            await trio.lowlevel.checkpoint()
            if not speed:
                await exchange.drained()


def _play_step(exchange: Exchange, step: Step, speed: float) -> None:
    if step.snapshot is not None:
        exchange.replace_book(step.market, step.snapshot)
    else:
        lags = [lag / speed for lag in step.lags] if speed and step.lags else ()
        exchange.broadcast(step.market, step.stream, step.payload, lags)


async def _strike_by_script(exchange: Exchange) -> None:
    start = trio.current_time()
    timed = [
        (fault.at_s, number, fault)
        for number, fault in enumerate(exchange.settings.plan.faults)
        if fault.at_s is not None
    ]
    heapq.heapify(timed)
    while timed:
        at_s, _, fault = heapq.heappop(timed)
        await trio.sleep_until(start + at_s)
        exchange.inject(fault)


async def _say_unknown_things(exchange: Exchange) -> None:
    every_s = exchange.behaviour.unknown_types_every_s
    lots = Random(f"{exchange.settings.seed}/unknown")  # noqa: S311 - traffic, no secret
    while every_s:
        await trio.sleep(every_s)
        market = lots.choice(list(exchange.markets))
        exchange.broadcast(market, OTHER, exchange.wording.unknown(market, exchange.broadcasts))


async def _push_snapshots(exchange: Exchange) -> None:
    every_s = exchange.behaviour.unsolicited_snapshot_every_s
    lots = Random(f"{exchange.settings.seed}/snapshots")  # noqa: S311 - traffic, no secret
    while every_s:
        await trio.sleep(every_s)
        lines = list(chain.from_iterable(exchange.connections(market) for market in exchange.markets))
        if lines:
            line = lots.choice(lines)
            exchange.reply(line, exchange.book_snapshot(line.market))
