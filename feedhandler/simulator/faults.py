"""What goes wrong, by script and by lot.

A fault strikes one connection, some, or a market; it changes their outboxes or ends them, and is reported
once for each connection it struck. Nothing here waits: what a fault ends later is left to a task.

By lot: a connection is *untouched* if for ``settle_s`` it has been there, had been sent ``settle_events`` events,
and its last fault has been over. Where events are asked for, the client must have read them, too, and as far as
that another connection that is untouched; it shows that by its answers to pings (`Trial`), so that a slow client on
a busy machine is given the time that it needs.
A fault strikes only where ``spare`` untouched connections of the market remain besides its victim;
otherwise it is skipped.
"""

import math
from collections.abc import Callable, Iterable
from random import Random
from weakref import WeakKeyDictionary

import msgspec
import trio

from feedhandler.core.notes import Notify, note
from feedhandler.simulator import frames
from feedhandler.simulator.connection import Connection
from feedhandler.simulator.gate import EVERY_MARKET, Answer, Gate, Refusal
from feedhandler.simulator.outbox import Ending, Interleaver
from feedhandler.simulator.settings import VARIANTS, Fault, Kind, RandomFaults

OnFault = Callable[[str, str, int, str], None]
"""Told of each strike: kind, market, line, detail; the line is -1 where a whole market was struck."""

REFUSAL_S = 5.0
"""How long `refuse` and `outage` last where the fault does not say."""
INTERLEAVE_HOLD_S = 0.05
"""An interleaved event is held back no longer than this in a quiet moment."""


class Trial:
    """Finds out whether the client has read a connection as far as now, and the others that are still there, too."""

    def __init__(self, line: Connection, others: Iterable[Connection]) -> None:
        self._own = line.probe()
        self._others = [(other, other.probe()) for other in others]

    def is_passed(self) -> bool:
        """Tell whether it has; one of the others must have shown it at least."""
        return (
            self._own.is_set()
            and any(answered.is_set() for _, answered in self._others)
            and all(answered.is_set() or not other.is_open for other, answered in self._others)
        )

    def is_void(self) -> bool:
        """Tell whether the others have gone and have shown nothing."""
        return not any(answered.is_set() or other.is_open for other, answered in self._others)


