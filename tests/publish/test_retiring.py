"""Channels that are retired and opened again, against consumers that come, read, resume and leave at any moment.

The consumers are the client's own reader, which takes no record that is not the one that must come: whatever happens,
no hole is without a record that says so.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from feedhandler.client.core import Event, Heartbeat, Hello, Reader, Refused, Retired
from feedhandler.config import Bounds, Publish
from feedhandler.core.channels import Channel, Channels
from feedhandler.core.notes import Note
from feedhandler.publish import records
from feedhandler.publish.outlet import Outlet
from feedhandler.publish.request import Request, parse
from feedhandler.publish.server import Publisher
from feedhandler.publish.subscription import Refusal, Stream, Subscription, subscribe
from tests.publish.house import EVERYTHING, connected, serving

NAMES = ("m/a", "m/b", "n/a")
PADDING = "x" * 40_000


@dataclass(eq=False)
class Reading:
    """One consumer across its connections."""

    reader: Reader
    subscription: Subscription | None = None
    seen: dict[str, list[int]] = field(default_factory=dict)
    beaten: set[str] = field(default_factory=set)
    words: list[str] = field(default_factory=list)

    def flush(self) -> None:
        """Take nothing by itself."""


class House:
    """A publisher without its socket, and what was published."""

    def __init__(self, names: tuple[str, ...] = NAMES) -> None:
        self.notes: list[Note] = []
        self.publisher = Publisher(
            Publish(backlog_mib=1), Bounds(), session="session", clock=lambda: 7, notify=self.notes.append
        )
        self.outlet = Outlet(self.publisher)
        self.open_: dict[str, Channel] = {}
        self.counts: dict[str, int] = {}
        for name in names:
            self.open(name)

    def open(self, name: str) -> None:
        """Open a channel; one that goes on begins with a gap."""
        channel = self.outlet.channel(name, feed="f", account=False)
        assert channel is not None
        self.open_[name] = channel
        if channel.next > 1:
            self.publisher.gap(channel, "unproven", 1, 2)

    def retire(self, name: str) -> None:
        """Retire a channel."""
        self.outlet.retire(self.open_.pop(name), 5)

    def event(self, name: str) -> None:
        """Publish an event that says which of its channel's seqs it is."""
        channel = self.open_[name]
        payload = json.dumps({"n": channel.next, "x": PADDING}).encode()
        self.publisher.publish(channel, "a", 3, payload)

    # Consumers

    def connect(self, reading: Reading) -> None:
        """Connect a consumer and let it ask for everything."""
        self.leave(reading)
        reading.reader.restart()
        readable = (channel for channel in self.publisher._channels if not channel.retired)
        self.feed(reading, records.hello("session", readable))
        request = parse(reading.reader.request())
        assert isinstance(request, Request)
        stream = subscribe(self.publisher._shelf, request, account=False)
        assert isinstance(stream, Stream)
        reading.subscription = stream.subscription
        self.publisher._consumers[reading] = None  # type: ignore[index]
        self.feed(reading, stream.preamble)

    def leave(self, reading: Reading) -> None:
        """Disconnect a consumer."""
        reading.subscription = None
        self.publisher._consumers.pop(reading, None)  # type: ignore[call-overload]

    def feed(self, reading: Reading, data: bytes) -> None:
        """Let a consumer deal with what came; it raises where that is not what must come."""
        reading.reader.feed(data)
        while (received := reading.reader.next()) is not None:
            match received.record:
                case Event() as event:
                    assert json.loads(bytes(event.msg))["n"] == event.seq
                    reading.seen.setdefault(event.channel, []).append(event.seq)
                case Heartbeat() as heartbeat:
                    reading.beaten = set(heartbeat.next)
                case Retired():
                    reading.words.append("ended")
                case Refused() as refused:
                    reading.words.append(refused.reason)
                case Hello():
                    pass
        if reading.reader.torn:
            self.connect(reading)

    def read(self, reading: Reading, most_bytes: int) -> None:
        """Let a consumer take a stretch; one that is too slow is disconnected, and comes back."""
        stream = reading.subscription
        if stream is None:
            return
        if stream.overrun():
            self.connect(reading)
        elif stream.behind:
            self.feed(reading, stream.take(most_bytes))

    def beat(self, reading: Reading) -> None:
        """Send a heartbeat, true of the consumer's place."""
        stream = reading.subscription
        if stream is not None and not stream.overrun():
            self.feed(reading, records.heartbeat(7, stream.next_seqs()))

    def catch_up(self, reading: Reading) -> None:
        """Let a consumer read to the end."""
        if reading.subscription is None:
            self.connect(reading)
        while reading.subscription and reading.subscription.behind:
            self.read(reading, 100_000)
        self.beat(reading)


