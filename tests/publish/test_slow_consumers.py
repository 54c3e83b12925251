"""Consumers that do not keep up, over real sockets: what they cost, what they get, and how they come back."""

import json
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from feedhandler.client.books import Books
from feedhandler.client.core import Event, Reader, Refused, Skipped, Snapshot, Subscribed
from feedhandler.client.trio_client import Client
from feedhandler.core.notes import Note
from feedhandler.publish.backlog import RECORD_COST_BYTES
from tests.publish.house import BOOK, EVERYTHING, TRADES, House, Peer, connected, serving

MIB = 1024 * 1024
PAYLOAD = b'"%b"' % (b"y" * 10_000)
SESSION = "session"


def dropped(house: House) -> Counter[str]:
    """Count how often each consumer was dropped."""
    return Counter(note.fields["consumer"] for note in house.notes if note.name == "consumer_dropped")


async def stay_stopped(house: House, request: dict[str, Any]) -> None:
    """Never read, and connect again as soon as that has led to the end."""
    name, lives = request["name"], 0
    while True:
        async with connected(house, **request):
            lives += 1
            while dropped(house)[name] < lives:
                await trio.sleep(0.1)


@asynccontextmanager
async def beside_stopped(house: House, *requests: dict[str, Any]) -> AsyncIterator[None]:
    """Let consumers that never read be there meanwhile, one for each request."""
    async with trio.open_nursery() as nursery:
        for request in requests:
            nursery.start_soon(stay_stopped, house, request)
        await trio.sleep(0.5)
        yield
        nursery.cancel_scope.cancel()


