"""What a line does, or waits for: the words that operators see."""

from typing import Final

PAUSED: Final = "paused"
"""A line rests until it is told to go on."""
TOKEN: Final = "token"  # noqa: S105 a word for what a line waits for
"""A line waits for a token."""
SLOT: Final = "slot"
"""A line waits for its turn to connect."""
CAPPED: Final = "capped"
"""A line waits for a place: the exchange allows no more connections."""
OPENING: Final = "opening"
UP: Final = "up"
BACKOFF: Final = "backoff"
