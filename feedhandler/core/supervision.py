"""What time tells: who stands still, who missed what, what state the feed is in (rule R6, health)."""

from math import inf

from feedhandler.core import health as states
from feedhandler.core.anchoring import Anchoring
from feedhandler.core.canonical import canonical
from feedhandler.core.line import Line, Quarantine, Restart
from feedhandler.core.merge import DIVERGENCE, DOWN, LIVE, QUIET, SYNCING, VALUE_SEARCH_EVENTS
from feedhandler.core.messages import Gap, State


class Supervision(Anchoring):
    """The merge, with an eye on its lines."""

    def _judge_misses(self, line: Line, now: float) -> None:
        if line.owing is not None and line.owing.passed:
            bounds = self._bounds
            for position in line.owing.missed(now, events=bounds.passed_events, seconds=bounds.passed_s):
                if line.joined_at <= self.window.late.get(position, position):
                    self._divergences.missed(line.name, position)
                    self._note("event_missed", line=line.name, position=position)

    def _judge_health(self, line: Line, now: float) -> None:
        health = line.health
        since = self._standing_since(line)
        stalled = since is not None and now - since >= health.patience()
        if health.state == states.SUSPECT:
            if since is None or (line.owing is not None and line.moved > health.since and not stalled):
                self._health(line, "caught_up", now)
            elif (
                now - health.since >= self._limits.replace_s
                and not line.restarting
                and self._has_company(line)
            ):
                line.restarting = True
                self.orders.append(Restart(line.name, "stalled"))
        elif stalled:
            self._health(line, "stalled", now)
        elif health.state == states.PROBATION and now - health.since >= self._limits.probation_s:
            self._health(line, "kept_up", now)
        if (
            line.owing is None
            and line.hold.events
            and now - line.hold.events[0].at >= self._limits.stall_min_s
        ):
            self._try_values(line)

    def _settled_before(self) -> int:
        """Return the position before which every line has delivered all, and that no line can ask for any more.

        A line without a place, or without one in some channel, may bring what was released since it began to connect.
        """
        lines = [
            line for line in self.lines.values() if line.connected or line.health.state == states.CONNECTING
        ]
        needs = [self._needs_from(line) for line in (*lines, *self.ghosts)]
        return min(self.window.head, *needs, *self._divergences.disputed())

    def _has_company(self, line: Line) -> bool:
        """Tell whether another line can carry the feed: the last one goes on as best it can."""
        return any(other.connected and other is not line for other in self.lines.values())

    def _standing_since(self, line: Line) -> float | None:
        """Return since when a line stands still while its peers deliver (monotonic, s), None where it does not."""
        k = self._limits.stall_events
        if line.owing is None:
            first = max(line.head_at_start, self.window.base)
            if line.hold.events or self.window.head - first < k:
                return None
            return max(line.connected_at, self.window.released_at(first))
        first_owed = line.owing.first()
        if first_owed is not None and line.owing.count >= k:
            return max(line.moved, self.window.released_at(first_owed))
        ahead = self._arrived_elsewhere(line)
        return ahead[0] if len(ahead) >= k else None

    def _arrived_elsewhere(self, line: Line) -> list[float]:
        """Return when witnesses received what nobody has released since this line last moved."""
        return [
            held.at
            for other in self.lines.values()
            if other is not line
            for held in (other.aside if other.owing else other.hold.events)[
                -self._limits.stall_events - VALUE_SEARCH_EVENTS :
            ]
            if held.at > line.moved and not self.window.find(held.payload)
        ]

    def _try_values(self, line: Line) -> None:
        """See whether a witness that cannot join brings the same values in other bytes (rule R1)."""
        if self.window.canonical:
            return
        values = {
            canonical(held.payload)
            for held in line.hold.events[:VALUE_SEARCH_EVENTS]
            if held.identity.distinct
        }
        newest = self.window.payloads[-VALUE_SEARCH_EVENTS:]
        if not values.isdisjoint(map(canonical, newest)) and not any(
            map(self.window.find, newest_held(line))
        ):
            self.window.compare_values()
            self._note("values_compared", line=line.name)

    # Disagreement (rule R6)

    def _give_verdicts(self, now: float, recv: int) -> None:
        for position in list(self._divergences.disputed()):
            if self._divergences.switched_off:
                return  # by the verdict before: that has ended all disputes
            bringer = self.window.line(position)
            others = [
                line for line in self.lines.values() if line.name != bringer and _had_to_bring(line, position)
            ]
            if any(_may_still_bring(line, position) for line in others):
                continue
            verdict = self._divergences.judge(position, bringer, [line.name for line in others])
            if verdict is not None:
                self._blame(verdict.line, position, now, recv, invented=verdict.invented)

    def _blame(self, name: str, position: int, now: float, recv: int, *, invented: bool) -> None:
        if invented:
            self.outputs.append(Gap(self.window.channel(position), DIVERGENCE, self._last_recv, recv))
        line = self.lines.get(name)
        if line is None or line.added_at > position:
            return  # whose fault it was is no more, or another has its name
        self._note("line_diverged", line=name, invented=invented)
        self._divergences.blame(name, now)
        off = self._divergences.switched_off
        if self._divergences.to_quarantine(name, list(self.lines), now):
            if line.connected:
                self.orders.append(Quarantine(name, self._incident(line, position)))
                self._health(line, "quarantined", now)
        elif self._divergences.switched_off and not off:
            self._note("divergence_check_switched_off")

    def _incident(self, line: Line, position: int) -> dict[str, object]:
        """Describe a disagreement: the disputed event, its neighbourhood, and every line."""
        window, reach = self.window, self._bounds.incident_events // 2
        around = range(max(window.base, position - reach), min(window.head, position + reach + 1))
        return {
            "feed": self.feed,
            "line": line.name,
            "position": position,
            "neighbourhood": [
                {
                    "position": p,
                    "line": window.line(p),
                    "channel": window.channel(p),
                    "payload": window.payload(p),
                }
                for p in around
            ],
            "lines": [
                {
                    "line": one.name,
                    "state": one.health.state,
                    "messages": one.messages,
                    "place": repr(one.owing),
                }
                for one in self.lines.values()
            ],
        }

    # The feed's state

    def due(self) -> float:
        """Return when time changes something in a feed whose lines owe and hold nothing; -inf where it always may."""
        lines = [line for line in self.lines.values() if line.connected]
        settled = any(line.up for line in lines) or not lines
        disputed = self._divergences or any(line.owing and line.owing.passed for line in lines)
        if self.ghosts or disputed or not settled:
            return -inf
        probations = [line.health.since for line in lines if line.health.state == states.PROBATION]
        good = min(probations, default=inf) + self._limits.probation_s
        return min(good, self._last_release + self._limits.quiet_s) if self.state == LIVE else good

    def _change_state(self, recv: int, now: float) -> None:
        """Announce the feed's state where it has changed."""
        if not any(line.connected for line in self.lines.values()):
            state = DOWN
        elif not any(line.owing is not None for line in self.lines.values()):
            state = SYNCING
        else:
            state = QUIET if now - self._last_release >= self._limits.quiet_s else LIVE
        if state != self.state:
            self.state = state
            self.outputs.append(State(state, recv))
            self._note("feed_state_changed", state=state)


def _had_to_bring(line: Line, position: int) -> bool:
    return line.owing is not None and line.joined_at <= position


def _may_still_bring(line: Line, position: int) -> bool:
    owing = line.owing
    if owing is None:
        return False
    return (
        (position >= owing.position and position not in owing.early)
        or position in owing.open
        or position in owing.passed
    )


def newest_held(line: Line) -> list[bytes]:
    """Return the newest few payloads that a witness holds."""
    return [held.payload for held in line.hold.events[-VALUE_SEARCH_EVENTS:]]
