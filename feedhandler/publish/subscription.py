"""A consumer's place in the backlog: which records come to it, and from where on.

A channel has two tracks in the backlog: its numbered records, and its states, which take no seq and are
never replayed. A subscription knows of each track the place from which its records are wanted (`NEVER` for
a channel that was not asked for) and one cursor. A live channel is wanted from the head at the time of the
request, a resumed one from the record after the last received; the cursor starts at the earliest of these,
so that a replay keeps its original order and passes into the live stream without a seam.

**No resume yields a hole without a record that says so**: what can't be served exactly is refused with its
reason, and the channel goes on live.

**What a peer may not read, it may not know of.** An exact name of an account's channel is `forbidden` whether that is
open or not, since its opening says that something happened; in all else such a channel is not there.

A subscription is `overrun` when the oldest record that it wants and has not taken is out of the backlog's
reach. Records that it does not want take it nowhere: the cursor passes over them. One that resumes from
beyond the reach is *catching up*: until it has been within it once, only what is gone from the backlog
counts, or a consumer that came back for its records would be overrun before it had the first of them.

**What has been put together for one is put together for all like it.** Who has taken everything up to the same place,
and has chosen the same channels (`selection`), gets the same bytes next (`piece`), and moves on with `advance`.

To conflate is to go to the head, one channel after the other, each when there is room to say so: its book is
made at that moment and no earlier, so that a consumer of many books never has more than one of them pending.
"""

import sys
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from feedhandler.config import ACCOUNT_STREAMS
from feedhandler.core.channels import Channel, Channels, Patterns, split
from feedhandler.publish import records
from feedhandler.publish.backlog import Backlog
from feedhandler.publish.request import Request, Resume

NEVER = 2**63 - 1

LAG_CHANNELS = 1000
"""The most channels of which each is looked at to tell how far a consumer is behind."""


def records_track(channel: Channel) -> int:
    """Return the track of a channel's numbered records."""
    return 2 * channel.number


def states_track(channel: Channel) -> int:
    """Return the track of a channel's states."""
    return 2 * channel.number + 1


def _tracks(channel: Channel) -> tuple[int, int]:
    return records_track(channel), states_track(channel)


class Skip(NamedTuple):
    """What a consumer does not get of a channel: the seqs from ``first`` to before its next one, and states."""

    channel: Channel
    first: int
    states: bool