async def test_stopped_consumers_cost_neither_memory_nor_time(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """(8) Under load beside consumers that never read, a reader has each event at once, and memory stays flat."""
    requests: list[dict[str, Any]] = [
        {"channels": ["*"], "name": "all"},
        {"channels": ["*"], "name": "conflating", "slow": "conflate"},
        {"channels": [BOOK], "name": "quiet"},
    ]
    async with (
        serving(tmp_path, autojump_clock, backlog_mib=2) as house,
        connected(house, EVERYTHING) as reader,
        beside_stopped(house, *requests),
    ):
        warm = 0
        for seq in range(1, 2_001):
            house.event(house.trades, PAYLOAD)
            released = trio.current_time()
            assert (await reader.take(1))[0]["seq"] == seq
            assert trio.current_time() == released
            assert house.publisher.backlog_bytes <= 2 * MIB
            assert max(held(house)) <= 256 * 1024
            if seq % 20 == 0:
                await trio.sleep(0.2)  # for whoever was dropped to come back
            if seq == 500:
                tracemalloc.start()
            if seq == 1_000:
                warm = tracemalloc.get_traced_memory()[0]
        grown = tracemalloc.get_traced_memory()[0] - warm
        tracemalloc.stop()
        assert grown < MIB / 4
        assert dropped(house).keys() == {"all"}
        assert dropped(house)["all"] > 5
        assert {one.name for one in house.publisher.consumers()} == {"", "all", "conflating", "quiet"}


def held(house: House) -> list[int]:
    """Return what each consumer holds beside its place in the backlog."""
    return [len(consumer._chunk) + len(consumer._private) for consumer in house.publisher._consumers]


async def test_a_consumer_is_dropped_at_its_limit(tmp_path: Path, autojump_clock: MockClock) -> None:
    """(9) The limit is `consumer_mib`: what is further behind is dropped, while the backlog still holds it all."""
    async with (
        serving(tmp_path, autojump_clock, backlog_mib=8, consumer_mib=2, send_kib=4) as house,
        connected(house, EVERYTHING),
    ):
        lag = 0
        while not house.reasons("consumer_dropped"):
            (status,) = house.publisher.consumers()
            lag = status.lag_bytes + status.lag_events * RECORD_COST_BYTES
            house.event(house.trades, PAYLOAD)
        assert 2 * MIB - 2 * MIB / 256 - 2 * len(PAYLOAD) < lag <= 2 * MIB
        assert house.publisher._backlog.base == 0


async def test_nothing_follows_the_last_word(tmp_path: Path, autojump_clock: MockClock) -> None:
    """What a consumer says after it was dropped is not answered: the first last word stands."""
    async with (
        serving(tmp_path, autojump_clock, backlog_mib=1) as house,
        connected(house, EVERYTHING) as peer,
    ):
        while not house.reasons("consumer_dropped"):
            house.event(house.trades, PAYLOAD)
        await peer.say(EVERYTHING)
        await wait_all_tasks_blocked()
        *_, last = await peer.to_the_end()
        assert last == {"type": "bye", "reason": "slow"}
        assert house.reasons("request_refused") == []


async def test_a_dropped_consumer_goes_on_where_it_was(tmp_path: Path, autojump_clock: MockClock) -> None:
    """(9) Dropped again and again, it resumes from the backlog: no snapshot, no refusal, every record once."""
    async with serving(tmp_path, autojump_clock, backlog_mib=4) as house:
        house.publisher.offer_book(house.book, lambda: b'{"book":0}')
        position = {TRADES: 0, BOOK: 0}
        for life in range(5):
            resume = {"session": SESSION, "seq": position}
            async with connected(house, channels=["*"], snapshot=True, resume=resume) as peer:
                first = {name: {"next": seq + 1} for name, seq in position.items()}
                assert peer.confirmed["channels"] == first
                while position[TRADES] < house.trades.next - 1 or position[BOOK] < house.book.next - 1:
                    follow([await peer.next()], position)
                while len(house.reasons("consumer_dropped")) == life:
                    house.event(house.trades, PAYLOAD)
                    house.event(house.book)
                follow(await peer.to_the_end(), position)
                assert position[TRADES] < house.trades.next - 1
        assert house.reasons("resume_refused") == []


def follow(records: list[dict[str, Any]], position: dict[str, int]) -> None:
    """Check that there are only events, each the next one of its channel, up to a last word."""
    for record in records:
        if record["type"] == "bye":
            assert record["reason"] == "slow"
        elif record["type"] != "heartbeat":
            assert record["type"] == "event", record
            assert record["seq"] == position[record["channel"]] + 1
            position[record["channel"]] += 1


async def test_a_client_that_paused_goes_on_by_itself(tmp_path: Path, autojump_clock: MockClock) -> None:
    """(9) The client library is dropped while its program is busy, and brings every record all the same."""
    async with (
        serving(tmp_path, autojump_clock, backlog_mib=4) as house,
        Client(house.path, Reader(["*"])) as client,
    ):
        while not isinstance((await client.receive()).record, Subscribed):
            pass
        seqs: list[int] = []
        while not house.reasons("consumer_dropped"):
            house.event(house.trades, PAYLOAD)
        while len(seqs) < house.trades.next - 1:
            record = (await client.receive()).record
            assert not isinstance(record, Refused | Snapshot | Skipped)
            seqs += [record.seq] if isinstance(record, Event) else []
        assert seqs == list(range(1, house.trades.next))
        assert house.names().count("consumer_subscribed") == 2


async def test_who_comes_back_too_late_or_stops_again_is_told_so(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """(9, 10) It may catch up as long as its records are kept; then it is dropped again, and refused with a book."""
    async with serving(tmp_path, autojump_clock, backlog_mib=4) as house:
        house.publisher.offer_book(house.book, lambda: b'{"book":%d}' % (house.book.next - 1))
        for _ in range(380):
            house.event(house.book, PAYLOAD)
        oldest = house.publisher._backlog.oldest(2 * house.book.number)
        position = {BOOK: oldest}
        async with connected(house, channels=[BOOK], resume={"session": SESSION, "seq": position}) as peer:
            for _ in range(20):
                house.event(house.book, PAYLOAD)
            assert house.reasons("consumer_dropped") == []
            while not house.reasons("consumer_dropped"):
                house.event(house.book, PAYLOAD)
            follow(await peer.to_the_end(), position)
        for _ in range(400):
            house.event(house.book, PAYLOAD)
        resume = {"session": SESSION, "seq": position}
        async with connected(house, channels=[BOOK], snapshot=True, resume=resume) as peer:
            refused, image = await peer.take(2)
            assert (refused["type"], refused["reason"]) == ("refused", "too_old")
            assert (image["reason"], image["seq"]) == ("refused", house.book.next - 1)


class Exchanged:
    """A book as it changes: what the publisher's side holds, and what it was after each seq."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._levels: dict[tuple[str, str], str] = {}
        self._count = 0
        self.after: dict[int, dict[tuple[str, str], str]] = {}
        house.publisher.offer_book(house.book, self.image)
        house.publisher.snapshot(house.book, "start", self.image())
        self._remember()

    def image(self) -> bytes:
        """Return the book as a message."""
        return self._message("publicOrderBook", list(self._levels.items()))

    def change(self) -> None:
        """Publish a delta."""
        self._count += 1
        level = ("buy" if self._count % 2 else "sell", str(1_000 + self._count % 37))
        self._levels[level] = str(self._count % 5)
        self._house.event(
            self._house.book, self._message("publicOrderBookDelta", [(level, self._levels[level])])
        )
        if self._levels[level] == "0":
            del self._levels[level]
        self._remember()

    def _remember(self) -> None:
        self.after[self._house.book.next - 1] = dict(self._levels)

    @staticmethod
    def _message(kind: str, levels: list[tuple[tuple[str, str], str]]) -> bytes:
        rows = [
            {"orderType": side, "price": price, "quantity": quantity} for (side, price), quantity in levels
        ]
        return json.dumps({"resultType": kind, "market": "m", "data": {"orders": rows}}).encode()


class Reading:
    """A reader of limited speed, with its book, and how much of each channel it got and skipped."""

    def __init__(self, peer: Peer, book: Exchanged) -> None:
        self._peer = peer
        self._book = book
        self._reader = Reader(["*"], slow="conflate")
        self._books = Books()
        self.got: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.jumps = [0]  # what it got after each time that it was taken to the head

    async def read(self, most_bytes: int) -> int:
        """Read at most so much; return how much it was."""
        data = b""
        with trio.move_on_after(0.001):
            data = await self._peer.stream.receive_some(most_bytes)
        self._reader.feed(data)
        while received := self._reader.next():
            self._take(received.record)
            if request := self._reader.request():
                await self._peer.stream.send_all(request)
        return len(data)

    def _take(self, record: object) -> None:
        self._books.follow(record)  # type: ignore[arg-type]
        if isinstance(record, Snapshot) and record.reason == "conflated":
            self.jumps.append(0)
            assert self._books[BOOK].synchronised
        elif isinstance(record, Skipped):
            self.skipped[record.channel] += record.last - record.first + 1
        elif isinstance(record, Event):
            self.got[record.channel] += 1
            self.jumps[-1] += 1
        self._compare()

    def _compare(self) -> None:
        """Compare the book, where it says that it is right, with what it was after that seq."""
        book = self._books.get(BOOK)
        if book and book.synchronised:
            levels = {("buy", level.price): level.quantity for level in book.bids}
            levels |= {("sell", level.price): level.quantity for level in book.asks}
            assert levels == self._book.after[book.seq]


async def test_a_reader_at_nine_tenths_of_the_rate_makes_progress(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """(9) Taken to the head again and again, it has nine tenths of all, knows what it lacks, and its book is right."""
    async with (
        serving(tmp_path, autojump_clock, backlog_mib=1, send_kib=16) as house,
        connected(house) as peer,
    ):
        reading = Reading(peer, book := Exchanged(house))
        allowed = 0.0
        while not house.publisher.consumers() or not house.publisher.consumers()[0].subscribed:
            await reading.read(65_536)
        start = house.publisher._backlog._total
        for _ in range(1_500):
            before = house.publisher._backlog._total
            for _ in range(4):
                house.event(house.trades, PAYLOAD)
                book.change()
            allowed += 0.9 * (house.publisher._backlog._total - before)
            allowed -= await reading.read(int(allowed))
            await trio.sleep(0.01)
        produced = house.publisher._backlog._total - start
        assert reading.jumps[1:-1]
        assert len(reading.jumps) > 5
        assert min(reading.jumps[:-1]) > 400
        assert reading.got[TRADES] > 0.85 * (house.trades.next - 1)
        assert produced > 50 * MIB
        while house.publisher.consumers()[0].lag_events or await reading.read(65_536):
            await reading.read(65_536)
        for channel, own in ((house.trades, 0), (house.book, 1)):  # the first book was there before
            assert own + reading.got[channel.name] + reading.skipped[channel.name] == channel.next - 1
        assert house.names().count("consumer_conflated") == len(reading.jumps) - 1


async def test_a_conflating_consumer_of_many_books_holds_one(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """(8) One that never reads has one book pending, however many it is to get, and the next are not even made."""
    async with serving(tmp_path, autojump_clock, backlog_mib=1) as house:
        made: list[str] = []
        image = b'"%b"' % (b"z" * 300_000)

        def offer(name: str) -> None:
            house.publisher.offer_book(channels[name], lambda: made.append(name) or image)

        channels = {
            f"{number}/publicOrderBook": house.channel(f"{number}/publicOrderBook") for number in range(20)
        }
        for name in channels:
            offer(name)
        async with connected(house, channels=["*/publicOrderBook"], slow="conflate") as peer:
            for _ in range(20):
                for channel in channels.values():
                    house.event(channel, PAYLOAD)
                await wait_all_tasks_blocked()
            while len(made) < 1:
                await peer.next()
            for _ in range(20):
                for channel in channels.values():
                    house.event(channel, PAYLOAD)
                await trio.sleep(2)
            made_early = made.copy()
            assert len(made_early) == 1
            assert max(held(house)) < 320_000
            got: list[int] = []
            while len(got) < 20:
                record = await peer.next()
                got += [record["seq"]] if record.get("reason") == "conflated" else []
            assert got == [20] * len(made_early) + [40] * (20 - len(made_early))


@pytest.mark.parametrize(("backlog_mib", "told"), [(64, False), (17, False), (16, True), (1, True)])
async def test_a_limit_that_is_too_tight_is_noted_once(
    tmp_path: Path, autojump_clock: MockClock, backlog_mib: int, told: bool
) -> None:
    """(9) A start with a consumer's limit of no more than a snapshot and a second of peak output says so."""
    async with serving(tmp_path, autojump_clock, backlog_mib=backlog_mib) as house:
        limit = backlog_mib * MIB * 3 // 4
        fields = {"limit_bytes": limit, "snapshot_bytes": 8 * MIB, "peak_bytes": 4 * MIB}
        assert house.notes == ([Note("consumer_limit_tight", fields)] if told else [])