KINDS = ("event",) * 6 + ("read",) * 5 + ("retire", "open", "open", "beat", "connect", "leave", "new")
steps = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 7), st.integers(0, 3)), max_size=120)


@settings(max_examples=250)
@given(steps)
def test_no_hole_is_without_a_record(script: list[tuple[str, int, int]]) -> None:
    """(10) At the end everybody knows of every open channel what comes next, and heartbeats name no other one."""
    names = tuple(f"m/{letter}" for letter in "abcdefgh")
    house = House(names[:3])
    readings = [Reading(Reader())]
    for kind, number, size in script:
        name, reading = names[number], readings[number % len(readings)]
        if kind in {"event", "retire"} and name in house.open_:
            {"event": house.event, "retire": house.retire}[kind](name)
        elif kind == "open" and name not in house.open_:
            house.open(name)
        elif kind == "read":
            house.read(reading, (1, 50_000, 200_000, 2_000_000)[size])
        elif kind in {"beat", "connect", "leave"}:
            {"beat": house.beat, "connect": house.connect, "leave": house.leave}[kind](reading)
        elif kind == "new" and len(readings) < 3:
            readings.append(Reading(Reader()))
    for reading in readings:
        house.catch_up(reading)
        assert reading.beaten == set(house.open_)
        position = reading.reader.position()
        assert position is not None
        for name, channel in house.open_.items():
            assert position.seq[name] == channel.next - 1
        for seqs in reading.seen.values():
            assert seqs == sorted(set(seqs))


def test_what_the_account_has_said_in_a_channel_stays_its_own() -> None:
    """Opened again by a feed that everybody may read, a channel of the account gives nobody what it held before."""
    house = House()
    publisher = house.publisher
    secret = publisher.channel("o/other", feed="account", account=True)
    assert secret is not None
    publisher.publish(secret, "a", 3, b'{"secret":1}', "unknown")
    publisher.retire(secret, 5)
    again = publisher.channel("o/other", feed="f", account=False)
    assert again is not None
    publisher.publish(again, "a", 3, b'{"public":1}', "unknown")
    request = parse(
        b'{"op":"subscribe","channels":["o/*"],"resume":{"session":"session","seq":{"o/other":0}}}\n'
    )
    assert isinstance(request, Request)
    for account in (False, True):
        stream = subscribe(publisher._shelf, request, account=account)
        assert isinstance(stream, Stream)
        assert (b"secret" in stream.subscription.take(1_000_000)) == account


def test_a_number_is_given_again_and_a_name_is_remembered() -> None:
    """(8) A thousand channels that come and go take as many numbers as are kept; one that comes again goes on."""
    house = House(("m/a",))
    for number in range(1000):
        name = f"new/{number}"
        house.open(name)
        house.event(name)
        house.retire(name)
    assert len(house.publisher._channels) < 60
    assert len(house.publisher._backlog._tracks) == 2 * len(house.publisher._channels)
    reading = Reading(Reader())
    house.connect(reading)
    house.open("new/3")
    assert house.open_["new/3"].next == 3  # the event, and the gap
    house.event("new/3")
    house.catch_up(reading)
    assert reading.seen == {"new/3": [3]}
    assert reading.words == ["retired"]


def test_a_number_is_not_given_as_long_as_somebody_has_to_be_told() -> None:
    """A consumer that hangs keeps its channel's number: it will be told what it does not get."""
    house = House(("m/a",))
    hangs = Reading(Reader(slow="conflate"))
    house.connect(hangs)
    house.event("m/a")
    (channel,) = house.publisher._channels
    house.retire("m/a")
    house.open("m/b")
    for _ in range(100):
        house.event("m/b")
    house.open("m/c")
    assert channel in house.publisher._channels
    house.leave(hangs)
    house.open("m/d")
    assert channel not in house.publisher._channels


