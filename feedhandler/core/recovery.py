"""Recovery: between what a feed's arbiter releases and what is published (rules R7 to R9).

    arbiter ──outputs──▶ recovery ──outputs──▶ numbers, backlog, consumers
                            │ ▲
                         asks │ │ replies
                            ▼ │
                           lines

Trades and books are what can be repaired; each such channel has its **keeper** (`trades`, `bookkeeper`), which says
when it wants a snapshot and what comes of it; `asking` keeps who was asked for it. Everything else passes, and a gap is
but a record there. This module gives every channel of the feed its own gap, hands replies to the keeper that waits for
them, and announces the state of each channel: what is in repair is `syncing`, whatever its feed is.

A channel that was there before this feed was **resumed**: nothing proves what was said in between, so a gap comes
before its first record, and what can be repaired is.

**Out first.** A run of ordinary events that passes goes out as it came, and its keepers may hear of it when it is on
its way (`catch_up`): to follow takes longer than to send. Who asks for a book meanwhile lets them hear of it first.

**Quiet or dead.** Where all lines are silent and pongs come, the feed is quiet. Its books are audited then, at once and
at their interval. One that is wrong while nobody says anything has been left behind: the lines are `dead`, and have
to be replaced. A snapshot that is newer than all that the lines have brought, for some time, says so earlier.
"""

from collections.abc import Callable, Sequence
from math import inf
from typing import Final, Protocol

from feedhandler.config import Bounds
from feedhandler.config import Recovery as Settings
from feedhandler.core.asking import Asking, Keeper, RequestDesk
from feedhandler.core.audit import Pulse
from feedhandler.core.book_repair import BookDesk
from feedhandler.core.book_track import BookTrack
from feedhandler.core.bookkeeper import AUDIT, BEHIND, BOOK, GAP, BookKeeper
from feedhandler.core.channels import split
from feedhandler.core.merge import UNPROVEN
from feedhandler.core.messages import Gap, Output, Release, Reply, Run, State
from feedhandler.core.notes import Notify
from feedhandler.core.trades import TRADES, TradeDesk, TradeKeeper

SYNCING: Final = "syncing"
QUIET: Final = "quiet"
DOWN: Final = "down"


class Desk(RequestDesk, Protocol):
    """How the exchange writes what recovery needs; one for each feed."""

    def kind(self, stream: str) -> str:
        """Return what a stream is: `BOOK`, `TRADES`, or "" for what cannot be repaired."""

    def has_gaps(self, stream: str) -> bool:
        """Tell whether a stream belongs to the promise of exactness."""

    def books(self, market: str) -> BookDesk:
        """Return how the books of a market are written."""

    def trades(self, market: str) -> TradeDesk:
        """Return how the trades of a market are written."""


