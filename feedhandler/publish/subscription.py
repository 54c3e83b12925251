"""A consumer's place in the backlog: which records come to it, and from where on.

A channel has two tracks in the backlog: its numbered records, and its states, which take no seq and are
never replayed. A subscription knows of each track the place from which its records are wanted (`NEVER` for
a channel that was not asked for) and one cursor. A live channel is wanted from the head at the time of the
request, a resumed one from the record after the last received; the cursor starts at the earliest of these,
so that a replay keeps its original order and passes into the live stream without a seam.

**No resume yields a hole without a record that says so**: what can't be served exactly is refused with its
reason, and the channel goes on live.

**A channel that may come can be asked for by name** before anything has happened there: it is chosen when it opens.

**What a peer may not read, it may not know of.** An exact name of an account's channel is `forbidden` whether that is
open or not, since its opening says that something happened; in all else such a channel is not there.

A subscription is `overrun` when the oldest record that it wants and has not taken is out of the backlog's
reach. Records that it does not want take it nowhere: the cursor passes over them. One that resumes from
beyond the reach is *catching up*: until it has been within it once, only what is gone from the backlog
counts, or a consumer that came back for its records would be overrun before it had the first of them. For a daemon
that follows nothing else ever counts.

A **retired** channel is offered to nobody, except to a consumer that resumes it: that one gets what it lacks. Whoever
has passed its end is a reader of it no longer; opened again it is offered anew.

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
        self,
        backlog: Backlog,
        patterns: Patterns,
        *,
        account: bool,
        conflates: bool = False,
        follows: bool = False,
    ) -> None:
        self.conflates = conflates
        self._follows = follows
        self.selection = sys.intern(patterns.selection if account else f"{patterns.selection} but account")
        """What channels are chosen: equal for all who have chosen the same."""
        self._backlog = backlog
        self._patterns = patterns
        self._account = account
        self._whole = True  # every channel that was offered since the beginning was chosen
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
        return self.may_know(account=channel.account)

    def may_know(self, *, account: bool) -> bool:
        """Tell whether the peer may know of a channel that is one of the account, or is not."""
        return self._account or not account

    def offer(self, channel: Channel) -> None:
        """Take up a channel that has just been opened: live if it was asked for and may be read."""
        number, known = records_track(channel), channel in self.channels
        if number == len(self._since):
            self._since += (NEVER, NEVER)
            self._taken += (0, 0)
        chosen = self._patterns.match(channel.name) and self.may_read(channel) and not channel.retired
        if chosen and known:
            return  # retired and opened again before this consumer came to its end
        if known:
            self.channels.remove(channel)
        if chosen:
            self.channels.append(channel)
        self._whole = self._whole and (chosen or channel.retired)
        since = self._backlog.head if chosen else NEVER
        self._since[number : number + 2] = since, since
        self._taken[number : number + 2] = map(self._backlog.next, _tracks(channel))

    def recall(self, channel: Channel) -> None:
        """Take up a retired channel, for what a consumer lacks of it, where it was asked for and may be read."""
        if not (self._patterns.match(channel.name) and self.may_read(channel)):
            return
        self.channels.append(channel)
        self._since[states_track(channel)] = self._backlog.head
        self._since[records_track(channel)] = self._backlog.head

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
        if start >= self._joined and self._whole:
            return self._backlog.join(start, self.cursor)
        return self._backlog.join_chosen(start, self.cursor, self._since)

    def piece(self, most_bytes: int) -> bytes | None:
        """Return what is wanted of all since everything was taken; None where that has to be taken in parts."""
        rest = self._backlog.rest(self.cursor, most_bytes)
        if rest is None or self._whole:
            return rest
        return self._backlog.join_chosen(self.cursor, self._backlog.head, self._since)

    def advance(self) -> None:
        """Move to the head: a piece was taken."""
        start, self.cursor = self.cursor, self._backlog.head
        if self.conflates:
            self._count(start)

    def next_seqs(self) -> dict[str, int]:
        """Return of each channel the seq that comes next to this consumer; of retired ones up to their end."""
        self._leave_ended()
        return {channel.name: self._next(channel) for channel in self.channels}

    def first_seqs(self) -> dict[str, int]:
        """Return of each channel the first seq that will come, the ended ones included."""
        return {channel.name: self._next(channel) for channel in self.channels}

    def holds(self, channel: Channel) -> bool:
        """Tell whether the channel is one of these, be it up to its end only."""
        return channel in self.channels

    def _leave_ended(self) -> None:
        """Be a reader no longer of what is retired and was read to its end."""
        if any(channel.retired for channel in self.channels):
            self.channels = [channel for channel in self.channels if not self._has_ended(channel)]

    def _has_ended(self, channel: Channel) -> bool:
        newest = self._backlog.newest
        return channel.retired and self.cursor > max(map(newest, _tracks(channel)))

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
        return self._backlog.base if self._catching_up or self._follows else self._backlog.reach

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
    ``account_streams`` returns those whose channels, once open, will be the account's. ``may_come`` tells of a name
    whether a channel of it may be opened some time.
    """

    session: str
    channels: Channels
    backlog: Backlog
    state_of: Callable[[Channel], bytes]
    image_of: Callable[[Channel], bytes] = lambda _: b""
    account_streams: Callable[[], frozenset[str]] = lambda: ACCOUNT_STREAMS
    may_come: Callable[[str], bool] = lambda _: False


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
            if shelf.may_come(name):
                continue
            return Refusal("unknown_channel", f"there is no channel {name}")
        if channel.retired and not _resumes(request, channel):
            return Refusal("unknown_channel", f"the channel {name} is retired")
    for channel in shelf.channels:
        subscription.offer(channel)
        if channel.retired and _resumes(request, channel):
            subscription.recall(channel)
    refused = _resume(shelf, subscription, request.resume)
    unknown, ended = _unknown(shelf, subscription, patterns, request.resume)
    reasons = Counter(why.reason for why in (refused | unknown).values())
    resumed = set(request.resume.seq) - refused.keys() if request.resume else set()
    fresh = {channel.name for channel in subscription.channels} - resumed if request.snapshot else set()
    first = subscription.first_seqs() | ended
    return Stream(subscription, _preamble(shelf, subscription, first, refused | unknown, fresh), reasons)


