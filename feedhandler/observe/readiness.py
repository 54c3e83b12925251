"""Whether the stream can be relied on, and if not, why: one line for each reason, for people and for probes.

A feed is *covered* when one of its lines at least is connected and aligned. It is ready when it is covered and its
books are synchronised. The daemon is ready when all feeds are; who asks for ``any`` is content with one.

A **doubt** is told with the reasons and makes nothing unready: lines that are up stay up with a key that is not
accepted any more, until they have to be opened again; and one of two daemons serves as well without its standby.

A standby is ready when it could take over at once without a gap: it is told all that the active daemon publishes, the
active daemon would hand over to it, and of each feed a line of its own has found its place beside that. In a market
that is silent there is none to be found, and waiting shows no more: it is ready then, and a takeover has its gap there.
"""

from collections.abc import Iterator
from typing import Final

from feedhandler.exchange.token import BAD_KEY, LIMITED, REFUSED
from feedhandler.ingest.feed import Feed
from feedhandler.observe.pair import lacks
from feedhandler.observe.sight import Sight

REASONS: Final = 100
"""Reasons that are told; of further ones only their number."""

DOUBTS: Final = {
    BAD_KEY: "the exchange does not accept the key or its secret, or they cannot be read",
    REFUSED: "the exchange gives no token",
    LIMITED: "the exchange gives no token: it was asked for too many",
}
"""What a state of the token means for lines that are to be opened."""

NOT_FOLLOWED: Final = "the active daemon is not followed yet"
NOT_HEARD: Final = "the active daemon does not rely on this one yet"


def reasons_of(feed: Feed) -> list[str]:
    """Return why a feed is not ready; nothing where it is."""
    if feed.arbiter.follows:
        return [] if feed.in_step else [f"{feed.label}: no line of the standby is aligned"]
    reasons = []
    if not is_covered(feed):
        reasons.append(f"{feed.label}: no line is aligned")
    synchronised = feed.recovery.synchronised()
    return reasons + [
        f"{name}: the book is not synchronised" for name, there in synchronised.items() if not there
    ]


def is_covered(feed: Feed) -> bool:
    """Tell whether one line of a feed at least is aligned."""
    return any(line.connected and line.owing is not None for line in feed.arbiter.lines.values())


def general_reasons(sight: Sight) -> list[str]:
    """Return what concerns no feed in particular: nothing is ready with it."""
    if sight.draining():
        return ["the daemon is ending"]
    if not sight.liveness.made:
        return [f"the data path has not come round for {sight.liveness.idle_s:.0f} s"]
    return [reason for reason in sight.standby() or () if reason in {NOT_FOLLOWED, NOT_HEARD}]


def doubts(sight: Sight) -> list[str]:
    """Return what will keep lines from being opened, or the stream from being continued, whatever is ready now."""
    state = "" if sight.tokens is None else sight.tokens.state
    return [*([DOUBTS[state]] if state in DOUBTS else []), *lacks(sight)]


def missing(sight: Sight) -> list[str]:
    """Return why there are not all feeds yet."""
    if sight.pending():
        return ["the exchange has not told its markets yet"]
    return [] if sight.feeds else ["there is no feed"]


def bounded(reasons: list[str]) -> list[str]:
    """Return the first reasons, and how many more there are."""
    left = len(reasons) - REASONS
    return reasons if left <= 0 else [*reasons[:REASONS], f"and {left} more"]


def each(sight: Sight) -> Iterator[list[str]]:
    """Return the reasons of each feed, in pieces."""
    for feed in tuple(sight.feeds.values()):
        yield reasons_of(feed)