class Subscription:
    """The channels of one consumer and its cursor."""

    def __init__(
        self, backlog: Backlog, patterns: Patterns, *, account: bool, conflates: bool = False
    ) -> None:
        self.conflates = conflates
        self.selection = sys.intern(patterns.selection if account else f"{patterns.selection} but account")
        """What channels are chosen: equal for all who have chosen the same."""
        self._backlog = backlog
        self._patterns = patterns
        self._account = account
        self._since: list[int] = []
        self._taken: list[int] = []  # of each track the ordinal that comes next; kept up if it conflates
        self._joined = self.cursor = backlog.head
        self._catching_up = False
        self._skipping: list[Channel] = []  # still to be taken to the head, the last one first
        self.channels: list[Channel] = []

    @property
    def behind(self) -> bool:
        """Whether there is anything to take or to skip."""
        return self.cursor < self._backlog.head or bool(self._skipping)

    @property
    def skipping(self) -> bool:
        """Whether there are channels to skip before anything can be taken."""
        return bool(self._skipping)

    def may_read(self, channel: Channel) -> bool:
        """Tell whether the peer may know of the channel at all."""
        return self._account or not channel.account

    def offer(self, channel: Channel) -> None:
        """Take up the next channel of the session: live if it was asked for and may be read."""
        chosen = self._patterns.match(channel.name) and self.may_read(channel)
        if chosen:
            self.channels.append(channel)
        since = self._backlog.head if chosen else NEVER
        self._since += (since, since)
        self._taken += map(self._backlog.next, _tracks(channel))

    def replay(self, channel: Channel, seq: int) -> None:
        """Let a channel come from a kept seq on."""
        track = records_track(channel)
        self._since[track] = self._backlog.place(track, seq)
        self._taken[track] = seq
        self.cursor = min(self.cursor, self._since[track])
        self._catching_up = self.cursor < self._backlog.reach

    def overrun(self) -> bool:
        """Tell whether a wanted record got out of reach before it was taken."""
        if self.cursor >= self._backlog.reach:
            return False
        if self.cursor >= self._bound() or self.skipping:
            return False
        if any(map(self._lost, self.channels)):
            return True
        self._move(self._first_wanted())
        return self.cursor < self._bound()

    def jump(self) -> None:
        """Leave out all that was not taken; `skip`, until nothing is `skipping`, then says what that is."""
        self._move(self._backlog.head)
        self._skipping = self.channels[::-1]

    def skip(self) -> Skip:
        """Take the next channel to the head.

        What was not taken may be gone from the backlog, so what was taken has been counted.
        """
        channel, backlog = self._skipping.pop(), self._backlog
        tracks = _tracks(channel)
        first, first_state = (self._taken[track] for track in tracks)
        states = first_state < backlog.next(states_track(channel))
        self._joined = backlog.head
        for track in tracks:
            self._since[track] = backlog.head
            self._taken[track] = backlog.next(track)
        return Skip(channel, first, states)

    def take(self, most_bytes: int) -> bytes:
        """Move over the next stretch of the backlog and return what is wanted of it, possibly nothing."""
        start = self.cursor
        self._move(self._backlog.end_of(start, most_bytes))
        if self.conflates:
            self._count(start)
        if start >= self._joined and 2 * len(self.channels) == len(self._since):
            return self._backlog.join(start, self.cursor)
        return self._backlog.join_chosen(start, self.cursor, self._since)

    def piece(self, most_bytes: int) -> bytes | None:
        """Return what is wanted of all since everything was taken; None where that has to be taken in parts."""
        rest = self._backlog.rest(self.cursor, most_bytes)
        if rest is None or 2 * len(self.channels) == len(self._since):
            return rest
        return self._backlog.join_chosen(self.cursor, self._backlog.head, self._since)

    def advance(self) -> None:
        """Move to the head: a piece was taken."""
        start, self.cursor = self.cursor, self._backlog.head
        if self.conflates:
            self._count(start)

    def next_seqs(self) -> dict[str, int]:
        """Return of each channel the seq that comes next to this consumer."""
        return {channel.name: self._next(channel) for channel in self.channels}

    def lag_events(self) -> int:
        """Return the number of wanted records beyond the cursor; states are not counted.

        Beyond `LAG_CHANNELS` channels all records are counted, which is more.
        """
        if self.cursor >= self._backlog.head:
            return 0
        if len(self.channels) > LAG_CHANNELS:
            return self._backlog.head - self.cursor
        return sum(channel.next - self._next(channel) for channel in self.channels)

    def lag_bytes(self) -> int:
        """Return the bytes of all records beyond the cursor, those of other channels included."""
        return self._backlog.size(max(self.cursor, self._backlog.base), self._backlog.head)

    def _move(self, place: int) -> None:
        """Move the cursor on; once within reach, there is nothing to catch up with any more."""
        self.cursor = place
        if self._catching_up:
            self._catching_up = place < self._backlog.reach

    def _bound(self) -> int:
        """Return the place from which on all wanted records have to be taken."""
        return self._backlog.base if self._catching_up else self._backlog.reach

    def _first_wanted(self) -> int:
        """Return the place of the next record that is wanted; none of them is lost."""
        tracks = (track for channel in self.channels for track in _tracks(channel))
        places = (self._backlog.place_from(track, max(self.cursor, self._since[track])) for track in tracks)
        return min(places, default=self._backlog.head)

    def _count(self, start: int) -> None:
        """Count what was taken since `start`."""
        for place, track in enumerate(self._backlog.owners(start, self.cursor), start):
            if place >= self._since[track]:
                self._taken[track] += 1

    def _next(self, channel: Channel) -> int:
        track = records_track(channel)
        return self._backlog.count_at(track, max(self.cursor, self._since[track]))

    def _lost(self, channel: Channel) -> bool:
        return any(
            self._backlog.lost(track, max(self.cursor, self._since[track])) for track in _tracks(channel)
        )


class Refusal(NamedTuple):
    """Why a request as a whole is refused: the error's code and detail."""

    code: str
    detail: str


class Refused(NamedTuple):
    """Why one channel is not resumed."""

    reason: str
    oldest: int
    next: int


class Stream(NamedTuple):
    """A subscription and the records that come before anything of it."""

    subscription: Subscription
    preamble: bytes
    refusals: Counter[str]  # channels not resumed, by reason


