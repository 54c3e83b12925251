"""Resume requests of every kind against a publisher that serves: never a hole without a record that says so.

A story is a list of acts: records of several channels are released, of a few bytes up to a good part of the backlog,
so that it is trimmed all the time; a consumer connects with a request that may ask for anything, reads a little or a
lot, and is gone again. It counts as the protocol tells it to, and every record that it gets is compared with what was
released. What it does not get must have been told it, and rightly so.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.publish.house import House, Peer, serving
from tests.support.clock import jumping_clock

NAMES = ("m/publicTrades", "m/publicOrderBook", "n/publicTrades", "n/publicOrderBook")
PATTERNS = ("*", "m/*", "*/publicTrades", NAMES[0], NAMES[1], NAMES[3])
NUMBERED = ("event", "gap", "snapshot")
FOR_ONE = ("join", "refused", "conflated")


class Released(NamedTuple):
    """So many records of a channel at once."""

    channel: int
    kind: str
    count: int
    size: int


class Asked(NamedTuple):
    """A new connection: for each channel how far from its true position the consumer asks."""

    patterns: list[str]
    session: str
    offsets: dict[str, int]
    snapshot: bool
    slow: str


class Read(NamedTuple):
    """So many records, as far as there are any."""

    count: int


Act = Released | Asked | Read


def flat(one: tuple[list[Released] | Asked | Read, ...]) -> Iterator[Act]:
    """Give the acts of a round one by one."""
    for act in one:
        yield from act if isinstance(act, list) else [act]


releases = st.lists(
    st.builds(
        Released,
        channel=st.integers(0, 3),
        kind=st.sampled_from(["event", "event", "event", "gap", "snapshot", "state"]),
        count=st.integers(1, 12),
        size=st.sampled_from([10, 2_000, 60_000, 60_000, 300_000]),
    ),
    max_size=4,
)
requests = st.builds(
    Asked,
    patterns=st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=2),
    session=st.sampled_from(["session"] * 5 + ["old"]),
    offsets=st.dictionaries(st.sampled_from(NAMES), st.sampled_from([0, 0, 0, 0, -1, -5, -30, 1, 4, 10**30])),
    snapshot=st.booleans(),
    slow=st.sampled_from(["disconnect", "conflate"]),
)
reads = st.builds(Read, st.integers(0, 300))
rounds = st.tuples(releases, requests, reads, releases, reads)
stories = st.lists(rounds, max_size=5).map(lambda found: [act for one in found for act in flat(one)])
LAST = Asked(["*"], "session", dict.fromkeys(NAMES, 0), snapshot=True, slow="conflate")


class World:
    """The publisher, and everything that it released, each with a number of its own."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.channels = {channel.name: channel for channel in (house.trades, house.book)}
        self.released: defaultdict[str, list[int]] = defaultdict(list)
        self._count = 0
        self._offer(house.book.name)

    def next(self, name: str) -> int:
        """Return the seq that a channel's next record takes."""
        return len(self.released[name]) + 1

    def release(self, act: Released) -> None:
        """Release records; the channel is opened with its first one."""
        name = NAMES[act.channel]
        if name not in self.channels:
            self.channels[name] = self.house.channel(name)
            self._offer(name)
        publisher, channel = self.house.publisher, self.channels[name]
        for _ in range(act.count):
            self._count += 1
            payload = b'{"n":%d,"x":"%b"}' % (self._count, b"x" * act.size)
            match act.kind:
                case "event":
                    publisher.publish(channel, "a", 7, payload)
                case "gap":
                    publisher.gap(channel, "outage", self._count, 0)
                case "snapshot":
                    publisher.snapshot(channel, "audit", payload)
                case "state":
                    publisher.state(channel, "quiet", 0)
                    continue
            self.released[name].append(self._count)
        publisher.flush()

    def _offer(self, name: str) -> None:
        if name.endswith("Book"):
            image = partial(self._image, name)
            self.house.publisher.offer_book(self.channels[name], image)

    def _image(self, name: str) -> bytes:
        return b'{"after":%d}' % (self.next(name) - 1)