def follow(shelf: Shelf) -> Stream:
    """Serve a daemon that follows: all there is to read, from as far back as a consumer may be behind."""
    subscription = Subscription(shelf.backlog, Patterns(["*"]), account=True, follows=True)
    for channel in shelf.channels:
        subscription.offer(channel)
        if channel.retired:
            subscription.recall(channel)
    for channel in subscription.channels:
        first = shelf.backlog.count_at(records_track(channel), shelf.backlog.reach)
        subscription.replay(channel, first)
    lines = [records.forgotten(name, gone) for name, gone in shelf.channels.forgotten_names()]
    for channel, first in zip(subscription.channels, subscription.first_seqs().values(), strict=True):
        lines += [records.channel(channel, first), shelf.state_of(channel), _image(shelf, channel, "join")]
        lines += [records.interleaved(channel.name)] if channel.interleaved else []
    return Stream(subscription, b"".join(lines), Counter())


def _resumes(request: Request, channel: Channel) -> bool:
    return request.resume is not None and channel.name in request.resume.seq


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
) -> tuple[dict[str, Refused], dict[str, int]]:
    """Look at what is resumed of channels that, as far as the peer may know, do not exist (yet, or any more).

    Return the refusals, and the next seqs of those that were retired and of which the consumer lacks nothing.
    """
    refused: dict[str, Refused] = {}
    ended: dict[str, int] = {}
    known = {channel.name for channel in subscription.channels}
    for name, last in resume.seq.items() if resume else ():
        if name in known or not patterns.match(name):
            continue
        next_seq = _next_of_gone(shelf, subscription, name)
        reason = _refuse(shelf, resume, last, oldest=next_seq, next_seq=next_seq) if resume else ""
        if reason:
            refused[name] = Refused(reason, next_seq, next_seq)
        elif next_seq > 1:
            ended[name] = next_seq
    return refused, ended


def _next_of_gone(shelf: Shelf, subscription: Subscription, name: str) -> int:
    """Return the next seq of a channel that is forgotten; 1 for one that never was, as far as the peer may know."""
    gone = shelf.channels.forgotten(name)
    return gone.next if gone and subscription.may_know(account=gone.account) else 1


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
    first: dict[str, int],
    refused: dict[str, Refused],
    fresh: set[str],
) -> bytes:
    lines = [records.subscribed(first)]
    for channel in subscription.channels:
        lines.append(shelf.state_of(channel))
        if channel.name in refused:
            lines.append(records.refused(channel.name, *refused[channel.name]))
        if channel.name in fresh:
            lines.append(_image(shelf, channel, "refused" if channel.name in refused else "join"))
    known = {channel.name for channel in subscription.channels}
    lines += [records.refused(name, *why) for name, why in refused.items() if name not in known]
    return b"".join(lines)