class Shelf(NamedTuple):
    """What a subscription is made from: everything that is published.

    ``image_of`` returns a channel's book after all that was published, as a message; empty where there is none.
    ``account_streams`` returns those whose channels, once open, will be the account's.
    """

    session: str
    channels: Channels
    backlog: Backlog
    state_of: Callable[[Channel], bytes]
    image_of: Callable[[Channel], bytes] = lambda _: b""
    account_streams: Callable[[], frozenset[str]] = lambda: ACCOUNT_STREAMS


def subscribe(shelf: Shelf, request: Request, *, account: bool) -> Stream | Refusal:
    """Serve a request: a stream, or the reason why not."""
    patterns = Patterns(request.channels)
    conflates = request.slow == "conflate"
    subscription = Subscription(shelf.backlog, patterns, account=account, conflates=conflates)
    for name in patterns.exact:
        channel = shelf.channels.get(name)
        secret = split(name)[1] in shelf.account_streams() if channel is None else channel.account
        if secret and not account:
            return Refusal("forbidden", f"the channel {name} is not for this user")
        if channel is None:
            return Refusal("unknown_channel", f"there is no channel {name}")
    for channel in shelf.channels:
        subscription.offer(channel)
    refused = _resume(shelf, subscription, request.resume)
    unknown = _unknown(shelf, subscription, patterns, request.resume)
    reasons = Counter(why.reason for why in (*refused.values(), *unknown.values()))
    resumed = set(request.resume.seq) - refused.keys() if request.resume else set()
    fresh = {channel.name for channel in subscription.channels} - resumed if request.snapshot else set()
    return Stream(subscription, _preamble(shelf, subscription, refused, unknown, fresh), reasons)


def _resume(shelf: Shelf, subscription: Subscription, resume: Resume | None) -> dict[str, Refused]:
    """Let the named channels come from where the consumer left off; return those that can't."""
    refused = {}
    for channel in subscription.channels:
        if resume is None or channel.name not in resume.seq:
            continue
        last, oldest = resume.seq[channel.name], shelf.backlog.oldest(records_track(channel))
        reason = _refuse(shelf, resume, last, oldest, channel.next)
        if reason:
            refused[channel.name] = Refused(reason, oldest, channel.next)
        else:
            subscription.replay(channel, last + 1)
    return refused


def _refuse(shelf: Shelf, resume: Resume, last: int, oldest: int, next_seq: int) -> str:
    """Return why a resume after the seq `last` can't be served exactly, or nothing."""
    if resume.session != shelf.session:
        return "unknown_session"
    if last >= next_seq:
        return "future"
    if last + 1 < oldest:
        return "too_old"
    return ""


def _unknown(
    shelf: Shelf, subscription: Subscription, patterns: Patterns, resume: Resume | None
) -> dict[str, Refused]:
    """Return the refusals for channels that, as far as the peer may know, do not exist (yet)."""
    if resume is None:
        return {}
    known = {channel.name for channel in subscription.channels}
    refused = {}
    for name, last in resume.seq.items():
        if name not in known and patterns.match(name):
            reason = _refuse(shelf, resume, last, oldest=1, next_seq=1)
            if reason:
                refused[name] = Refused(reason, 1, 1)
    return refused


def conflate(shelf: Shelf, subscription: Subscription, most_bytes: int) -> bytes:
    """Take the next channels of a consumer that lost its place to the head; return what tells it so.

    At least one channel is taken, and another one as long as that is below ``most_bytes``.
    """
    told = b""
    while subscription.skipping and len(told) < most_bytes:
        channel, first, states = subscription.skip()
        if first < channel.next:
            told += records.skipped(channel.name, first, channel.next - 1)
            told += _image(shelf, channel, "conflated")
        if states or first < channel.next:
            told += shelf.state_of(channel)
    return told


def _image(shelf: Shelf, channel: Channel, reason: str) -> bytes:
    """Return the snapshot record of a channel's book for one consumer, empty where there is no book."""
    image = shelf.image_of(channel)
    return channel.snapshot_at(channel.next - 1, reason, image) if image else b""


def _preamble(
    shelf: Shelf,
    subscription: Subscription,
    refused: dict[str, Refused],
    unknown: dict[str, Refused],
    fresh: set[str],
) -> bytes:
    lines = [records.subscribed(subscription.next_seqs())]
    for channel in subscription.channels:
        lines.append(shelf.state_of(channel))
        if channel.name in refused:
            lines.append(records.refused(channel.name, *refused[channel.name]))
        if channel.name in fresh:
            lines.append(_image(shelf, channel, "refused" if channel.name in refused else "join"))
    lines += [records.refused(name, *why) for name, why in unknown.items()]
    return b"".join(lines)
