"""What the exchange has really sent, to hold against what a consumer got across gaps.

A consumer's book channel is right if each snapshot is the true book at some place of the true sequence, not before the
place reached so far, and each event behind it is the next one of that sequence. The place of a snapshot may be
ambiguous, since books recur; so all places that fit are followed, and one has to be left in the end. What came late
is missing in its place, and a snapshot follows it at once. No event comes more often than it was sent.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

Level = tuple[str, Decimal]
Row = tuple[str, str, str]


def changes(message: bytes | str) -> dict[Level, Decimal]:
    """Return the levels that a book message sets."""
    orders = json.loads(message)["data"]["orders"]
    return {(one["orderType"], Decimal(one["price"])): Decimal(one["quantity"]) for one in orders}


def rows(message: bytes | str) -> list[Row]:
    """Return the identities of a trade message's rows."""
    orders = json.loads(message)["data"]["orders"]
    return [(one["matchId"], one["executionType"], one["orderType"]) for one in orders]


class Reference:
    """The true book of one market at every place of its true sequence."""

    def __init__(self, opening: dict[Level, Decimal], truth: Sequence[bytes]) -> None:
        self.truth = truth
        self._digest = 0
        self._levels: dict[Level, Decimal] = {}
        self._places: defaultdict[int, list[int]] = defaultdict(list)
        self._apply(opening)
        self._places[self._digest].append(0)
        for place, payload in enumerate(truth, 1):
            self._apply(changes(payload))
            self._places[self._digest].append(place)

    def _apply(self, levels: dict[Level, Decimal]) -> None:
        for level, quantity in levels.items():
            self._digest ^= _hash(level, self._levels.pop(level, Decimal(0))) ^ _hash(level, quantity)
            if quantity:
                self._levels[level] = quantity

    def places(self, book: dict[Level, Decimal]) -> list[int]:
        """Return after how many events the true book was this one."""
        digest = 0
        for level, quantity in book.items():
            digest ^= _hash(level, quantity)
        return self._places.get(digest, [])


def _hash(level: Level, quantity: Decimal) -> int:
    return hash((level, quantity)) if quantity else 0


class Follower:
    """A consumer's book channel, record by record, against the reference."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._places: set[int] = set()
        self._cursor = 0
        self._late = False
        self._came_late: set[bytes] = set()
        self._left = Counter(reference.truth)
        self.shapes: list[str] = []
        """What came: `gap`, `snapshot`, and `events` once for each run of them."""

    def check(self, records: Iterable[dict[str, Any]]) -> "Follower":
        """Follow the records of one channel from its first on; assert that each is right."""
        for record in records:
            kind = record["type"]
            if kind == "gap":
                self._cursor, self._places = min(self._places), set()
            elif kind == "snapshot":
                found = self._reference.places(changes(json.dumps(record["msg"])))
                self._places = {place for place in found if place >= self._cursor}
                assert self._places, f"no true book is the snapshot at seq {record['seq']}"
                self._late = False
            elif kind == "event":
                self._check_event(record)
            if kind in {"gap", "snapshot"} or (kind == "event" and self.shapes[-1:] != ["events"]):
                self.shapes.append("events" if kind == "event" else kind)
        return self

    def _check_event(self, record: dict[str, Any]) -> None:
        assert self._places, f"an event between a gap and its snapshot, at seq {record['seq']}"
        assert not self._late or record.get("class") == "late", "a late event without its snapshot"
        message, truth = json.dumps(record["msg"], separators=(",", ":")).encode(), self._reference.truth
        self._left[message] -= 1
        assert self._left[message] >= 0, f"seq {record['seq']} comes more often than it was sent"
        if record.get("class") == "late":
            self._late = True
            self._came_late.add(message)
            return
        places = {p + 1 for p in self._over_late() if p < len(truth) and truth[p] == message}
        if not places:
            p = max(self._places)
            elsewhere = [place for place, event in enumerate(truth) if event == message]
            raise AssertionError(f"seq {record['seq']} is not event {p} but {elsewhere}; {self.shapes[-6:]}")
        self._places = places

    def _over_late(self) -> set[int]:
        """Return the places reached, and those behind events that have come late."""
        places, truth = set(self._places), self._reference.truth
        for place in sorted(self._places):
            while place < len(truth) and truth[place] in self._came_late:
                place += 1  # noqa: PLW2901 - walks on from there
                places.add(place)
        return places

    @property
    def at_end(self) -> bool:
        """Whether everything up to the end of the truth has come."""
        return len(self._reference.truth) in self._over_late()
