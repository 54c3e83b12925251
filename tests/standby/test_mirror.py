"""What the active daemon says, kept as if it had been published here; and what is no such thing."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedhandler.config import Bounds, Publish
from feedhandler.publish.outlet import Outlet
from feedhandler.publish.server import Publisher
from feedhandler.standby.mirror import Mirror
from feedhandler.standby.records import read

TRADES, BOOK = "m/publicTrades", "m/publicOrderBook"


def publisher() -> Publisher:
    """Return a publisher that nobody is served by."""
    return Publisher(
        Publish(socket=Path("/nowhere/s")),
        Bounds(),
        session="old",
        clock=lambda: 0,
        notify=lambda _: None,
    )


def mirrored(*lines: bytes) -> tuple[Publisher, Mirror]:
    """Return what comes of these lines."""
    made = publisher()
    made.begin("session")
    mirror = Mirror(made, Outlet(made), {}, lambda: 0.0)
    mirror.take(lines)
    return made, mirror


def line(**fields: Any) -> bytes:
    """Return a record."""
    return json.dumps(fields, separators=(",", ":")).encode()


def opened(name: str, *, first: int = 1, **more: Any) -> bytes:
    """Return the record that opens a channel."""
    values = {"feed": "m", "account": False, "first": first, "last": 5, "retired": False} | more
    return line(type="channel", channel=name, **values)


def event(name: str, seq: int) -> bytes:
    """Return an event."""
    return line(type="event", channel=name, seq=seq, line="a", recv=7, msg={"n": seq})


def test_the_numbering_goes_on() -> None:
    """Records are kept as they came, under their numbers; the next one here takes the next seq."""
    made, mirror = mirrored(opened(TRADES, first=3), event(TRADES, 3), event(TRADES, 4))
    channel = made.find(TRADES)
    assert channel is not None
    assert (channel.next, channel.last_ns, channel.feed) == (5, 7, "m")
    assert made.backlog_records == 2
    assert channel.event("b", 8, b"{}").startswith(
        b'{"type":"event","channel":"m/publicTrades","seq":5,"line":"b"'
    )
    assert mirror.wrong == ""


@pytest.mark.parametrize(
    "lines",
    [
        [b"nonsense"],
        [b'{"type":1}'],
        [b"\xff"],
        [event(TRADES, 1)],
        [opened(TRADES), event(TRADES, 2)],
        [opened(TRADES), event(TRADES, 1), event(TRADES, 1)],
        [opened(TRADES), opened(TRADES)],
        [opened(TRADES), line(type="gap", channel=TRADES, seq=9, reason="outage", since=1, until=2)],
        [opened(BOOK), line(type="snapshot", channel=BOOK, seq=9, reason="gap", msg={})],
    ],
)
def test_what_is_out_of_turn_is_not_relied_on(lines: list[bytes]) -> None:
    """A record that is none, or whose seq is not the next one, ends it; nothing behind it is taken."""
    made, mirror = mirrored(*lines, opened("n/publicTrades"))
    assert mirror.wrong
    assert made.find("n/publicTrades") is None


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40)))
def test_data_never_raises(lines: list[bytes]) -> None:
    """Whatever comes, the outcome is a mirror that says whether it can be relied on."""
    mirrored(opened(TRADES), *lines)


def test_more_channels_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session has a bound; what is beyond cannot be mirrored."""
    monkeypatch.setattr("feedhandler.core.channels.Channels.has_room", lambda *_: False)
    _, mirror = mirrored(opened(TRADES))
    assert mirror.wrong == "there are too many channels"


def test_what_consumers_are_told_alone_is_passed_over() -> None:
    """Heartbeats, and records that nobody knows yet, change nothing."""
    made, mirror = mirrored(
        opened(TRADES),
        line(type="heartbeat", now=1, next={TRADES: 1}),
        line(type="refused", channel=TRADES, reason="retired", oldest=1, next=1),
        line(type="news", channel=TRADES),
        event(TRADES, 1),
    )
    assert mirror.wrong == ""
    assert made.backlog_records == 1