class Faults:
    """Strikes connections."""

    def __init__(
        self,
        *,
        connections: Callable[[str], list[Connection]],
        markets: Callable[[], list[str]],
        gate: Gate,
        nursery: trio.Nursery,
        on_fault: OnFault,
        notify: Notify,
        seed: int,
    ) -> None:
        self._connections = connections
        self._markets = markets
        self._gate = gate
        self._nursery = nursery
        self._on_fault = on_fault
        self._notify = notify
        self._random = Random(f"{seed}/faults")  # noqa: S311 - faults, no secret
        self._trials: WeakKeyDictionary[Connection, Trial] = WeakKeyDictionary()

    def strike(self, fault: Fault) -> None:
        """Let one fault happen now."""
        if fault.kind in {"refuse", "outage"}:
            self._close_market(fault)
            return
        victims = self._victims(fault)
        for victim in victims:
            self._strike_one(fault, victim)
        if not victims:
            self._notify(note("simulated_fault_missed", kind=fault.kind, market=fault.market))

    def _victims(self, fault: Fault) -> list[Connection]:
        connected = [market for market in self._markets() if self._connections(market)]
        market = fault.market or (self._random.choice(connected) if connected else "")
        lines = self._connections(market)
        if fault.line == "all" or not lines:
            return lines
        if fault.line == "random":
            return [self._random.choice(lines)]
        return [line for line in lines if line.index == fault.line]

    def _close_market(self, fault: Fault) -> None:
        now = trio.current_time()
        duration_s = REFUSAL_S if fault.duration_s is None else fault.duration_s
        answer = Answer(fault.status, fault.retry_after_s)
        self._gate.refuse(Refusal(fault.market or EVERY_MARKET, now + duration_s, answer), now)
        detail = f"status={fault.status} duration_s={duration_s:g}"
        self._on_fault(fault.kind, fault.market or "*", -1, detail)
        if fault.kind == "outage":
            for market in [fault.market] if fault.market else self._markets():
                for line in self._connections(market):
                    line.end(Ending(fault.how, fault.code, "outage"), at_once=True)

    def _strike_one(self, fault: Fault, line: Connection) -> None:
        now = trio.current_time()
        line.touched_until = max(line.touched_until, now)
        match fault.kind:
            case "close" | "reset":
                detail = self._end(line, Ending(fault.kind, fault.code, fault.kind))
            case "half_frame":
                detail = self._end(
                    line, Ending(fault.how, reason=fault.kind, half_frame=True, cut_bytes=fault.cut_bytes)
                )
            case "mute":
                line.outbox.mute(self._until(fault, line))
                detail = _lasting(fault)
            case "drop":
                line.outbox.drop(fault.count)
                detail = f"events={fault.count}"
            case "ping":
                line.ping(fault.count)
                detail = f"pings={fault.count}"
            case "garbage":
                detail = self._send_garbage(fault, line)
            case _:
                self._disturb(fault, line)
                detail = _lasting(fault)
        self._on_fault(fault.kind, line.market, line.index, detail)

    def _end(self, line: Connection, ending: Ending) -> str:
        line.touched_until = math.inf
        line.end(ending)
        return f"how={ending.how}"

    def _until(self, fault: Fault, line: Connection) -> float:
        until = math.inf if fault.duration_s is None else trio.current_time() + fault.duration_s
        line.touched_until = max(line.touched_until, until)
        return until

    def _disturb(self, fault: Fault, line: Connection) -> None:
        """Begin what must be ended by somebody: a delay, a throttle, an interleaving."""
        until = self._until(fault, line)
        if fault.kind == "delay":
            line.outbox.delay(fault.delay_s)
        elif fault.kind == "throttle":
            line.outbox.throttle(fault.bytes_per_s)
        else:
            line.outbox.interleave(Interleaver(fault.depth, self._random))
        self._nursery.start_soon(self._undo, fault.kind, line, until)

    async def _undo(self, kind: Kind, line: Connection, until: float) -> None:
        while kind == "interleave" and line.is_open and trio.current_time() < until - INTERLEAVE_HOLD_S:
            await trio.sleep(INTERLEAVE_HOLD_S)
            line.outbox.release_held()
        if until == math.inf:
            return
        await trio.sleep_until(until)
        if kind == "delay":
            line.outbox.delay(0.0)
        elif kind == "throttle":
            line.outbox.throttle(0)
        else:
            line.outbox.interleave(None)

    def _send_garbage(self, fault: Fault, line: Connection) -> str:
        if fault.variant == "line_breaks":
            line.outbox.dress_next(_with_line_breaks)
        elif fault.variant == "fragmented":
            line.outbox.dress_next(_in_fragments)
        else:
            line.outbox.put_reply(trio.current_time(), garbage(fault))
        return f"variant={fault.variant}"

    async def strike_at_random(self, plan: RandomFaults) -> None:
        """Strike for ever, by lot."""
        lots = Random(f"{plan.seed}/random faults")  # noqa: S311 - faults, no secret
        while True:
            await trio.sleep(lots.expovariate(1 / plan.every_s))
            self._watch_settling(plan)
            fault = draw(plan, lots)
            markets = [market for market in self._markets() if self._connections(market)]
            market = lots.choice(markets) if markets else EVERY_MARKET
            line = lots.choice(self._connections(market)) if markets else None
            if line is not None and self._is_allowed(fault, plan, line):
                self.strike(msgspec.structs.replace(fault, market=market, line=line.index))

    def _watch_settling(self, plan: RandomFaults) -> None:
        for market in self._markets():
            lines = self._connections(market)
            for line in lines:
                if not plan.settle_events:
                    line.settling_since = line.opened_at
                elif line.settling_since == math.inf and line.outbox.events >= plan.settle_events:
                    self._try(line, [other for other in lines if other is not line])

    def _try(self, line: Connection, others: list[Connection]) -> None:
        if line not in self._trials:
            settled = [other for other in others if max(other.settling_since, other.touched_until) < math.inf]
            self._trials[line] = Trial(line, settled or others)
        elif self._trials[line].is_passed():
            line.settling_since = trio.current_time()
        elif self._trials[line].is_void():
            del self._trials[line]

    def _is_allowed(self, fault: Fault, plan: RandomFaults, victim: Connection) -> bool:
        if fault.kind == "refuse":
            return True
        settled = trio.current_time() - plan.settle_s
        untouched = [
            line
            for line in self._connections(victim.market)
            if line is not victim and line.settling_since <= settled and line.touched_until <= settled
        ]
        return len(untouched) >= plan.spare and not (plan.spare and fault.kind == "outage")


def draw(plan: RandomFaults, lots: Random) -> Fault:
    """Draw a fault with parameters that fit its kind."""
    return Fault(
        kind=lots.choice(plan.kinds),
        duration_s=0.1 + lots.expovariate(1 / plan.duration_s) if plan.duration_s else 0.1,
        delay_s=lots.uniform(0.02, 0.5),
        bytes_per_s=lots.randint(1_000, 100_000),
        count=lots.randint(1, 20),
        depth=lots.randint(1, 32),
        variant=lots.choice(VARIANTS),
        how="close" if lots.random() < 0.5 else "reset",
    )


def garbage(fault: Fault) -> bytes:
    """Return a frame that is no event."""
    match fault.variant:
        case "array":
            return frames.text(b'[{"resultType":"publicOrderBookDelta"}]')
        case "binary":
            return frames.frame(frames.BINARY, b'\x00\x01{"resultType":"publicOrderBookDelta"}')
        case "invalid_utf8":
            return frames.text(b'{"resultType":"publicOrderBookDelta","data":"\xff\xfe"}')
        case "oversize":
            return frames.text(b'{"resultType":"oversize","data":"%b"}' % (b"x" * fault.size_bytes))
        case _:
            return frames.text(b"this is not JSON")


def _with_line_breaks(frame: bytes) -> bytes:
    payload = frames.payload(frame)
    return frame if payload is None else frames.text(msgspec.json.format(payload, indent=1))


def _in_fragments(frame: bytes) -> bytes:
    payload = frames.payload(frame)
    return frame if payload is None else frames.text(payload, max(1, len(payload) // 3))


def _lasting(fault: Fault) -> str:
    lasts = "" if fault.duration_s is None else f" duration_s={fault.duration_s:g}"
    parameter = {
        "delay": f"delay_s={fault.delay_s:g}",
        "throttle": f"bytes_per_s={fault.bytes_per_s}",
        "interleave": f"depth={fault.depth}",
    }
    return (parameter.get(fault.kind, "") + lasts).strip()
