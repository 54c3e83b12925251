"""What one side has brought and the other has not, in order, counted by occurrence.

`take` strikes out the first entry with a key. What stands before it is **passed**: the other side has gone on without.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator
from itertools import chain
from typing import Generic, NamedTuple, Protocol, TypeVar


class Keyed(Protocol):
    """What a ledger holds; it numbers it."""

    key: str
    index: int


Item = TypeVar("Item", bound=Keyed)


class Struck(NamedTuple, Generic[Item]):
    """What was struck out, and what the other side has thereby gone on without."""

    item: Item
    passed: list[Item]


class Ledger(Generic[Item]):
    """An ordered multiset of entries by their keys."""

    def __init__(self) -> None:
        self._by_key: dict[str, deque[Item]] = {}
        self._passed: OrderedDict[int, Item] = OrderedDict()
        self._ahead: OrderedDict[int, Item] = OrderedDict()  # its first is found at once
        self._next = 0

    def __len__(self) -> int:
        return len(self._passed) + len(self._ahead)

    def __contains__(self, key: str) -> bool:
        return key in self._by_key

    def __iter__(self) -> Iterator[Item]:
        return chain(self._passed.values(), self._ahead.values())

    @property
    def goes_on(self) -> bool:
        """Whether there is anything that was not passed."""
        return bool(self._ahead)

    @property
    def passed(self) -> int:
        """How many were passed."""
        return len(self._passed)

    def add(self, item: Item) -> None:
        """Put an entry at the end."""
        item.index = self._next
        self._next += 1
        self._ahead[item.index] = item
        self._by_key.setdefault(item.key, deque()).append(item)

    def take(self, key: str) -> Struck[Item] | None:
        """Strike out the first entry with a key, if there is one."""
        queue = self._by_key.get(key)
        if queue is None:
            return None
        item = queue[0]
        passed = self._pass(item.index) if item.index in self._ahead else []
        self.drop(item)
        return Struck(item, passed)

    def drop(self, item: Item) -> None:
        """Take an entry out, which says nothing of the others."""
        if self._passed.pop(item.index, None) is None:
            del self._ahead[item.index]
        queue = self._by_key[item.key]
        queue.remove(item)
        if not queue:
            del self._by_key[item.key]

    def pass_all(self) -> list[Item]:
        """Go past all that is here; return what was not passed before."""
        return self._pass(self._next)

    def _pass(self, index: int) -> list[Item]:
        passed = []
        while self._ahead:
            first = next(iter(self._ahead.values()))
            if first.index >= index:
                break
            passed.append(first)
            self._passed[first.index] = self._ahead.pop(first.index)
        return passed