class Recovery:
    """The repair and the proof of one feed's channels."""

    def __init__(
        self,
        feed: str,
        desk: Desk,
        *,
        settings: Settings,
        bounds: Bounds,
        new_id: Callable[[], str],
        askable: Callable[[], Sequence[str]],
        owns: Callable[[str], bool],
        notify: Notify,
        last_recv: Callable[[str], int] = lambda _: -1,
    ) -> None:
        self._feed = feed
        self._desk = desk
        self._settings = settings
        self._bounds = bounds
        self._askable = askable
        self._owns = owns
        self._notify = notify
        self._last_recv = last_recv
        self.resumed: dict[str, int] = {}
        """Channels that were there before this feed and have got no gap yet, and when their last record arrived."""
        self._channels: dict[str, Keeper | None] = {}
        self._requests = Asking(desk, settings, new_id)
        self._pulse = Pulse()
        self._states: dict[str, str] = {}
        self._fallen: set[str] = set()
        self._feed_state = DOWN
        self._begun = False
        self._published: Run | None = None  # its keepers have not heard of it yet
        self.asks: list[tuple[str, str]] = []
        """Requests to be sent: line and text."""
        self.dead = False
        """Whether the lines are silent while the exchange is not; nothing is asked until the first new one is up."""
        self.replace = False
        """Whether all lines are to be replaced; whoever does it resets this."""

    # What is released

    def open(self, channel: str, recv: int) -> list[Output]:
        """Take up a channel of the feed; return its state. What the feed does not own passes, whatever it is."""
        if not self._owns(channel):
            return []
        keeper = self._channels[channel] = self._new_keeper(channel)
        last = self._last_recv(channel)
        if last >= 0 and self._desk.has_gaps(split(channel)[1]):
            self.resumed[channel] = last
            if isinstance(keeper, BookKeeper):
                keeper.reason = GAP
        state = self._states[channel] = self._state_of(keeper)
        return [State(state, recv, channel)]

    def _open_at(self, first: Release, now: float, recv: int) -> list[Output]:
        """Take up a channel whose first event has come."""
        name = first.channel
        result = self.open(name, recv)
        if name in self.resumed:
            self._open_gap(Gap(name, UNPROVEN, self.resumed[name], first.recv), now, result)
        return result

    def retune(self, settings: Settings) -> None:
        """Ask and audit by other settings from now on."""
        self._settings = self._requests.settings = settings
        for keeper in self._keepers():
            keeper.settings = settings

    def _new_keeper(self, channel: str) -> Keeper | None:
        market, stream = split(channel)
        settings, bounds, notify, pulse = self._settings, self._bounds, self._notify, self._pulse
        kind = self._desk.kind(stream)
        if kind == TRADES:
            trades = self._desk.trades(market)
            return TradeKeeper(
                self._feed, channel, trades, settings=settings, bounds=bounds, notify=notify, pulse=pulse
            )
        if kind == BOOK:
            books = self._desk.books(market)
            return BookKeeper(
                self._feed, channel, books, settings=settings, bounds=bounds, notify=notify, pulse=pulse
            )
        return None

    def process(self, outputs: Sequence[Output], now: float, recv: int) -> Sequence[Output]:
        """Return what is to be published for what the arbiter released; channels are opened by their first event.

        What goes out as it is may go out first of all: its keepers hear of it with the next call, `catch_up` at best.
        """
        result: list[Output] = []
        unusual = False
        self.catch_up()
        if len(outputs) == 1 and self._begun and type(outputs[0]) is Run and self._passes(outputs[0]):
            self._pulse.beats += 1
            self._published = outputs[0]
            return outputs
        self._pulse.beats += type(outputs[-1]) in {Run, Release}
        for output in outputs:
            if type(output) is Run:
                if self._passes(output):
                    self._follow(output)
                    result.append(output)
                    continue
                for release in output.releases():
                    unusual |= self._process_release(release, now, recv, result)
            elif type(output) is Release:
                unusual |= self._process_release(output, now, recv, result)
            else:
                unusual = True
                self._process_mark(output, now, result)
        if unusual:
            for keeper in self._keepers():
                result += keeper.flush()
        if unusual or not self._begun:
            self._announce(recv, result)
        return result

    def catch_up(self) -> None:
        """Let the keepers follow what was to be published first of all (`process`)."""
        if self._published is not None:
            run, self._published = self._published, None
            self._follow(run)

    def _passes(self, run: Run) -> bool:
        """Tell whether a run goes out as it is: all its channels are open, and none is in repair or owes a book."""
        channels = self._channels
        for name in run.channels if len(run.channels) == 1 else set(run.channels):
            keeper = channels.get(name)
            if not (name in channels if keeper is None else keeper.passing):
                return False
        return True

    def _follow(self, run: Run) -> None:
        for name in run.channels if len(run.channels) == 1 else set(run.channels):
            keeper = self._channels[name]
            if keeper is not None:
                keeper.follow(run)

    def _process_release(self, release: Release, now: float, recv: int, result: list[Output]) -> bool:
        """Let its keeper see to one event; tell whether anything else than to let it out was to do."""
        if release.channel not in self._channels:
            result += self._open_at(release, now, recv)
        keeper = self._channels.get(release.channel)
        if keeper is None:
            result.append(release)
        elif keeper.passing and not release.kind:
            keeper.follow(release)
            result.append(release)
        else:
            result += keeper.take(release, now)
            return True
        return False

    def _process_mark(self, output: Output, now: float, result: list[Output]) -> None:
        if isinstance(output, Gap):
            self._open_gap(output, now, result)
        elif isinstance(output, State):
            self._feed_state = output.state
            self._pulse.quiet = output.state == QUIET
            if output.state == QUIET:
                for keeper in self._keepers():
                    keeper.audit_soon(now)

    def _keepers(self) -> list[Keeper]:
        return [keeper for keeper in self._channels.values() if keeper is not None]

    def _open_gap(self, gap: Gap, now: float, result: list[Output]) -> None:
        for name, keeper in self._channels.items():
            own = Gap(name, gap.reason, gap.since, gap.until)
            if gap.channel not in {"", name} or gap.stream not in {"", split(name)[1]}:
                continue
            begun = self.resumed.pop(name, -1) >= 0 or self._begun
            if keeper is not None and not keeper.syncing:
                self._fallen.add(name)
            if isinstance(keeper, BookKeeper) or (keeper is not None and begun):
                self._requests.void(keeper)
                result += keeper.open_gap(own, now)
            elif begun and self._desk.has_gaps(split(name)[1]):
                result.append(own)

    # What another daemon has published, while that one does

    def inherit(self, channel: str, state: str) -> None:
        """Take up a channel that another daemon publishes, in the state that it has announced."""
        self._channels[channel] = self._new_keeper(channel)
        self._states[channel] = state
        self._begun = True

    def inherit_events(self, events: Run | Release, now: float) -> None:
        """Follow events that another daemon has published."""
        for name in set(events.channels) if isinstance(events, Run) else (events.channel,):
            keeper = self._channels.get(name)
            if keeper is not None:
                keeper.inherit(events, now)

    def inherit_book(self, channel: str, payload: bytes, position: int, now: float) -> None:
        """Take the book of a channel as another daemon has published it, after all up to a position."""
        keeper = self._channels.get(channel)
        if isinstance(keeper, BookKeeper):
            keeper.inherit_book(payload, position, now)

    def inherit_gap(self, gap: Gap, now: float) -> None:
        """Hear of a gap that another daemon has published."""
        keeper = self._channels.get(gap.channel)
        if isinstance(keeper, BookKeeper):
            keeper.inherit_gap(gap, now)

    def inherit_state(self, channel: str, state: str) -> None:
        """Hear which state of a channel another daemon has announced."""
        if channel in self._channels:
            self._states[channel] = state

    def names(self) -> Sequence[str]:
        """Return the names of all channels."""
        return tuple(self._channels)

    def take_over(self, state: str, gaps: Sequence[Gap], now: float, recv: int) -> list[Output]:
        """Go on alone, in a feed of that state, behind gaps that the other daemon has not come to publish.

        Return what is to be announced, and the books that are owed.
        """
        self._feed_state = state
        self._pulse.quiet = state == QUIET
        result = [output for keeper in self._keepers() for output in keeper.flush()]
        for gap in gaps:
            self._open_gap(gap, now, result)
        self._announce(recv, result)
        return result

    # What is asked for

    def tick(self, now: float, recv: int) -> list[Output]:
        """Let time pass: ask for what is wanted, do without what does not come."""
        self.catch_up()
        result: list[Output] = []
        for keeper in self._requests.overdue(now):
            result += keeper.in_vain("silence", now)
        for keeper in self._keepers():
            result += self._listen(keeper, keeper.tick(now, recv))
        self._ask(now)
        self._announce(recv, result)
        return result

    def _ask(self, now: float) -> None:
        """Ask for what is wanted, unless the lines are dead."""
        if not self.dead:
            self.asks += self._requests.ask(self._keepers(), self._askable(), now)

    def is_own(self, request_id: str) -> bool:
        """Tell whether a request of this id was made here."""
        return self._requests.is_own(request_id)

    def line_up(self, now: float) -> None:
        """Hear that a new line can be asked."""
        self.dead = False
        self._ask(now)

    def line_lost(self, line: str, now: float) -> None:
        """Hear that a line is gone, and the answers that were to come on it: they are asked for on another."""
        self._requests.forget(line)
        self._ask(now)

    def close(self, channel: str, recv: int) -> list[Output]:
        """Hear that a channel is given up at ``recv``: nothing is asked for it any more, and answers are of no use.

        Return what is still owed of it: a gap that is open is written, for nothing can be repaired any more.
        """
        self.catch_up()
        keeper = self._channels.pop(channel, None)
        self._states.pop(channel, None)
        self.resumed.pop(channel, None)
        if keeper is None:
            return []
        self._requests.void(keeper)
        return keeper.end(recv)

    # What is answered

    def reply(self, line: str, reply: Reply, now: float, recv: int) -> list[Output]:
        """Take a reply of a line; one that nobody asked for changes nothing."""
        self.catch_up()
        asked = self._requests.answered(line, reply)
        if asked is None:
            return []
        outputs = asked.keeper.answer(reply.payload, line, asked.at, now, recv)
        result = self._listen(asked.keeper, outputs)
        self._ask(now)
        self._announce(recv, result)
        return result

    def _listen(self, keeper: Keeper, outputs: list[Output]) -> list[Output]:
        """Learn from what failed: what was asked for it is too old, and silent lines are dead."""
        if keeper.failed:
            silent = keeper.failed == BEHIND or (keeper.failed == AUDIT and self._feed_state == QUIET)
            if silent and not self.dead:
                self.dead = self.replace = True
            keeper.failed = ""
            self._requests.void(keeper)
        return outputs

    # What is known of the channels

    def image(self, channel: str) -> bytes | None:
        """Return the book of a channel after all that was published; None where there is none."""
        self.catch_up()
        keeper = self._channels.get(channel)
        return keeper.image() if isinstance(keeper, BookKeeper) else None

    def keepers(self) -> list[Keeper]:
        """Return what keeps the channels that can be repaired."""
        return self._keepers()

    def keeper(self, channel: str) -> Keeper | None:
        """Return what keeps a channel; None where it cannot be repaired."""
        return self._channels.get(channel)

    def state(self, channel: str) -> str:
        """Return the state of a channel, as it was announced last."""
        return self._states.get(channel, self._feed_state)

    @property
    def asking(self) -> int:
        """How many requests for snapshots are remembered, overdue ones included."""
        return len(self._requests)

    @property
    def busy(self) -> bool:
        """Whether anything is in repair or under way, so that time matters."""
        return self._requests.under_way or any(
            keeper.syncing or keeper.auditing for keeper in self._keepers()
        )

    def due(self) -> float:
        """Return when time matters next where nothing is in repair or under way; what is past may be done by now."""
        return min([*self._requests.due(), *(keeper.due() for keeper in self._keepers())], default=inf)

    def synchronised(self) -> dict[str, bool]:
        """Return for each book whether it is there."""
        return {
            keeper.channel: keeper.passing for keeper in self._keepers() if isinstance(keeper, BookKeeper)
        }

    def books_to_come(self) -> list[str]:
        """Return the channels whose book is not there: what is held of them comes behind it."""
        return [keeper.channel for keeper in self._keepers() if keeper.kind == BOOK and keeper.syncing]

    def behind(self) -> list[BookTrack]:
        """Return the books that have deltas to follow (`BookTrack.catch_up`)."""
        books = [keeper for keeper in self._keepers() if isinstance(keeper, BookKeeper)]
        return [keeper.track for keeper in books if keeper.track.waiting and not keeper.syncing]

    def _state_of(self, keeper: Keeper | None) -> str:
        if keeper is not None and keeper.syncing and self._feed_state != DOWN:
            return SYNCING
        return self._feed_state

    def _announce(self, recv: int, result: list[Output]) -> None:
        """Announce the state of every channel in which it has changed; what was published has begun.

        A repair that has begun is announced whatever was: a daemon that follows has to know that a gap is owed.
        """
        self._begun = self._begun or any(type(output) is not State for output in result)
        for name, keeper in self._channels.items():
            state = self._state_of(keeper)
            if self._states[name] != state or (name in self._fallen and state == SYNCING):
                self._states[name] = state
                result.append(State(state, recv, name))
        self._fallen.clear()
