"""Messages of unknown type: published once each as well as possible, outside the promise of exactness (rule R2).

They are no part of the merged sequence. Each line's copies are counted, and one is released when a line brings more
of the same bytes than were released before. The memory is bounded; the longest unseen bytes are forgotten first.
"""

from collections import OrderedDict


class Unknowns:
    """Occurrence counts of unknown messages of one feed."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._released: OrderedDict[bytes, int] = OrderedDict()
        self._seen: dict[str, dict[bytes, int]] = {}

    def __len__(self) -> int:
        return len(self._released)

    def admit(self, line: str, payload: bytes) -> bool:
        """Tell whether this copy is the first of its kind and count."""
        seen = self._seen.setdefault(line, {})
        count = seen[payload] = seen.get(payload, 0) + 1
        if count <= self._released.get(payload, 0):
            return False
        self._released[payload] = count
        self._released.move_to_end(payload)
        if len(self._released) > self._most:
            forgotten, _ = self._released.popitem(last=False)
            for counts in self._seen.values():
                counts.pop(forgotten, None)
        return True

    def forget(self, line: str) -> None:
        """Start counting anew for a line that has a new connection."""
        self._seen.pop(line, None)
