"""What all feeds share: where their output goes, and what they are given to live with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from feedhandler.config import Recovery
from feedhandler.core.channels import Channel
from feedhandler.core.histogram import LATENCY_S, Histogram
from feedhandler.core.notes import Notify
from feedhandler.ingest.line import Means


class Outlet(Protocol):
    """Where a feed's output goes; nothing of it awaits or raises."""

    def channel(self, name: str, *, feed: str, account: bool) -> Channel | None:
        """Return a channel, opened for this feed unless it is open already; None where there are too many."""

    def give_up(self, channel: Channel, feed: str) -> bool:
        """Hear that a feed has no use for a channel any more; tell whether nobody has."""

    def retire(self, channel: Channel, since_ns: int) -> None:
        """Tell that nothing comes of a channel any more."""

    def publish(
        self, channel: Channel, line: str, recv_ns: int, payload: bytes, event_class: str = ""
    ) -> None:
        """Keep an event for the consumers, under its number."""

    def publish_run(
        self, channels: Sequence[Channel], line: str, recv_ns: int, payloads: Sequence[bytes]
    ) -> None:
        """Keep ordinary events for the consumers, each under the next number of its channel."""

    def gap(self, channel: Channel, reason: str, since_ns: int, until_ns: int) -> None:
        """Keep a gap, under its number."""

    def snapshot(self, channel: Channel, reason: str, message: bytes) -> None:
        """Keep a book, under its number."""

    def offer_book(self, channel: Channel, image: Callable[[], bytes | None]) -> None:
        """Hear how to get a channel's book after all that was published."""

    def state(self, channel: Channel, word: str, since_ns: int) -> None:
        """Tell a channel's state."""

    def interleaved(self, channel: Channel) -> None:
        """Hear that lines of a channel's feed interleave its channels differently."""

    def flush(self) -> None:
        """Send what was kept."""


@dataclass(frozen=True)
class Surroundings:
    """What all feeds share."""

    outlet: Outlet
    means: Means
    notify: Notify
    wall_ns: Callable[[], int]
    incident: Callable[[dict[str, object]], None]
    recovery: Recovery
    account_other: Callable[[], bool]
    """Whether messages of unknown type may be about the account: then only its readers get them."""
    latency: Histogram = field(default_factory=lambda: Histogram(LATENCY_S))
    """From the reading of an event's first byte to its sending (s). All records of one read are sent at once."""
