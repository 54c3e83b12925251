"""Two daemons at one socket: which of them this one is, and how the standby does.

    none ──it follows──▶ replaying ──it is served first──▶ following ──it says that it could take over──▶ ready

The standby is the daemon that follows this one, or this one itself; so both tell the same story, each as far as it
sees. Whether one is **expected** is known from the start: who was started with ``--standby`` is one of two, also when
it has become the active one. An active daemon that expects a standby that could take over, and has none, says so as a
doubt (`observe.readiness`): the stream is as it should be, and would not be continued.
"""

from itertools import chain
from typing import Final

from feedhandler.ingest.feed import Feed
from feedhandler.observe.sight import Sight
from feedhandler.observe.status import ACTIVE, FOLLOWING, NONE, READY, REPLAYING, STANDBY, PairStatus
from feedhandler.standby.service import Standby

LACKS: Final = {
    NONE: "no standby follows this daemon",
    REPLAYING: "the standby is not told yet what comes: it catches up",
    FOLLOWING: "the standby is not ready to take over: it says why itself",
}
"""What a state of the standby means for the active daemon."""


def pair_of(sight: Sight) -> PairStatus:
    """Return how the pair does."""
    course, publisher = sight.course(), sight.publisher
    if course is not None:
        return _as_standby(sight, course)
    state, follower = state_of(sight), publisher.precedence.follower
    told = None if follower is None else next((one for one in publisher.connected() if one is follower), None)
    status = None if told is None else told.status()
    return PairStatus(
        role=ACTIVE,
        expected=sight.paired,
        standby=state,
        reasons=[LACKS[state]] if state in LACKS and (sight.paired or status is not None) else [],
        other_pid=None if status is None else status.pid,
        behind_events=0 if status is None else status.lag_events,
        heard_s=None,
        lock=publisher.lock.name,
        holds_lock=publisher.lock.held,
    )


def _as_standby(sight: Sight, course: Standby) -> PairStatus:
    return PairStatus(
        role=STANDBY,
        expected=True,
        standby=state_of(sight),
        reasons=sight.standby() or [],
        other_pid=course.active_pid,
        behind_events=max(chain((0,), map(_aside, tuple(sight.feeds.values())))),
        heard_s=course.heard_s,
        lock=sight.publisher.lock.name,
        holds_lock=sight.publisher.lock.held,
    )


def role_of(sight: Sight) -> str:
    """Return which of two this daemon is."""
    return ACTIVE if sight.course() is None else STANDBY


def state_of(sight: Sight) -> str:
    """Return the state of the standby: this daemon, or the one that follows it."""
    course, precedence = sight.course(), sight.publisher.precedence
    if course is None:
        connected, level, ready = precedence.follower is not None, precedence.is_first, precedence.ready
    else:
        connected, level = course.active_pid is not None, course.is_level
        ready = level and not sight.standby()
    return READY if ready else FOLLOWING if level else REPLAYING if connected else NONE


def lacks(sight: Sight) -> list[str]:
    """Return what an active daemon that was started as one of two lacks of a standby that could take over."""
    expected = sight.paired and role_of(sight) == ACTIVE
    state = state_of(sight)
    return [LACKS[state]] if expected and state in LACKS else []


def in_words(sight: Sight) -> str:
    """Return how the standby of an active daemon does; empty where there is none, and none is missed."""
    state = state_of(sight)
    if role_of(sight) != ACTIVE or (state == NONE and not sight.paired):
        return ""
    return "NO STANDBY" if state == NONE else "standby ready" if state == READY else "standby not ready"


def _aside(feed: Feed) -> int:
    """Return how many events a feed's line has brought that the active daemon has not published."""
    return max((len(line.aside) for line in feed.arbiter.lines.values()), default=0)
