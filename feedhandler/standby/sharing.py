"""What two daemons at one socket take of the places that the exchange has: each knows the other's by its own file.

An active daemon has all lines of each feed, its standby as many as ``standby.lines`` says, and no more than the feed.
"""

from collections import Counter
from collections.abc import Mapping

from feedhandler.config import Wanted


def active_places(running: Mapping[str, Wanted]) -> Counter[str]:
    """Return the lines of an active daemon, by market."""
    places: Counter[str] = Counter()
    for wanted in running.values():
        places[wanted.market] += wanted.lines
    return places


def standby_places(running: Mapping[str, Wanted], lines: int) -> Counter[str]:
    """Return the lines of a standby that has at most so many of each feed, by market."""
    places: Counter[str] = Counter()
    for wanted in running.values():
        places[wanted.market] += min(wanted.lines, lines)
    return places
