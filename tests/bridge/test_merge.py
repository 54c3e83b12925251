"""Hosts, their links and one stream: every event once, in order, whoever writes."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from feedhandler.bridge import window as window_module
from feedhandler.bridge.entries import ID
from feedhandler.client import Event
from tests.bridge.model import STEP_S, WINDOW, Host, Server, event, timeless

TRADES, BOOK = "M/publicTrades", "M/publicOrderBook"


CHANNELS = (TRADES, "N/publicTrades")


def truth(random: Random, count: int) -> list[Event]:
    """Return events of two channels: times go on, and some contents without a time come again and again."""
    events = [event(channel, 0, 1) for channel in CHANNELS]
    ts = 1
    while len(events) < count:
        channel = random.choice([TRADES, *CHANNELS])
        ts += 1
        if random.random() < 0.7:
            events.append(event(channel, ts, ts))
        else:
            events += [timeless(channel, random.randint(0, 2), ts)] * random.choice([1, 1, 3])
    return events


class Fleet:
    """Hosts that read the same events, the first of them from the first event on."""

    def __init__(self, random: Random, hosts: int, *, events: int = 120, read_back: int = 1_000_000) -> None:
        self.random = random
        self.events = truth(random, events)
        self.server = Server()
        self.hosts = [
            Host(f"host{number}", self.server, random, read_back=read_back) for number in range(hosts)
        ]
        self.at = [0] + [-1] * (hosts - 1)
        self.now = 0.0

    def start_late(self, number: int) -> None:
        """Let a host begin somewhere, once the stream has begun."""
        if all(self.server.messages_of(channel) for channel in CHANNELS):
            self.at[number] = self.random.randint(0, max(self.at))
            self.hosts[number].link(self.now)

    def bring(self, number: int) -> None:
        """Let a host get its next event."""
        if 0 <= self.at[number] < len(self.events):
            self.hosts[number].bring(self.events[self.at[number]], self.now)
            self.at[number] += 1

    def step(self) -> None:
        """Let something happen to a host."""
        self.now += STEP_S
        number = self.random.randrange(len(self.hosts))
        host = self.hosts[number]
        if self.at[number] < 0:
            self.start_late(number)
            return
        if not host.linked and self.random.random() < 0.2:
            host.link(self.now)
        for act in self.random.choices((host.deliver, self.answer, self.read, self.bring), k=6):
            act() if act == host.deliver else act(number)
        host.tick(self.now)

    def answer(self, number: int) -> None:
        """Let an answer come to a host."""
        self.hosts[number].answer(self.now)

    def read(self, number: int) -> None:
        """Let a message of the stream come to a host."""
        self.hosts[number].read(self.now)

    def disturb(self) -> None:
        """Let something break."""
        if self.random.random() < 0.03:
            self.random.choice(self.hosts).unlink()
        self.server.full = self.random.random() < 0.05

    def finish(self) -> None:
        """Let all go well until nothing happens any more."""
        self.server.full = False
        for _ in range(1500):
            self.now += STEP_S
            for number, host in enumerate(self.hosts):
                if self.at[number] < 0:
                    self.start_late(number)
                    continue
                if not host.linked:
                    host.link(self.now)
                self.bring(number)
                for _ in range(3):
                    host.deliver()
                    host.answer(self.now)
                    host.read(self.now)
                host.tick(self.now)


def check(fleet: Fleet) -> None:
    """Compare the stream with the truth: every event once, in order or marked, seqs without a hole, no id twice."""
    for channel in CHANNELS:
        expected = [bytes(one.msg) for one in fleet.events if one.channel == channel]
        found = fleet.server.messages_of(channel)
        records = fleet.server.records(channel)
        assert [one["seq"] for one in records] == list(range(1, len(records) + 1))
        if any(
            one["type"] == "gap" for one in records
        ):  # nobody was there for long: marked, and still once each
            assert Counter(found) == Counter(expected)
        else:
            assert found == expected
            assert not any("class" in one for one in records)
    ids = [message.headers[ID] for message in fleet.server.messages]
    assert len(set(ids)) == len(ids)


@given(st.integers(0, 2**32), st.integers(1, 3))
@settings(deadline=None, max_examples=100)
def test_hosts_write_every_event_once(seed, hosts):
    """Whatever breaks, and whenever a host starts, the stream is the truth."""
    fleet = Fleet(Random(seed), hosts)
    for _ in range(400):
        fleet.step()
        fleet.disturb()
    fleet.finish()
    check(fleet)


@contextmanager
def counting(events: int, messages: int) -> Iterator[None]:
    """Let hosts remember so many records of a channel, and count so many messages of the stream."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(window_module, "WINDOW_EVENTS", events)
        patch.setattr(window_module, "COUNTED_MESSAGES", messages)
        yield


def ids_by_the_stream(server: Server, events: int, messages: int) -> list[str]:
    """Return the ids that the stream's contents alone demand: the newest number of the content and one, if it is near.

    Where the server would take it for a message that it has, it is the next number that is free.
    """
    found: list[str] = []
    channels: dict[str, list[tuple[str, int]]] = {}  # key and sequence of each record
    for sequence, message in enumerate(server.messages, 1):
        key = message.headers[ID].rpartition("-")[0]
        channel = channels.setdefault(message.channel, [])
        newest = max((at for one, at in channel[-events:] if one == key), default=0)
        near = newest and sequence - newest <= messages
        number = int(found[newest - 1].rpartition("-")[2]) + 1 if near else 1
        while f"{key}-{number}" in found[-WINDOW:]:
            number += 1
        found.append(f"{key}-{number}")
        channel.append((key, sequence))
    return found


@example(seed=279, hosts=2, counted=(12, 40))  # an answer that says "known" comes behind its message
@given(
    seed=st.integers(0, 2**32),
    hosts=st.integers(1, 3),
    counted=st.sampled_from([(12, 40), (40, 12), (12, 150), (150, 12)]),
)
@settings(deadline=None, max_examples=100)
def test_ids_are_the_same_whoever_writes_and_whenever_it_started(seed, hosts, counted):
    """An id says the content and its occurrence; a host that read but the end of the stream counts like the first."""
    events, messages = counted
    with counting(events, messages):
        fleet = Fleet(Random(seed), hosts, events=240, read_back=messages)
        for _ in range(600):
            fleet.step()
            fleet.disturb()
        fleet.finish()
    found = [message.headers[ID] for message in fleet.server.messages]
    assert found == ids_by_the_stream(fleet.server, events, messages)