def test_retired_channels_keep_their_numbers() -> None:
    """One that was retired before is whole when all is told; one that is retired now, and one forgotten, likewise."""
    told = [
        opened(TRADES, first=2, retired=True),
        line(type="retired", channel=TRADES, next=3, since=9),
        line(type="forgotten", channel="old/publicTrades", account=True, first=40, last=3),
        opened(BOOK),
        event(TRADES, 2),
    ]
    made, mirror = mirrored(*told)
    channel = made.find(TRADES)
    assert channel is not None
    assert not channel.retired
    mirror.take([line(type="level"), line(type="retired", channel=BOOK, next=1, since=4)])
    assert mirror.is_level
    book = made.find(BOOK)
    assert book is not None
    assert channel.retired
    assert book.retired
    again = made.channel("old/publicTrades", feed="m", account=False)
    assert again is not None
    assert again.next == 40
    mirror.take([opened(TRADES, first=3), event(TRADES, 3)])
    assert mirror.wrong == ""
    assert not channel.retired
    assert channel.next == 4


def test_the_last_word_is_kept() -> None:
    """Why the other daemon leaves is known afterwards."""
    _, mirror = mirrored(line(type="bye", reason="takeover"))
    assert mirror.said is not None
    assert mirror.said.reason == "takeover"


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_reading_never_raises(text: bytes) -> None:
    """A line is a record or it is none."""
    record = read(text)
    assert record is None or record.line == text + b"\n"


def test_what_was_retired_has_ended_also_without_the_last_word() -> None:
    """The active daemon may die between the last record that is kept and the word that all is told."""
    made, mirror = mirrored(
        opened(TRADES, first=2, retired=True),
        line(type="retired", channel=TRADES, next=3, since=9),
        event(TRADES, 2),
    )
    mirror.finish()
    channel = made.find(TRADES)
    assert channel is not None
    assert channel.retired
    assert channel.next == 3


class Ear:
    """A feed, and its heir, that writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[object, ...]] = []
        self.heir: Any = self

    def open(self, *_: object) -> None:
        """Hear of a channel."""

    def state(self, channel: str, word: str) -> None:
        """Hear of a state."""
        self.heard.append((channel, word))

    def interleaved(self) -> None:
        """Hear of the lines."""
        self.heard.append(("interleaved",))

    def events(self, channels: list[str], payloads: list[bytes], *_: object) -> None:
        """Hear of events."""
        self.heard.append((*channels, len(payloads)))


def test_what_lines_do_with_channels_is_told_to_the_feed() -> None:
    """(3) The feed hears at once that its lines interleave differently; of a channel that is not open, nobody does."""
    made, ear = publisher(), Ear()
    made.begin("session")
    mirror = Mirror(made, Outlet(made), {"m": ear}, lambda: 0.0)
    mirror.take([line(type="interleaved", channel=TRADES), opened(TRADES)])
    assert ear.heard == []
    mirror.take([line(type="interleaved", channel=TRADES)])
    assert ear.heard == [("interleaved",)]
    assert mirror.wrong == ""


def test_what_is_told_first_is_of_now_and_heard_behind_what_is_replayed() -> None:
    """(4) A channel in repair owes a gap still, whatever of it was published before; live, in the order of the wire."""
    made, ear = publisher(), Ear()
    made.begin("session")
    mirror = Mirror(made, Outlet(made), {"m": ear}, lambda: 0.0)
    syncing = line(type="state", channel=TRADES, state="syncing", since=1)
    mirror.take([opened(TRADES), syncing, event(TRADES, 1), event(TRADES, 2), line(type="level")])
    assert ear.heard == [(TRADES, TRADES, 2), (TRADES, "syncing")]
    mirror.take([event(TRADES, 3), line(type="state", channel=TRADES, state="live", since=2)])
    assert ear.heard[2:] == [(TRADES, 1), (TRADES, "live")]
