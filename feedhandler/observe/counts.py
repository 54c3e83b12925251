"""Notes as counters, and what is remembered of them for people.

Each note adds to the one family that the catalogue names for it. That is a look-up and an addition, and notes are
rare: what happens with every event is counted by whoever does it and read off at each scrape.

A family has at most `SERIES` series; what comes beyond is counted in one whose labels are all `OTHER`, so that nothing
from outside makes the metrics grow without end. What is counted of a feed, line or channel that is gone is forgotten
with it (`forget`).

For people, the last reason of each line, the last failover of each feed and the last `NEWS` stories that are warnings
or worse are kept with their time.
"""

from collections.abc import Callable, Container, Mapping
from typing import Final, NamedTuple

from feedhandler.core.notes import Note, Notify, Value
from feedhandler.observe.catalogue import LEVELS, Kind, kind_of
from feedhandler.observe.metrics import (
    CONFIG_RELOADS,
    COUNTERS,
    GAPS,
    KNOWN_VALUES,
    LINE_RECONNECTS,
    NOTES,
    Family,
)

SERIES: Final = 20_000
"""Series of one family; what comes beyond is counted together, as `OTHER`."""

OTHER: Final = "other"

NEWS: Final = 50
"""Stories that are kept for people; the oldest go."""

REASONS: Final = frozenset({"line_lost", "connect_failed"})
"""Notes that tell why a line is not connected."""

_FIELDS: Final = {"class": "kind"}
"""Fields whose name differs from that of their label."""


class Remembered(NamedTuple):
    """A note, when it came last (wall clock, ns), and how often."""

    at_ns: int
    note: Note
    times: int = 1


class Counts:
    """Counts notes; ``wall_ns`` labels what is remembered."""

    def __init__(self, wall_ns: Callable[[], int]) -> None:
        self._wall_ns = wall_ns
        self._values: dict[str, dict[tuple[str, ...], int]] = {family.name: {} for family in COUNTERS}
        self._news: dict[tuple[str, ...], Remembered] = {}  # the oldest first
        self.reasons: dict[tuple[str, str], Remembered] = {}
        self.failovers: dict[str, Remembered] = {}
        self.reload_succeeded = True

    def __call__(self, one: Note) -> None:
        """Count a note."""
        kind = kind_of(one.name)
        if kind.metric.name in self._values:
            self._add(kind.metric, _key(one, kind))
        if LEVELS[kind.level] >= LEVELS["warning"]:
            self._tell(one, kind.story(one))
        if one.name in REASONS:
            self.reasons[str(one.fields["feed"]), str(one.fields["line"])] = Remembered(self._wall_ns(), one)
        elif one.name == "failed_over":
            self.failovers[str(one.fields["feed"])] = Remembered(self._wall_ns(), one)
        elif kind.metric is CONFIG_RELOADS:
            self.reload_succeeded = kind.fixed["result"] == "applied"

    def _tell(self, one: Note, story: tuple[str, ...]) -> None:
        """Keep a note for people; of a story that goes on there is one, the newest."""
        before = self._news.pop(story, None)
        self._news[story] = Remembered(self._wall_ns(), one, 1 if before is None else before.times + 1)
        if len(self._news) > NEWS:
            del self._news[next(iter(self._news))]

    @property
    def news(self) -> list[Remembered]:
        """The last stories that are warnings or worse, the oldest first."""
        return list(self._news.values())

    def before(self, notify: Notify) -> Notify:
        """Return what counts a note and then hands it on."""

        def both(one: Note) -> None:
            self(one)
            notify(one)

        return both

    def _add(self, family: Family, key: tuple[str, ...]) -> None:
        values = self._values[family.name]
        if key not in values and len(values) >= SERIES:
            key = (OTHER,) * len(family.labels)
        values[key] = values.get(key, 0) + 1

    def of(self, family: Family) -> Mapping[tuple[str, ...], int]:
        """Return a family's counts by the values of its labels."""
        return self._values[family.name]

    def reconnects(self, feed: str, line: str) -> int:
        """Return how often a line's connection has ended."""
        counts = self._values[LINE_RECONNECTS.name].items()
        return sum(count for key, count in counts if key[:2] == (feed, line))

    def gaps(self, channel: str) -> int:
        """Return how many gaps of a channel were published."""
        return sum(self._values[GAPS.name].get((channel, reason), 0) for reason in KNOWN_VALUES[GAPS.name])

    def forget(
        self, feeds: Container[str], lines: Container[tuple[str, str]], channels: Container[str]
    ) -> None:
        """Forget what was counted of all other feeds, lines and channels."""
        self.reasons = {pair: one for pair, one in self.reasons.items() if pair in lines}
        self.failovers = {feed: one for feed, one in self.failovers.items() if feed in feeds}
        for family in COUNTERS:
            values, labels = self._values[family.name], family.labels
            if labels[:2] == ("feed", "line"):
                gone = [key for key in values if (key[0], key[1]) not in lines]
            elif labels[:1] in {("feed",), ("channel",)}:
                known = feeds if labels[0] == "feed" else channels
                gone = [key for key in values if key[0] not in known]
            else:
                continue
            for key in gone:
                if key[0] != OTHER:
                    del values[key]


def _key(one: Note, kind: Kind) -> tuple[str, ...]:
    """Return the values of the labels under which a note counts."""
    if kind.metric is NOTES:
        return (one.name,)
    fields, fixed = one.fields, kind.fixed
    return tuple(
        _text(fixed[label] if label in fixed else fields.get(_FIELDS.get(label, label), ""))
        for label in kind.metric.labels
    )


def _text(value: Value) -> str:
    """Return a field's value as a label has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