@pytest.mark.parametrize(
    ("session", "last", "answer"),
    [
        ("session", 1, None),
        ("session", 0, ("too_old", 2, 2)),
        ("session", 7, ("future", 2, 2)),
        ("other", 1, ("unknown_session", 2, 2)),
    ],
)
def test_a_resume_of_a_forgotten_channel_is_answered(
    session: str, last: int, answer: tuple[str, int, int] | None
) -> None:
    """(10) Whoever has all of it is told so, whoever lacks something too; nobody is promised a seq 1."""
    house = House(("m/a", "m/b"))
    house.event("m/a")
    house.retire("m/a")
    for _ in range(100):
        house.event("m/b")
    house.open("m/c")
    assert house.publisher._channels.get("m/a") is None
    wish = json.dumps(
        {"op": "subscribe", "channels": ["*"], "resume": {"session": session, "seq": {"m/a": last}}}
    )
    request = parse(wish.encode())
    assert isinstance(request, Request)
    stream = subscribe(house.publisher._shelf, request, account=False)
    assert isinstance(stream, Stream)
    told = [json.loads(line) for line in stream.preamble.splitlines()]
    refused = [(one["reason"], one["oldest"], one["next"]) for one in told if one["type"] == "refused"]
    assert refused == ([] if answer is None else [answer])
    assert told[0]["channels"].get("m/a") == ({"next": 2} if answer is None else None)


def test_an_exact_name_of_a_retired_channel() -> None:
    """Without a position it is `unknown_channel`; with one the consumer gets what it lacks, and the word of its end."""
    house = House(("m/a",))
    house.event("m/a")
    house.event("m/a")
    house.retire("m/a")
    request = Request("subscribe", ["m/a"])
    assert subscribe(house.publisher._shelf, request, account=False) == Refusal(
        "unknown_channel", "the channel m/a is retired"
    )
    reading = Reading(Reader(("m/a",)))
    wish = parse(b'{"op":"subscribe","channels":["m/a"],"resume":{"session":"session","seq":{"m/a":1}}}')
    assert isinstance(wish, Request)
    stream = subscribe(house.publisher._shelf, wish, account=False)
    assert isinstance(stream, Stream)
    told = [json.loads(line) for line in stream.preamble.splitlines()]
    assert told[0]["channels"] == {"m/a": {"next": 2}}
    assert told[1] == {"type": "retired", "channel": "m/a", "next": 3, "since": 5}
    assert [json.loads(line)["seq"] for line in stream.subscription.take(1_000_000).splitlines()] == [2]
    assert stream.subscription.next_seqs() == {}
    assert reading.words == []


def test_names_are_bounded() -> None:
    """A session numbers so many channels and no more; those that it has numbered may always come again."""
    channels = Channels(2)
    first = channels.open("m/a", feed="f", account=False)
    channels.open("m/b", feed="f", account=False)
    assert not channels.has_room("m/c")
    channels.retire(first, 1)
    assert not channels.has_room("m/c")
    assert channels.has_room("m/a")
    assert channels.open("m/a", feed="g", account=False) is first
    assert (first.feed, first.retired) == ("g", False)


async def test_a_consumer_is_told_in_the_stream(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Over a socket: `down`, `retired`, no more in heartbeats; opened again: where it goes on, then its records."""
    async with serving(tmp_path, autojump_clock) as house, connected(house, EVERYTHING) as peer:
        house.event(house.trades)
        house.publisher.state(house.trades, "down", 8)
        house.publisher.retire(house.trades, 9)
        house.publisher.flush()
        taken = await peer.take(3)
        assert [record["type"] for record in taken] == ["event", "state", "retired"]
        assert taken[2] == {"type": "retired", "channel": "m/publicTrades", "next": 2, "since": 9}
        beat: dict[str, Any] = {}
        while beat.get("type") != "heartbeat":
            beat = await peer.next()
        assert set(beat["next"]) == {"m/publicOrderBook"}
        async with connected(house, EVERYTHING) as other:
            assert set(other.confirmed["channels"]) == {"m/publicOrderBook"}
            channel = house.publisher.channel("m/publicTrades", feed="m", account=False)
            assert channel is house.trades
            house.event(house.trades)
            for one in (peer, other):
                told, event = await one.take(2)
                assert told == {
                    "type": "refused", "channel": "m/publicTrades", "reason": "retired", "oldest": 2, "next": 2,
                }  # fmt: skip
                assert event["seq"] == 2