class Consumer:
    """Counts what it gets and what it is told it will not get; its position outlives its connections."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.position: dict[str, int] = {}
        self.stream: trio.SocketStream | None = None

    async def ask(self, act: Asked) -> None:
        """Leave, connect, ask, and see to it that the request has been dealt with."""
        await self.leave()
        self.stream = await trio.open_unix_socket(str(self.world.house.path))
        self.peer = Peer(self.stream)
        self.act = act
        self.named = {name: max(0, self.position.get(name, 0) + by) for name, by in act.offsets.items()}
        self.owed: set[str] = set()  # channels that have to be refused before anything else comes
        self.next: dict[str, int] = {}
        self.newest = 0  # the number of the record that came last
        self.ended = False
        assert (await self.peer.next())["type"] == "hello"
        dealt_with = self.dealt_with()
        await self.peer.say(json.dumps(self.request()))
        while self.dealt_with() == dealt_with:
            await trio.sleep(0.01)
        self.present = {name: self.world.next(name) for name in self.world.channels}

    def request(self) -> dict[str, Any]:
        """Return the request."""
        return {
            "op": "subscribe",
            "channels": self.act.patterns,
            "resume": {"session": self.act.session, "seq": self.named},
            "snapshot": self.act.snapshot,
            "slow": self.act.slow,
        }

    def dealt_with(self) -> int:
        """Count the requests that have been served or refused."""
        names = self.world.house.names()
        return names.count("consumer_subscribed") + names.count("request_refused")

    async def leave(self) -> None:
        """Close the connection; the position is what an answer that was complete has led to."""
        if self.stream is None:
            return
        await self.stream.aclose()
        self.stream = None
        if not self.owed:
            self.position |= {name: seq - 1 for name, seq in self.next.items()}

    async def read(self, count: int) -> None:
        """Read so many records, as far as there are any."""
        if self.stream is None or self.ended:
            return
        with trio.move_on_after(0.5):
            for _ in range(count):
                record = await self.peer.next()
                if not record:
                    assert self.ended
                    return
                self.take(record)

    async def read_all(self) -> None:
        """Read until the answer is complete and nothing is missing."""
        with trio.fail_after(60):
            while self.owed or not self.next or self.missing():
                self.take(await self.peer.next())

    def missing(self) -> bool:
        """Tell whether there is more to come."""
        return any(seq != self.world.next(name) for name, seq in self.next.items())

    def chosen(self, name: str) -> bool:
        """Tell whether a pattern chooses a channel."""
        market, _, stream = name.rpartition("/")
        return not {"*", f"{market}/*", f"*/{stream}", name}.isdisjoint(self.act.patterns)

    def expected(self, name: str) -> int:
        """Return the seq that comes next; a channel that appears later begins with its first."""
        return self.next.get(name, 1)

    def take(self, record: dict[str, Any]) -> None:
        """Check a record, and count."""
        kind, name = record["type"], record.get("channel", "")
        if kind in ("error", "bye"):
            self.end(record)
        elif kind == "subscribed":
            self.begin(record["channels"])
        elif kind == "refused":
            self.refuse(record)
        elif kind == "heartbeat":
            assert not self.owed
            assert record["next"] == dict.fromkeys(record["next"], 1) | self.next
        elif kind == "skipped":
            assert self.act.slow == "conflate"
            assert not self.owed
            assert record["from"] == self.expected(name) <= record["to"] < self.world.next(name)
            self.next[name] = record["to"] + 1
        elif kind == "snapshot" and record["reason"] in FOR_ONE:
            assert record["seq"] == record["msg"]["after"] == self.expected(name) - 1
        elif kind in NUMBERED:
            self.count(record)

    def end(self, record: dict[str, Any]) -> None:
        """Expect nothing more, and for a good reason."""
        if record["type"] == "error":
            assert record["code"] == "unknown_channel"
            assert not set(NAMES).intersection(self.act.patterns) <= self.present.keys()
        else:
            assert record["reason"] == "slow"
            assert self.act.slow == "disconnect"
        self.ended = True

    def begin(self, channels: dict[str, dict[str, int]]) -> None:
        """Take the confirmed seqs; what is not as it was asked for has to be refused."""
        assert channels.keys() == {name for name in self.present if self.chosen(name)}
        self.next = {name: first["next"] for name, first in channels.items()}
        for name, seq in self.next.items():
            if name not in self.named:
                assert seq == self.present[name]
            elif self.act.session != "session" or seq != self.named[name] + 1:
                assert seq == self.present[name]
                self.owed.add(name)
        absent = {name for name in self.named if self.chosen(name) and name not in self.next}
        self.owed |= {name for name in absent if self.act.session != "session" or self.named[name]}

    def refuse(self, record: dict[str, Any]) -> None:
        """Check that a refusal was due, and its reason the true one."""
        name = record["channel"]
        self.owed.remove(name)
        assert 1 <= record["oldest"] <= record["next"] == self.expected(name)
        if self.act.session != "session":
            assert record["reason"] == "unknown_session"
        elif self.named[name] >= record["next"]:
            assert record["reason"] == "future"
        else:
            assert record["reason"] == "too_old"
            assert self.named[name] + 1 < record["oldest"]

    def count(self, record: dict[str, Any]) -> None:
        """Check that a record is the next one of its channel, the one that was released, and in its place."""
        assert not self.owed
        name = record["channel"]
        seq = self.expected(name)
        assert record["seq"] == seq
        number = record["since"] if record["type"] == "gap" else record["msg"]["n"]
        assert number == self.world.released[name][seq - 1]
        assert number > self.newest
        self.next[name] = seq + 1
        self.newest = number


async def tell(story: list[Act], folder: Path, clock: MockClock) -> tuple[dict[str, int], dict[str, int]]:
    """Play a story; the last connection asks for all that is missing, and gets it or is told.

    Return the seqs that the consumer has come to, and those that were released last.
    """
    async with serving(folder, clock, backlog_mib=1, send_kib=16) as house:
        world = World(house)
        consumer = Consumer(world)
        for act in story:
            match act:
                case Released():
                    world.release(act)
                    await wait_all_tasks_blocked()
                case Asked():
                    await consumer.ask(act)
                case Read():
                    await consumer.read(act.count)
        await consumer.ask(LAST)
        await consumer.read_all()
        await consumer.leave()
        return consumer.position, {name: world.next(name) - 1 for name in world.channels}


@given(story=stories)
@settings(max_examples=300)
def test_no_resume_yields_a_hole_that_no_record_tells(story: list[Act]) -> None:
    """(10) Any session, seqs and channels, with the backlog trimmed in between: the exact records, or it is told."""
    with TemporaryDirectory() as folder:
        clock = jumping_clock()
        reached, released = trio.run(tell, story, Path(folder), clock, clock=clock)
    assert reached == released
