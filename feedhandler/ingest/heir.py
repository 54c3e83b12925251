"""What a feed makes of the records that another daemon publishes for it (`core.following`).

The events go into the arbiter's window, as those of one more line, and from there to the keepers of books and trades;
gaps, books and states change what they have to. Nothing is published here: that is the other daemon's to do, and who
follows it keeps its records as they came. What is of a stream that this feed has not is none of its business.

**A gap may be owed.** While a channel is in repair, its gap is declared and not published yet; a daemon that dies then
has told of it only by the state `syncing`, or by the gap of another channel. Such a channel gets its gap at the
takeover, unless anything has come in it since: that comes behind its repair.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Final

from feedhandler.core.arbiter import LATE, LIVE, OUTAGE, QUIET, SYNCING, UNKNOWN, UNPROVEN
from feedhandler.core.bookkeeper import AUDIT, GAP, START
from feedhandler.core.channels import Channel, split
from feedhandler.core.following import OUTPUT, Following
from feedhandler.core.messages import Gap, Release, Run
from feedhandler.core.recovery import Recovery
from feedhandler.core.trades import BACKFILLED

HIDING: Final = frozenset({OUTAGE, UNPROVEN})
"""The reasons of gaps behind which something may be missing; other gaps are about what was published."""

REPLACING: Final = frozenset({START, GAP, AUDIT})
"""The reasons of books that do not follow from what was published before."""


class Heir:
    """One feed while another daemon publishes for it; ``adopt`` makes a channel the feed's."""

    def __init__(
        self,
        arbiter: Following,
        recovery: Recovery,
        streams: Callable[[], Collection[str]],
        adopt: Callable[[Channel], None],
    ) -> None:
        self._arbiter = arbiter
        self._recovery = recovery
        self._streams = streams
        self._adopt = adopt
        self._closed: set[str] = set()
        self._owed: set[str] = set()
        self._bounds_of: dict[str, tuple[int, int]] = {}

    @property
    def is_whole(self) -> bool:
        """Whether the feed can go on: the other daemon publishes in all channels that it has had."""
        return not self._closed

    @property
    def owed(self) -> set[str]:
        """The channels whose gap was declared and has not been published."""
        return self._owed

    def open(self, channel: Channel, state: str) -> None:
        """Hear of a channel, and of its state."""
        self._closed.discard(channel.name)
        self._adopt(channel)
        self._recovery.inherit(channel.name, state)

    def close(self, channel: str) -> None:
        """Hear that a channel was retired, which this feed would not have done: what follows is behind a gap."""
        self._closed.add(channel)

    def events(self, channels: Sequence[str], payloads: Sequence[bytes], now: float, recv: int) -> None:
        """Take ordinary events, the last of which arrived at ``recv``."""
        streams = self._streams()
        own = [split(channel)[1] in streams for channel in channels]
        if not all(own):
            channels = [channel for channel, is_own in zip(channels, own, strict=True) if is_own]
            payloads = [payload for payload, is_own in zip(payloads, own, strict=True) if is_own]
        if not channels:
            return
        self._owed.difference_update(channels)
        position = self._arbiter.followed(channels, payloads, now, recv)
        for run in Run(channels, payloads, OUTPUT, recv, position).narrow():
            self._recovery.inherit_events(run, now)

    def marked(self, channel: str, payload: bytes, now: float, recv: int, kind: str) -> None:
        """Take an event that is not an ordinary one."""
        if kind == UNKNOWN:
            self._arbiter.followed_unknown(payload)
        if split(channel)[1] not in self._streams():
            return
        self._owed.discard(channel)
        position = before = -1
        if kind == BACKFILLED:
            self._owe_others(channel)
        if kind == LATE:
            position, before = self._arbiter.followed_late(channel, payload, now, recv)
        release = Release(channel, payload, OUTPUT, recv, kind, position, before)
        self._recovery.inherit_events(release, now)

    def interleaved(self) -> None:
        """Hear that lines of the feed interleave its channels differently."""
        self._arbiter.followed_interleaving()

    def gap(self, gap: Gap, now: float) -> None:
        """Take a gap of a channel."""
        if split(gap.channel)[1] in self._streams():
            self._recovery.inherit_gap(gap, now)
            self._owed.discard(gap.channel)
            self._bounds_of[gap.channel] = gap.since, gap.until
            if gap.reason in HIDING:
                self._arbiter.followed_gap(now)
                self._owe_others(gap.channel)

    def _owe_others(self, channel: str) -> None:
        """Take it that all other channels are in repair, too, except those whose gap this was."""
        bounds = self._bounds_of.get(channel)
        for other in self._recovery.names():
            if other != channel and (bounds is None or self._bounds_of.get(other) != bounds):
                self._owed.add(other)

    def book(self, channel: str, message: bytes, now: float, reason: str) -> None:
        """Take a channel's book, after all that has come; one that replaces another stands for what nobody saw."""
        if reason in REPLACING:
            self._arbiter.followed_book(channel, now)
            self._owed.discard(channel)
        self._recovery.inherit_book(channel, message, self._arbiter.window.head - 1, now)

    def state(self, channel: str, word: str) -> None:
        """Hear a channel's state."""
        if word == SYNCING:
            self._owed.add(channel)
        elif word in {LIVE, QUIET}:
            self._owed.discard(channel)
        self._recovery.inherit_state(channel, word)
