# ruff: noqa: ARG001 - the clock works by being asked for
"""A standby takes over: whatever the active daemon was doing, consumers go on as if nothing had happened."""

from collections import defaultdict
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock

from feedhandler.client.core import Event, Gap, Reader, Record, Refused
from feedhandler.client.position import Position
from feedhandler.client.trio_client import Client
from feedhandler.config import Feed, Observe, Standby
from feedhandler.control.requests import Done
from feedhandler.core.following import SILENCE_S
from feedhandler.daemon import Daemon
from feedhandler.observe.pair import READY, state_of
from feedhandler.observe.readiness import NOT_FOLLOWED, NOT_HEARD, general_reasons
from feedhandler.publish.precedence import PATIENCE_S
from feedhandler.standby.service import PAUSE_S, YIELD_S, _Lines
from tests.standby.couple import Couple, coupled
from tests.support.stage import BTC, ETH
from tests.support.web import Browser


async def replace(couple: Couple) -> None:
    """Kill the active daemon, and let the standby be it."""
    couple.kill(couple.stage.daemon)
    daemon = couple.promote()
    await couple.stage.talk_until(lambda: daemon.standby is None and daemon.publisher.consumer_count > 0)


async def test_a_killed_daemon_is_replaced_without_a_seam(tmp_path: Path, autojump_clock: MockClock) -> None:
    """(3) The consumer comes back to the same session and the next seq; nothing is lost, doubled or marked."""
    async with coupled(tmp_path) as couple:
        await couple.stage.talk(2)
        couple.stage.say(5)
        await replace(couple)
        await couple.stage.talk(2)
        await couple.arrived()
        couple.assert_exact()
        assert couple.survivor.outages_s[0] < 1
        assert [one["whole"] for one in couple.named("took_over")] == [True]
        await couple.stage.talk_until(couple.stage.all_up)
        assert len(couple.stage.daemon.feeds["BTC-USD"].lines) == 2


@pytest.mark.parametrize("lines", [1, 2])
async def test_one_takeover_after_another_at_any_event(
    tmp_path: Path, autojump_clock: MockClock, lines: int
) -> None:
    """(3) Twenty daemons die one after the other, each at another event, each with a successor that is ready."""
    async with coupled(tmp_path, lines=lines) as couple:
        for count in range(20):
            couple.stage.say(count % 5)
            for _ in range(count % 3):
                await trio.sleep(0.0005 * count)
                couple.stage.say()
            await replace(couple)
            await couple.start(standby=True)
            await couple.until_ready()
        await couple.arrived()
        couple.assert_exact()
        assert [one["whole"] for one in couple.named("took_over")] == [True] * 20
        assert max(couple.survivor.outages_s) < 1


async def test_the_client_library_goes_on_by_itself(tmp_path: Path, autojump_clock: MockClock) -> None:
    """(3) A program that uses it sees one stream through five takeovers, exact, with books that follow."""
    async with coupled(tmp_path) as couple, trio.open_nursery() as nursery:
        publisher = couple.stage.daemon.publisher
        start = Position(publisher.session, {channel.name: 0 for channel in publisher.channels()})
        got: defaultdict[str, list[bytes]] = defaultdict(list)
        others: list[Record] = []

        async def read() -> None:
            path = couple.stage.config.publish.socket
            async with Client(path, Reader(resume=start, snapshot=False), books=True) as client:
                async for record in (received.record async for received in client):
                    if isinstance(record, Event) and not record.event_class:
                        got[record.channel].append(bytes(record.msg))
                    elif isinstance(record, Event | Gap | Refused):
                        others.append(record)

        nursery.start_soon(read)
        for _ in range(5):
            await couple.stage.talk(0.5)
            couple.stage.say(3)
            await replace(couple)
            await couple.start(standby=True)
            await couple.until_ready()
        await couple.arrived()
        await trio.sleep(10)
        assert others == []
        assert got == couple.stage.truth
        nursery.cancel_scope.cancel()


