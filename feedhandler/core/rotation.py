"""When a line is replaced although nothing is wrong with it.

A connection ends with its token, or at an age that the exchange allows, whether the exchange then closes it or not.
Each is replaced some time before: within a span before its end, at a moment drawn by lot, so that lines that began
together do not end together. The last part of the span is the room for attempts that fail, for lines that wait until
the others of their feed are done, and for a budget that is used up.

The lines of all feeds share one budget of attempts, and what is renewed with one token is all due in one span. So the
span is as long as that takes: a **round**, in which every line connects once, and a part of it more, so that the budget
has slots left for lines that are lost. It is at most `LONGEST_SHARE` of the life: with still more lines some of them
end before it is their turn.

Time is handed in (monotonic, seconds), and so is the lot, a number from zero to one.
"""

from typing import Final

AGE_SHARE: Final = 0.25
"""The last part of a connection's longest age is the least span in which it is replaced."""
REST_SHARE: Final = 2 / 3
"""The part of the least span over which no beginnings are spread."""
ROUND_ROOM: Final = 1.25
"""The beginnings are spread over so many rounds: a fifth of the attempts is left for others."""
LONGEST_SHARE: Final = 0.75
"""The longest span is this part of a life."""


def span_s(life_s: float, least_s: float, round_s: float) -> float:
    """Return how long before the end of what lives so long the lines that end with it begin to be replaced.

    >>> span_s(1800.0, 360.0, 6.0), span_s(1800.0, 360.0, 450.0), span_s(1800.0, 360.0, 9000.0)
    (360.0, 802.5, 1350.0)
    """
    needed_s = ROUND_ROOM * round_s + REST_SHARE * least_s
    return max(least_s, min(needed_s, LONGEST_SHARE * life_s))


def due_s(born_s: float, ends_s: float, span_s: float, least_s: float, lot: float) -> float:
    """Return when a connection that ends at ``ends_s`` is to be replaced, within ``span_s`` before that.

    >>> due_s(0.0, 1800.0, 360.0, 360.0, 0.5), due_s(0.0, 1800.0, 802.5, 360.0, 1.0)
    (1500.0, 1560.0)
    """
    start_s = max(born_s, ends_s - span_s)
    left_s = max(0.0, ends_s - start_s)
    return start_s + lot * max(left_s - REST_SHARE * least_s, (1 - REST_SHARE) * left_s)
