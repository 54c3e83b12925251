"""The comparison of what a consumer got with what the exchange sent. Pure.

Each channel is one sequence on both sides. The k-th copy of some bytes on one side is the k-th copy on the other, so
real repeats are told apart by their number. What has no partner is lost or duplicated; of the rest, what is not part
of the longest run that keeps the order is reordered.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple


class Verdict(NamedTuple):
    """What came of the comparison, in events."""

    events: int
    lost: int
    duplicated: int
    reordered: int

    @property
    def exact(self) -> bool:
        """Whether both sides are the same."""
        return not (self.lost or self.duplicated or self.reordered)

    def __str__(self) -> str:
        return (
            f"{self.events:,} events, {self.lost:,} lost, {self.duplicated:,} duplicated, "
            f"{self.reordered:,} reordered"
        )


def compare(sent: dict[str, list[bytes]], got: dict[str, list[bytes]]) -> Verdict:
    """Compare the sequences of every channel, each event standing for its bytes."""
    total = Verdict(0, 0, 0, 0)
    for channel in sent.keys() | got.keys():
        one = _compare(sent.get(channel, []), got.get(channel, []))
        total = Verdict(*map(sum, zip(total, one, strict=True)))
    return total


def _compare(sent: Sequence[bytes], got: Sequence[bytes]) -> Verdict:
    if sent == got:
        return Verdict(len(sent), 0, 0, 0)
    lost = (Counter(sent) - Counter(got)).total()
    duplicated = (Counter(got) - Counter(sent)).total()
    places: defaultdict[bytes, list[int]] = defaultdict(list)
    for place, event in enumerate(sent):
        places[event].append(place)
    taken: Counter[bytes] = Counter()
    order = []
    for event in got:
        copy = taken[event]
        taken[event] += 1
        if copy < len(places[event]):
            order.append(places[event][copy])
    return Verdict(len(sent), lost, duplicated, len(order) - _longest_run(order))


def _longest_run(order: Sequence[int]) -> int:
    """Return the length of the longest increasing subsequence."""
    tails: list[int] = []
    for value in order:
        place = bisect_left(tails, value)
        tails[place : place + 1] = [value]
    return len(tails)
