"""Notes: what happened, as inert values.

The pure core and the shell report through notes. A note has a name in past tense from the catalogue in
`feedhandler.observe` and fields of plain values; that catalogue turns it into one metric and at most one log line.
Notes carry no payloads and no secrets.
"""

from collections.abc import Callable
from typing import NamedTuple

Value = str | int | float | bool


class Note(NamedTuple):
    """One thing that happened: its name and its fields."""

    name: str
    fields: dict[str, Value]


Notify = Callable[[Note], None]
"""Takes a note, at once and without raising."""


def note(name: str, **fields: Value) -> Note:
    """Make a note.

    >>> note("line_lost", feed="BTC-USD", line="a", reason="reset")
    Note(name='line_lost', fields={'feed': 'BTC-USD', 'line': 'a', 'reason': 'reset'})
    """
    return Note(name, fields)