async def test_account_streams_and_messages_that_nobody_described(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What is for few stays for few, and numbered, behind a takeover; unknown messages come out once."""
    feeds = (
        Feed(markets=(BTC,), lines=2),
        Feed(name="account", markets=("ALL",), streams=("orders", "trades"), lines=2),
    )
    async with coupled(tmp_path, feeds=feeds, account_rate=1000.0) as couple:
        await couple.stage.talk(2)
        await replace(couple)
        await couple.stage.talk(2)
        channels = {one.name: one for one in couple.stage.daemon.publisher.channels()}
        assert channels["ALL/trades"].account
        assert channels["ALL/trades"].next > 1
        assert not channels[f"{BTC}/publicTrades"].account
        assert [one for one in couple.survivor.marks if one["type"] != "event"] == []
        assert len(couple.survivor.sessions) == 1


async def test_books_are_right_behind_a_takeover(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A book that was inherited is the true one: who joins then gets it, and audits pass."""
    async with coupled(tmp_path) as couple:
        await couple.stage.talk(3)
        await replace(couple)
        couple.stage.reading.path = couple.stage.config.publish.socket
        await couple.stage.talk(3)
        await couple.stage.talk(80, every_s=0.5)
        audits = [one["result"] for one in couple.named("book_audited")]
        assert "passed" in audits
        assert set(audits) <= {"passed", "suspicious"}
        await couple.arrived()
        couple.assert_exact()


async def test_without_lines_of_its_own_there_is_a_gap(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A standby with no line is ready as soon as it follows; it goes on in the session, and says what is not proven."""
    async with coupled(tmp_path, standby_section=Standby(lines=0)) as couple:
        await couple.stage.talk(1)
        await replace(couple)
        await couple.stage.talk_until(couple.stage.all_up)
        await couple.stage.talk_until(couple.stage.all_synchronised)
        await couple.stage.talk(2)
        gaps = [one for one in couple.survivor.marks if one["type"] == "gap"]
        assert {one["channel"] for one in gaps} >= {"BTC-USD/publicOrderBook"}
        assert {one["reason"] for one in gaps} == {"outage"}
        assert len(couple.survivor.sessions) == 1


async def test_a_frozen_daemon_keeps_its_place(tmp_path: Path, autojump_clock: MockClock) -> None:
    """While the active daemon stands still nobody takes over; killed, it is replaced, and nothing is missing."""
    async with coupled(tmp_path) as couple:
        active = couple.stage.daemon
        standby = couple.standby
        assert standby is not None
        for feed in active.feeds.values():
            feed.received = lambda *_: None  # type: ignore[method-assign, assignment, misc]
            feed.tick = lambda: False  # type: ignore[method-assign]
        await couple.stage.talk(20)
        assert standby.standby is not None
        assert not standby.publisher.lock.held
        await replace(couple)
        await couple.arrived()
        couple.assert_exact()


async def test_a_handover_says_so(tmp_path: Path, autojump_clock: MockClock) -> None:
    """(3) The old daemon ends by itself with a `bye`, the new one has all, and there was no gap."""
    async with coupled(tmp_path) as couple:
        await couple.stage.talk(1)
        assert couple.stage.daemon.hand_over() == ""
        daemon = couple.promote()
        await couple.stage.talk_until(lambda: daemon.publisher.consumer_count > 0)
        await couple.stage.talk(2)
        await couple.arrived()
        couple.assert_exact()
        assert couple.survivor.byes == ["takeover"]
        assert couple.survivor.outages_s[0] < 1
        assert "daemon_stopped" in [one.name for _, one in couple.notes]


async def test_behind_a_handover_nothing_is_published(tmp_path: Path, autojump_clock: MockClock) -> None:
    """What a line has read just then is the standby's to publish: no number is given twice."""
    async with coupled(tmp_path) as couple:
        active = couple.stage.daemon
        feed = active.feeds[BTC]
        assert active.hand_over() == ""
        before = [channel.next for channel in active.publisher.channels()]
        feed.received("a", [b'{"resultType":"publicOrderBookDelta","data":{"ts":1,"orders":[]}}'])
        assert [channel.next for channel in active.publisher.channels()] == before
        couple.promote()
        await couple.stage.talk(1)
        await couple.arrived()
        couple.assert_exact()


async def test_without_a_standby_there_is_no_handover(tmp_path: Path, autojump_clock: MockClock) -> None:
    """It is refused, and the daemon stays; one that follows and is not ready is no help either."""
    async with coupled(tmp_path, standby=False) as couple:
        assert "no standby follows" in couple.stage.daemon.hand_over()
        await couple.start(standby=True)
        await couple.stage.until(lambda: couple.stage.daemon.publisher.precedence.is_first)
        assert "not ready yet" in couple.stage.daemon.hand_over()
        await couple.until_ready()
        await couple.arrived()
        couple.assert_exact()


async def test_who_did_not_follow_begins_another_session(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A standby that was given up, and whose active daemon dies before it follows again, claims no numbers."""
    async with coupled(tmp_path) as couple:
        couple.stage.daemon.publisher.precedence.lose()
        await couple.stage.talk(0.2)
        couple.kill(couple.stage.daemon)
        daemon = couple.promote()
        await couple.stage.talk_until(lambda: daemon.standby is None)
        await couple.stage.until(lambda: len(couple.survivor.sessions) == 2)
        assert [one["whole"] for one in couple.named("took_over")] == [False]
        assert daemon.publisher.session == couple.survivor.sessions[-1]


async def test_of_two_standbys_the_one_that_follows_takes_over(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The other one leaves it the lock, and follows it from then on; alone it would be the active one after a while."""
    async with coupled(tmp_path) as couple:
        first = couple.standby
        second = await couple.start(standby=True)
        await couple.stage.talk(0.5)
        assert second.standby is not None
        assert not second.standby.is_level
        couple.standby = first
        for daemon in (couple.stage.daemon, first):
            assert daemon is not None
            couple.kill(daemon)
            successor = first if daemon is not first else second
            assert successor is not None
            await couple.stage.talk_until(lambda successor=successor: successor.publisher.consumer_count > 0)
            if successor is first:
                assert second.standby is not None
                couple.stage.daemon = first
                await couple.until_ready()
        await couple.arrived()
        couple.assert_exact()


async def test_who_was_followed_by_nobody_alive_is_succeeded_after_a_while(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Where the follower died with the active daemon, the next one waits for it in vain, and begins another session."""
    async with coupled(tmp_path) as couple:
        assert couple.standby is not None
        couple.kill(couple.standby)
        couple.kill(couple.stage.daemon)
        Path(f"{couple.stage.config.publish.socket}.lock").write_text("0" * 32)
        began = trio.current_time()
        daemon = await couple.start(standby=True)
        await couple.stage.until(lambda: daemon.standby is None)
        assert YIELD_S <= trio.current_time() - began < YIELD_S + 1


async def test_who_was_given_up_follows_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A standby that was too slow is not ready for a while; then it is, and can take over."""
    async with coupled(tmp_path) as couple:
        couple.stage.daemon.publisher.precedence.lose()
        assert not couple.is_ready()
        await couple.until_ready()
        await couple.stage.talk(1)
        await replace(couple)
        await couple.arrived()
        couple.assert_exact()


class Reading:
    """Whether standbys read what they are sent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._goes_on = trio.Event()
        self._goes_on.set()
        some = _Lines.some

        async def waiting(lines: _Lines) -> list[bytes]:
            got = await some(lines)
            await self._goes_on.wait()
            return got

        monkeypatch.setattr(_Lines, "some", waiting)

    def stop(self) -> None:
        """Let nobody take what it has read, so that nothing more is read."""
        self._goes_on = trio.Event()

    def go_on(self) -> None:
        """Let it be taken."""
        self._goes_on.set()


async def fallen_behind(couple: Couple, reading: Reading) -> None:
    """Have a standby that does not read, and consumers that were not made to wait for it for long."""
    reading.stop()
    couple.stage.say(3000)
    await trio.sleep(2 * PATIENCE_S)
    await couple.arrived()
    assert sum(map(len, couple.survivor.sequences.values())) == couple.stage.exchange.broadcasts
    assert "not ready yet" in couple.stage.daemon.hand_over()
    assert couple.standby is not None
    assert not couple.is_ready()


async def test_a_standby_that_falls_behind_loses_its_place_and_not_its_connection(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It catches up from where it was, is ready again, and takes over without a seam."""
    reading = Reading(monkeypatch)
    async with coupled(tmp_path) as couple:
        await fallen_behind(couple, reading)
        reading.go_on()
        await couple.until_ready()
        assert len(couple.named("following_began")) == len(couple.named("following_behind")) == 1
        await couple.stage.talk(1)
        await replace(couple)
        await couple.stage.talk(1)
        await couple.arrived()
        couple.assert_exact()


async def test_a_daemon_that_ends_gives_a_standby_that_is_behind_everything(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told to end at that moment it says no takeover, and the session goes on all the same; killed it does not."""
    reading = Reading(monkeypatch)
    async with coupled(tmp_path) as couple:
        await fallen_behind(couple, reading)
        reading.go_on()
        couple.stage.daemon.stop()
        daemon = couple.promote()
        await couple.stage.talk_until(lambda: daemon.standby is None and daemon.publisher.consumer_count > 0)
        await couple.arrived()
        couple.assert_exact()
        await couple.start(standby=True)
        await couple.until_ready()
        await fallen_behind(couple, reading)
        couple.kill(couple.stage.daemon)
        daemon = couple.promote()
        reading.go_on()
        await couple.stage.until(lambda: len(couple.survivor.sessions) == 2)
        assert [one["whole"] for one in couple.named("took_over")] == [True, False]


async def test_a_standby_with_nobody_to_follow_is_the_active_one(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Two that are started as standbys agree: the first serves, the second follows."""
    async with coupled(tmp_path, standby=False) as couple:
        couple.kill(couple.stage.daemon)
        first = await couple.start(standby=True)
        couple.promote()
        await couple.stage.until(lambda: first.standby is None)
        await couple.start(standby=True)
        await couple.stage.until(couple.stage.all_connected)
        await couple.until_ready()
        assert [one for _, one in couple.notes if one.name == "took_over"] == []


async def test_an_outage_that_was_followed_is_nothing_new(tmp_path: Path, autojump_clock: MockClock) -> None:
    """(4, 5) The active daemon's gaps, backfilled trades and books are the standby's: books are right at every seq."""
    async with coupled(tmp_path) as couple:
        for _ in range(3):
            for line in [one.index for one in couple.stage.exchange.connections(BTC)]:
                couple.stage.strike("reset", line)
            await couple.stage.talk_until(couple.stage.all_up)
            await couple.stage.talk_until(couple.stage.all_synchronised)
            await couple.until_ready()
            await couple.stage.talk(1)
        await replace(couple)
        await couple.stage.talk(2)
        await couple.stage.talk_until(couple.stage.all_up)
        await couple.arrived()
        couple.stage.reading.records = couple.survivor.records
        assert couple.stage.follow_book(BTC)
        gaps = [one for one in couple.survivor.marks if one["type"] == "gap"]
        assert len([one for one in gaps if one["channel"].endswith("publicOrderBook")]) == 3
        assert [one["whole"] for one in couple.named("took_over")] == [True]


async def test_a_takeover_in_the_middle_of_a_repair(tmp_path: Path, autojump_clock: MockClock) -> None:
    """(4, 5) The active daemon dies while a book is in repair: it is right at every seq, and gets its snapshot."""
    async with coupled(tmp_path) as couple:
        for delay_s in (0.0, 0.05, 0.3, 1.0):
            for line in [one.index for one in couple.stage.exchange.connections(BTC)]:
                couple.stage.strike("reset", line)
            await couple.stage.talk(delay_s)
            await replace(couple)
            await couple.stage.talk_until(couple.stage.all_up)
            await couple.stage.talk_until(couple.stage.all_synchronised)
            await couple.start(standby=True)
            await couple.until_ready()
        await couple.arrived()
        couple.stage.reading.records = couple.survivor.records
        assert couple.stage.follow_book(BTC)
        assert len(couple.survivor.sessions) == 1


async def test_channels_that_went_while_it_followed(tmp_path: Path, autojump_clock: MockClock) -> None:
    """What the active daemon has given up by hand comes again behind a gap; the other market notices nothing."""
    async with coupled(tmp_path, markets=(BTC, ETH)) as couple:
        assert couple.stage.daemon.fleet.set_by_hand(ETH, None) == ""
        await couple.stage.talk(1)
        await couple.stage.until(lambda: ETH not in couple.stage.daemon.feeds)
        await replace(couple)
        await couple.stage.talk_until(couple.stage.all_up)
        await couple.stage.talk_until(couple.stage.all_synchronised)
        await couple.stage.talk(1)
        await couple.arrived()
        gaps = {one["channel"] for one in couple.survivor.marks if one["type"] == "gap"}
        assert gaps
        assert all(channel.startswith(ETH) for channel in gaps)
        truth = couple.stage.truth
        for stream in ("publicTrades", "publicOrderBook"):
            assert couple.survivor.sequences[f"{BTC}/{stream}"] == truth[f"{BTC}/{stream}"]


async def test_listed_markets(tmp_path: Path, autojump_clock: MockClock) -> None:
    """(3) A standby that follows the exchange's list is ready when it has that, and takes over every market."""
    feeds = (Feed(markets=("*",), lines=2),)
    async with coupled(tmp_path, markets=(BTC, ETH), feeds=feeds) as couple:
        await couple.stage.talk(1)
        await replace(couple)
        await couple.stage.talk(1)
        await couple.stage.talk_until(couple.stage.all_up)
        assert set(couple.stage.daemon.feeds) == {BTC, ETH}
        await couple.arrived()
        couple.assert_exact()


async def test_a_standby_says_why_it_is_not_ready(tmp_path: Path, autojump_clock: MockClock) -> None:
    """It calls itself ready when the active daemon knows that it is, and says before what is missing."""
    async with coupled(tmp_path, standby=False) as couple:
        standby = await couple.start(standby=True)
        sight = standby.observation.sight
        assert general_reasons(sight) == standby.standby_reasons() == [NOT_FOLLOWED]
        await couple.stage.until(lambda: couple.stage.daemon.publisher.precedence.is_first)
        await couple.stage.until(lambda: general_reasons(sight) == [])
        assert standby.standby_reasons() == [f"{BTC}: no line of the standby is aligned"]
        couple.stage.say(3)
        await couple.stage.until(lambda: standby.feeds[BTC].arbiter.window.head > 0)
        await couple.stage.talk_until(lambda: standby.standby_reasons() == [NOT_HEARD])
        assert general_reasons(sight) == [NOT_HEARD]
        await couple.stage.until(lambda: standby.standby_reasons() == [])
        assert couple.is_ready()
        assert general_reasons(sight) == []
        await replace(couple)
        assert standby.standby_reasons() is None


async def test_a_standby_takes_over_all_or_is_not_ready(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Where one of two feeds has no place, "any" is enough for the active daemon, and not for its standby.

    So a supervisor that asks both the same question ends the active one only when all of it would go on.
    """
    section = Standby(http="127.0.0.1:0")
    async with coupled(
        tmp_path, standby_section=section, markets=(BTC, ETH), observe=Observe(http="127.0.0.1:0")
    ) as couple:
        assert couple.standby is not None
        await couple.stage.talk_until(lambda: couple.standby.standby_reasons() == [])
        couple.stage.strike("outage", "all", duration_s=20)
        await couple.stage.talk(5)
        answers = {
            daemon: await _readyz(daemon, "?require=any") for daemon in (couple.stage.daemon, couple.standby)
        }
        assert answers == {
            couple.stage.daemon: (200, []),
            couple.standby: (503, [f"{BTC}: no line of the standby is aligned"]),
        }
        await couple.until_ready()
        assert await _readyz(couple.standby, "?require=any") == (200, [])


async def _readyz(daemon: Daemon, query: str) -> tuple[int, list[str]]:
    """Ask a daemon whether it is ready."""
    assert daemon.observation.server is not None
    reply = await Browser(daemon.observation.server.addresses[0]).get(f"/readyz{query}")
    return reply.status, reply.json()["reasons"]


async def test_a_configuration_that_changes_no_feed_changes_nothing_of_the_following(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """(3) A standby that reads the same feeds again stays ready: a takeover at that moment has no seam."""
    async with coupled(tmp_path) as couple:
        standby = couple.standby
        assert standby is not None
        limits = msgspec.structs.replace(couple.stage.config.limits, connections_per_minute=30)
        changed = msgspec.structs.replace(couple.stage.config, limits=limits)
        couple.stage.load = lambda: changed
        before = standby.feeds[BTC]
        assert isinstance(await standby.reload(), Done)
        assert standby.standby_reasons() == []
        couple.stage.say(3)
        await replace(couple)
        assert standby.feeds[BTC] is before
        assert len(couple.named("following_began")) == 1
        await couple.stage.talk(1)
        await couple.arrived()
        couple.assert_exact()


async def test_a_market_that_has_just_said_nothing_is_waited_for(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A standby whose line has connected a moment ago is not ready, unless nothing is said for a while."""
    async with coupled(tmp_path, standby=False) as couple:
        standby = await couple.start(standby=True)
        await couple.stage.until(
            lambda: bool(standby.feeds) and standby.feeds[BTC].arbiter.lines["a"].connected
        )
        connected = trio.current_time()
        assert not standby.feeds[BTC].in_step
        await couple.stage.until(couple.is_ready)
        assert SILENCE_S <= trio.current_time() - connected < SILENCE_S + 1


async def test_a_configuration_that_is_read_again_begins_it_anew(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A standby whose feeds are to be others is not ready from that moment on, follows anew at once, and is again."""
    async with coupled(tmp_path) as couple:
        standby = couple.standby
        assert standby is not None
        before, began = standby.feeds[BTC], trio.current_time()
        changed = msgspec.structs.replace(couple.stage.config, feeds=(Feed(markets=(BTC,), lines=1),))
        couple.stage.load = lambda: changed
        assert isinstance(await standby.reload(), Done)
        assert standby.standby_reasons() == [NOT_FOLLOWED]
        assert state_of(standby.observation.sight) != READY
        await couple.stage.talk_until(lambda: standby.feeds[BTC] is not before)
        assert trio.current_time() - began < PAUSE_S / 2
        assert len(standby.feeds[BTC].lines) == 1
        await couple.until_ready()
        await replace(couple)
        await couple.arrived()
        couple.assert_exact()
