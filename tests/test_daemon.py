# ruff: noqa: ARG001 - the clock works by being asked for
"""The daemon as a whole, over loopback, with the clock under control: lines die and consumers get it all."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import cycle, groupby
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from feedhandler import daemon as daemon_module
from feedhandler.config import Bounds, Config, Exchange, Feed, Health, Limits, Log, Observe, Publish
from feedhandler.core.notes import Note
from feedhandler.errors import ConfigError, SocketInUse
from feedhandler.observe import incidents
from feedhandler.observe.logs import QUEUE_LINES, Logs
from feedhandler.publish.server import Publisher
from feedhandler.simulator import traffic
from feedhandler.simulator.settings import Behaviour
from tests.support.references import rows
from tests.support.stage import BTC, ETH, raw_consumer, staged

BOOK, TRADES = f"{BTC}/publicOrderBook", f"{BTC}/publicTrades"
LOST = ("line_lost", "connect_failed")
KEYS = {"FEEDHANDLER_API_KEY": "key-of-a-test", "FEEDHANDLER_API_SECRET": "secret-of-a-test"}


# One stream out of many lines


@pytest.mark.parametrize("lines", [1, 2, 3, 5])
async def test_many_lines_become_one_exact_stream(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, lines: int
) -> None:
    """(7) However many lines there are and however often the exchange repeats itself: each event once, in order."""
    async with staged(tmp_path, lines=lines, markets=(BTC, ETH)) as stage:
        monkeypatch.setattr(traffic, "REPEAT_SHARE", 0.2)
        await stage.talk(5)
        await stage.arrived()
        stage.assert_exact()
        assert stage.named(*LOST) == []
        assert {event["line"] for event in stage.reading.of("event")} <= set("abcde"[:lines])


async def test_any_line_may_die_at_any_event(tmp_path: Path, autojump_clock: MockClock) -> None:
    """(3) Lines die at event after event, by a clean close, a reset or half a frame: nothing is lost."""
    kills: Iterator[tuple[Any, int]] = zip(
        cycle(("close", "reset", "half_frame")), cycle((0, 1)), strict=False
    )
    async with staged(tmp_path) as stage:
        for count in range(60):
            stage.say(count % 4)
            kind, line = next(kills)
            stage.strike(kind, line)
            stage.say(1 + count % 3)
            await stage.until(lambda count=count: len(stage.named("line_lost")) > count)
            await stage.talk_until(stage.all_up)
        await stage.arrived()
        stage.assert_exact()
        assert {fields["reason"] for fields in stage.named("line_lost")} == {"closed", "reset"}


async def test_lines_that_trail_or_interleave_do_no_harm(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A line that is late and one that mixes the streams differently: the output of each channel is exact."""
    async with staged(tmp_path, lines=3) as stage:
        stage.strike("delay", 0, delay_s=0.3, duration_s=5)
        stage.strike("interleave", 1, depth=4, duration_s=5)
        await stage.talk(10)
        await stage.arrived()
        stage.assert_exact()


async def test_what_one_line_drops_another_brings(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Events that one line never brings come from the others; it is told, and costs nothing."""
    async with staged(tmp_path, lines=3) as stage:
        stage.strike("drop", 2, count=3)
        await stage.talk(10)
        await stage.arrived()
        assert {name: sorted(events) for name, events in stage.reading.sequences.items()} == {
            name: sorted(events) for name, events in stage.truth.items()
        }
        assert stage.reading.of("gap") == []
        assert len(stage.named("event_missed")) == 3
        assert stage.named(*LOST) == []


async def test_a_line_that_disagrees_is_set_aside(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Too many missed events: the line is quarantined for its time, an incident file tells why, nothing is lost."""
    health = Health(quarantine_divergences=3, quarantine_s=20.0)
    observe = Observe(http="", incidents=tmp_path / "incidents")
    async with staged(tmp_path, lines=3, health=health, observe=observe) as stage:
        stage.strike("drop", 2, count=6)
        await stage.talk_until(lambda: bool(stage.named("line_lost")))
        (lost,) = stage.named("line_lost")
        assert lost["reason"] == "quarantined"
        await stage.until(lambda: bool(stage.named("incident_written")))
        (file,) = (tmp_path / "incidents").iterdir()
        incident = json.loads(file.read_text())
        assert incident["line"] == lost["line"]
        assert any("publicOrderBookDelta" in event["payload"] for event in incident["neighbourhood"])
        await stage.talk_until(stage.all_up)
        assert stage.notes[-1][0] - stage.when("line_lost") >= 20
        assert {name: len(events) for name, events in stage.reading.sequences.items()} == {
            name: len(events) for name, events in stage.truth.items()
        }


async def test_feeds_of_one_market_share_what_is_unknown(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Two feeds on one market keep their channels apart; messages of unknown type go to one that both may use."""
    feeds = (
        Feed(name="t", markets=(BTC,), streams=("publicTrades",)),
        Feed(name="b", markets=(BTC,), streams=("publicOrderBook",)),
    )
    async with staged(tmp_path, feeds=feeds) as stage:
        await stage.talk(2)
        stage.exchange.broadcast(BTC, "other", b'{"resultType":"marketStatus","data":{}}')
        await stage.talk(2)
        await trio.sleep(1)
        got, truth = stage.reading.sequences, stage.truth
        assert [got[name] == truth[name] for name in (BOOK, TRADES)] == [True, True]
        assert got[f"{BTC}/other"] == 2 * truth[f"{BTC}/other"]
        assert stage.named("foreign_event") == []


async def test_a_dead_feed_costs_no_other_feed(tmp_path: Path, autojump_clock: MockClock) -> None:
    """One market's lines all die and are refused for a while; the other market's stream does not notice."""
    async with staged(tmp_path, markets=(BTC, ETH)) as stage:
        stage.strike("outage", "all", duration_s=5)
        await stage.talk(8)
        await stage.talk_until(stage.all_up)
        await stage.until(lambda: len(stage.reading.of("gap")) == 2)
        await stage.talk(0.1)
        eth = {name: events for name, events in stage.truth.items() if name.startswith(ETH)}
        assert {name: stage.reading.sequences[name] for name in eth} == eth
        assert {gap["channel"] for gap in stage.reading.of("gap")} == {BOOK, TRADES}
        assert {fields["feed"] for fields in stage.named(*LOST)} == {BTC}


# Silence


async def test_a_mute_line_is_found_out_and_replaced(tmp_path: Path, autojump_clock: MockClock) -> None:
    """(1) Mute but answering pings: suspect within a second of the peers' progress, replaced, nothing lost."""
    async with staged(tmp_path, lines=3) as stage:
        await stage.talk(10)
        stage.strike("mute", 1)
        muted_s = trio.current_time()
        await stage.talk(10)
        suspect_s = stage.when("line_state_changed", state="suspect")
        replaced_s = stage.when("line_restarted", reason="stalled")
        assert suspect_s - muted_s <= 1 + 0.02 * 3 + 0.2
        assert replaced_s - suspect_s <= 4
        (lost,) = stage.named("line_lost")
        assert lost["reason"] == "stalled"
        await stage.talk_until(stage.all_up)
        await stage.arrived()
        stage.assert_exact()


async def test_silence_of_all_lines_is_quiet_and_not_death(tmp_path: Path, autojump_clock: MockClock) -> None:
    """(2) Ten minutes without an event, pings answered: no reconnect, state quiet, heartbeats go on."""
    async with staged(tmp_path) as stage:
        await stage.talk(1)
        await stage.arrived()
        heartbeats = stage.heartbeats()
        await trio.sleep(600)
        assert stage.named(*LOST, "line_restarted") == []
        assert stage.exchange.gate.compliance.handshakes == 2
        assert stage.heartbeats() - heartbeats in range(595, 605)
        assert stage.reading.states(BOOK)[-1] == "quiet"
        assert stage.daemon.feeds[BTC].arbiter.state == "quiet"
        await stage.talk(1)
        await stage.arrived()
        stage.assert_exact()
        assert stage.reading.states(BOOK)[-1] == "live"


async def test_a_line_without_a_sign_of_life_is_replaced(tmp_path: Path, autojump_clock: MockClock) -> None:
    """An exchange that does not even answer pings is no quiet market: the line goes, and comes back."""
    async with staged(tmp_path, lines=1) as stage:
        await stage.arrived()
        (line,) = stage.exchange.connections(BTC)
        line._answer = lambda *_: None
        await stage.until(lambda: bool(stage.named("line_lost")))
        assert stage.named("line_lost")[0]["reason"] == "silent"
        await stage.talk_until(stage.all_up)


# Outages


async def test_an_outage_of_all_lines_is_one_gap_per_channel(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """(4) All lines die: one gap record a channel with reason and bounds, then data, and states all along."""
    async with staged(tmp_path) as stage:
        await stage.talk(2)
        await stage.arrived()
        before = {name: len(events) for name, events in stage.reading.sequences.items()}
        stage.strike("outage", "all", duration_s=5)
        await stage.talk(8)
        await stage.talk_until(stage.all_up)
        await trio.sleep(0.5)
        assert stage.named("gap_published") == [
            {"feed": BTC, "channel": name, "reason": "outage"} for name in (TRADES, BOOK)
        ]
        for name in (BOOK, TRADES):
            (gap,) = stage.reading.of("gap", name)
            assert gap["reason"] == "outage"
            assert gap["since"] < gap["until"]
            assert stage.reading.sequences[name][: before[name]] == stage.truth[name][: before[name]]
            kinds = [one["type"] for one in stage.reading.records if one.get("channel") == name]
            assert kinds[: kinds.index("gap")].count("event") == before[name]
            assert list(dict.fromkeys(stage.reading.states(name)[-3:])) == ["down", "syncing", "live"]
        assert stage.follow_book().shapes == ["snapshot", "events", "gap", "snapshot", "events"]
        trades = stage.reading.of("event", TRADES)
        assert [row for event in trades for row in rows(json.dumps(event["msg"]))] == [
            row for payload in stage.truth[TRADES] for row in rows(payload)
        ]
        marks = [event.get("class", "") for event in trades]
        assert [mark for mark, _ in groupby(marks)] == ["", "backfilled", ""]


async def test_an_outage_before_the_first_event_is_no_gap(tmp_path: Path, autojump_clock: MockClock) -> None:
    """What happens before anything was published belongs to the start."""
    feeds = (Feed(markets=(BTC,), streams=("publicTrades",), lines=2),)
    async with staged(tmp_path, feeds=feeds, wait=False) as stage:
        await stage.until(stage.all_connected)
        stage.strike("outage", "all", duration_s=2)
        await trio.sleep(4)
        await stage.talk_until(stage.all_up)
        await trio.sleep(1)
        assert stage.reading.sequences[TRADES] == stage.truth[TRADES]
        assert stage.reading.of("gap") == []


async def test_an_outage_before_the_first_event_hides_nothing_from_a_book(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """(4) A book that was published may change while nobody listens, so that is a gap although no event came yet."""
    async with staged(tmp_path, wait=False) as stage:
        await stage.until(stage.all_connected)
        await stage.until(stage.all_synchronised)
        stage.strike("outage", "all", duration_s=2)
        await trio.sleep(1)
        stage.say(50)
        await trio.sleep(3)
        await stage.until(stage.all_synchronised)
        await stage.talk_until(stage.all_up)
        await trio.sleep(1)
        assert stage.follow_book().shapes == ["snapshot", "gap", "snapshot", "events"]
        assert {gap["channel"] for gap in stage.reading.of("gap")} == {BOOK, TRADES}
        events = stage.reading.of("event", TRADES)
        assert [row for event in events for row in rows(json.dumps(event["msg"]))] == [
            row for payload in stage.truth[TRADES] for row in rows(payload)
        ]


# What the exchange may say


async def test_unknown_fields_and_types_flow(tmp_path: Path, autojump_clock: MockClock) -> None:
    """(13) Extra keys, messages of unknown type: all of it flows, is counted, and nothing reconnects."""
    behaviour = Behaviour(extra_keys=True, spaced_json=True)
    async with staged(tmp_path, behaviour=behaviour) as stage:
        for number in range(10):
            await stage.talk(0.3)
            payload = b'{"resultType":"marketStatus","market":"BTC-USD","data":{"number":%d}}' % (number // 2)
            stage.exchange.broadcast(BTC, "other", payload)
        await stage.talk(1)
        await stage.arrived()
        stage.assert_exact()
        assert {event.get("class", "") for event in stage.reading.of("event", f"{BTC}/other")} == {"unknown"}
        assert stage.named("event_marked") == 10 * [
            {"feed": BTC, "channel": f"{BTC}/other", "kind": "unknown"}
        ]
        assert stage.named(*LOST, "line_restarted", "line_quarantined") == []


async def test_replies_are_never_published(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Pongs, confirmations and snapshots that nobody asked for reach no consumer and disturb nothing."""
    behaviour = Behaviour(subscribed_on_connect=True)
    async with staged(tmp_path, behaviour=behaviour, health=Health(ping_interval_s=0.5)) as stage:
        for _ in range(10):
            await stage.talk(0.5)
            for line in stage.exchange.connections(BTC):
                stage.exchange.reply(line, stage.exchange.book_snapshot(BTC))
        await stage.arrived()
        stage.assert_exact()
        assert stage.named(*LOST, "garbage_received") == []


async def test_account_streams_are_for_those_who_may_read_them(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Account events come out in channels of their own, and only for the readers that are named."""
    account = Feed(name="account", markets=("ALL",), streams=("orders", "trades"), lines=2)
    trade = b'{"resultType":"completedOrdersDelta","data":[{"market":"BTC-USD","matchId":"m%d","orderFilledAt":%d}]}'
    order = (
        b'{"resultType":"createOrder","market":"BTC-USD","data":{"order":{"orderId":"%d","updatedAt":%d}}}'
    )
    for uids, readable in (((os.getuid(),), True), ((os.getuid() + 1,), False)):
        folder = tmp_path / str(readable)
        folder.mkdir()
        publish = Publish(socket=folder / "feed.sock", account_uids=uids)
        async with staged(folder, feeds=(account,), publish=publish, wait=False) as stage:
            await stage.until(stage.all_connected)
            for number in range(1, 6):
                stage.exchange.broadcast("ALL", "trades", trade % (number, number))
                stage.exchange.broadcast(BTC, "orders", order % (number, number))
                await trio.sleep(1)
            got = {name: len(events) for name, events in stage.reading.sequences.items()}
            assert got == ({"ALL/trades": 5, "BTC-USD/orders": 5} if readable else {})
            (hello,) = stage.reading.of("hello")
            assert hello["channels"] == (["ALL/trades"] if readable else [])


async def test_a_channel_that_appears_later_reaches_who_wants_everything(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Over market=ALL channels are opened by their first event; a consumer gets them from seq 1."""
    feeds = (Feed(markets=("ALL",), lines=2),)
    async with staged(tmp_path, markets=(BTC, ETH), feeds=feeds) as stage:
        await stage.talk(3)
        await stage.arrived()
        got, truth = stage.reading.sequences, stage.truth
        for market in (BTC, ETH):
            trades, book = f"{market}/publicTrades", f"{market}/publicOrderBook"
            assert len(got[trades]) == len(truth[trades])
            assert stage.reading.of("event", trades)[0]["seq"] == 1
            assert stage.follow_book(market).shapes == ["snapshot", "events"]
            assert stage.reading.of("snapshot", book)[0]["seq"] == 1
            assert "live" in stage.reading.states(book)


async def test_a_token_opens_the_lines_and_shows_nowhere(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Where tokens are wanted one is fetched for all lines; no note carries key, secret or token."""
    behaviour = Behaviour(token_required=True)
    async with staged(tmp_path, behaviour=behaviour, token=True, environ=KEYS) as stage:
        stage.strike("reset", 0)
        await stage.talk_until(lambda: bool(stage.named("line_lost")))
        await stage.talk_until(stage.all_up)
        await stage.arrived()
        stage.assert_exact()
        assert stage.exchange.gate.compliance.token_requests == 1
        text = repr(stage.notes) + repr(stage.daemon.feeds) + repr(stage.daemon.observation.sight)
        assert not any(secret in text for secret in (*KEYS.values(), "simulated.token"))


# Bad input


@pytest.mark.parametrize(
    ("variant", "reason"),
    [("text", "json"), ("array", "object"), ("binary", "binary"), ("invalid_utf8", "utf8")],
)
async def test_what_is_no_event_is_noted_and_left_out(
    tmp_path: Path, autojump_clock: MockClock, variant: str, reason: str
) -> None:
    """Garbage on one line gets a note with its reason; the stream and the line go on."""
    async with staged(tmp_path) as stage:
        for _ in range(5):
            await stage.talk(0.2)
            stage.strike("garbage", 0, variant=variant)
        await stage.talk(2)
        await stage.arrived()
        stage.assert_exact()
        garbage = stage.named("garbage_received")
        assert [fields["reason"] for fields in garbage] == [reason] * 5
        assert len({fields["line"] for fields in garbage}) == 1
        assert stage.named(*LOST) == []


@pytest.mark.parametrize("variant", ["fragmented", "line_breaks"])
async def test_an_event_in_an_unusual_dress_is_an_event(
    tmp_path: Path, autojump_clock: MockClock, variant: str
) -> None:
    """Fragments and line breaks between tokens change nothing of what consumers get: one line of JSON."""
    async with staged(tmp_path) as stage:
        for line in (0, 1, 0, 1, "all", "all"):
            stage.strike("garbage", line, variant=variant)
            await stage.talk(0.5)
        await stage.arrived()
        stage.assert_exact()
        assert stage.named(*LOST, "garbage_received") == []
        for line in stage.reading.lines:
            assert isinstance(json.loads(line.decode()), dict)
            assert b"\r" not in line


async def test_a_message_that_is_too_long_ends_its_line(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Above the named bound a message is not read: the line is closed and replaced, nothing is lost."""
    bounds = Bounds(message_mib=1, backoff_min_s=0.1, backoff_max_s=0.5)
    async with staged(tmp_path, bounds=bounds) as stage:
        stage.strike("garbage", 0, variant="oversize", size_bytes=2 * 1024 * 1024)
        await stage.talk_until(lambda: bool(stage.named("line_lost")))
        await stage.talk_until(stage.all_up)
        await stage.arrived()
        stage.assert_exact()
        assert [fields["reason"] for fields in stage.named("line_lost")] == ["oversize"]


@pytest.mark.parametrize("status", [401, 403, 404, 429, 503])
async def test_a_refused_handshake_is_told_and_tried_again(
    tmp_path: Path, autojump_clock: MockClock, status: int
) -> None:
    """Whatever status the exchange refuses with, it is noted, asked again, and data flows once it relents."""
    behaviour = Behaviour(handshake_status=status, retry_after_s=7 if status == 429 else 0)
    async with staged(tmp_path, behaviour=behaviour, wait=False) as stage:
        await stage.until(lambda: len(stage.named("connect_failed")) >= 6)
        for fields in stage.named("connect_failed"):
            assert fields["reason"] == "handshake"
            assert fields["status"] == status
            assert (fields["retry_s"] >= 7) == (status == 429)
        stage.exchange.behaviour = Behaviour()
        await stage.until(stage.all_connected)
        await stage.talk_until(stage.all_up)
        await stage.arrived()
        stage.assert_exact()


async def test_an_exchange_that_says_nothing_is_given_up_in_time(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A handshake without an answer ends at its bound and is tried again."""
    bounds = Bounds(handshake_s=2.0, backoff_min_s=0.1, backoff_max_s=0.5)
    behaviour = Behaviour(handshake="silence")
    async with staged(tmp_path, behaviour=behaviour, bounds=bounds, wait=False) as stage:
        await stage.until(lambda: len(stage.named("connect_failed")) >= 4)
        assert {fields["reason"] for fields in stage.named("connect_failed")} == {"timeout"}
        stage.exchange.behaviour = Behaviour()
        await stage.talk_until(stage.all_up)


# The program's own trouble


async def test_blocked_consumers_disk_and_log_cost_no_line(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(14) A consumer that never reads, a disk that hangs, a log nobody reads: pings are answered, no line lost."""
    released = threading.Event()
    monkeypatch.setattr(incidents, "_write", lambda *_: released.wait(60) and "")
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as unread, os.fdopen(writer, "w") as pipe:
        logs = Logs(Log(format="json", level="debug"), time.monotonic, pipe)
        for number in range(QUEUE_LINES + 2_000):
            logs(Note("line_connected", {"feed": "m", "line": f"{number}"}))
        behaviour = Behaviour(ping_every_s=0.5)
        sections: dict[str, Any] = {
            "publish": Publish(socket=tmp_path / "feed.sock", backlog_mib=1),
            "observe": Observe(http="", incidents=tmp_path / "incidents"),
        }
        async with staged(tmp_path, behaviour=behaviour, log=logs, **sections) as stage:
            async with raw_consumer(tmp_path / "feed.sock"):
                for _ in range(2 * incidents.WAITING):
                    stage.daemon.observation.sight.incidents.take({"line": "a"})
                await stage.talk(60, every_s=0.01)
                await stage.arrived()
            stage.assert_exact()
            assert stage.named(*LOST) == []
            compliance = stage.exchange.gate.compliance
            assert compliance.pings_sent > 200
            assert compliance.pings_sent - compliance.pongs_received <= 2
            assert compliance.slowest_pong_s < 1
            assert stage.named("consumer_dropped")
            assert len(stage.named("incident_lost")) >= incidents.WAITING - 1
        released.set()
        lines: list[bytes] = []
        reading = threading.Thread(target=lambda: lines.extend(unread))
        reading.start()
        logs.__exit__()
        pipe.close()
        reading.join()
    assert any(b"log_lines_lost" in line for line in lines)


@pytest.mark.parametrize("step_s", [3600, -3600])
async def test_a_step_of_the_wall_clock_changes_nothing(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, step_s: int
) -> None:
    """(15) The wall clock jumps by an hour: no reconnect, no verdict, the same order; it only labels."""
    offset_ns = 1_775_000_000_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: offset_ns + round(autojump_clock.current_time() * 1e9))
    async with staged(tmp_path) as stage:
        await stage.talk(3)
        notes = len(stage.notes)
        offset_ns += step_s * 1_000_000_000
        await stage.talk(20)
        await stage.arrived()
        stage.assert_exact()
        after = [one for _, one in stage.notes[notes:] if one.name != "line_state_changed"]
        assert {one.name for one in after} <= {"book_audited"}
        assert {one.fields["result"] for one in after} <= {"passed"}
        later = [one.fields["state"] for _, one in stage.notes[notes:] if one.name == "line_state_changed"]
        assert set(later) <= {"good"}
        first, last = stage.reading.of("event")[0]["recv"], stage.reading.of("event")[-1]["recv"]
        assert (last > first) == (step_s > 0)


# Markets that the exchange lists


class Listing:
    """An endpoint that gives one answer after the other, the last one for ever."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.url = ""

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Serve."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/markets"
        await trio.serve_listeners(self._answer, listeners, task_status=task_status)

    async def _answer(self, stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            await stream.send_all(answer)


def http(status: int, body: bytes = b"") -> bytes:
    """Return an answer."""
    head = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    return head % (status, len(body)) + body


async def test_every_listed_market_gets_a_feed(tmp_path: Path, autojump_clock: MockClock) -> None:
    """With ["*"] the exchange is asked until it lists its markets; each gets its lines and its stream."""
    listing = Listing(b"", http(503), http(200, b"{}"), http(200, b'["BTC-USD","ETH-USD"]'))
    async with trio.open_nursery() as nursery:
        await nursery.start(listing.run)
        async with staged(
            tmp_path, markets=(BTC, ETH), feeds=(Feed(lines=2),), wait=False, markets_url=listing.url
        ) as stage:
            await stage.until(lambda: len(stage.named("line_connected")) == 4)
            await stage.talk_until(stage.all_up)
            await stage.arrived()
            stage.assert_exact()
            reasons = [fields["reason"] for fields in stage.named("markets_failed")]
            assert reasons == ["protocol", "answer", "answer"]
            assert stage.named("markets_listed") == [{"markets": 2, "appeared": 2, "vanished": 0}]
            assert set(stage.daemon.feeds) == {BTC, ETH}
        nursery.cancel_scope.cancel()


async def test_more_markets_than_the_limits_allow_are_left_out(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The exchange may list what it likes: lines stay within the limits, and what has no feed is said."""
    feeds = (
        Feed(name="x", markets=(BTC,), streams=("publicTrades",), lines=1),
        Feed(streams=("publicOrderBook",)),
    )
    limits = Limits(connections_per_minute=1000, connections_total=4, connections_per_market=5)
    async with staged(
        tmp_path, markets=(BTC, ETH, "SOL-USD"), feeds=feeds, limits=limits, wait=False
    ) as stage:
        await stage.until(lambda: len(stage.named("line_connected")) == 3)
        await trio.sleep(30)
        assert set(stage.daemon.feeds) == {f"x/{BTC}", BTC}
        assert stage.named("markets_left_out") == [
            {"markets": 2, "limit": "limits.connections_total: 7 connections needed, 4 allowed"}
        ]
        assert stage.exchange.gate.compliance.handshakes == 3


async def test_no_market_takes_the_place_of_a_feed(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A listed market with the label of a feed that runs already gets no feed; the one that runs is not touched."""
    listing = Listing(http(200, b'["x/BTC-USD","ETH-USD"]'))
    feeds = (Feed(name="x", markets=(BTC,), streams=("publicTrades",)), Feed(streams=("publicOrderBook",)))
    async with trio.open_nursery() as nursery:
        await nursery.start(listing.run)
        async with staged(
            tmp_path, markets=(BTC, ETH), feeds=feeds, wait=False, markets_url=listing.url
        ) as stage:
            first = stage.daemon.feeds[f"x/{BTC}"]
            await stage.until(lambda: len(stage.named("line_connected")) == 4)
            assert dict(stage.daemon.feeds) == {f"x/{BTC}": first, ETH: stage.daemon.feeds[ETH]}
        nursery.cancel_scope.cancel()


# Its start and its end


async def test_consumers_get_everything_and_a_last_word(tmp_path: Path, autojump_clock: MockClock) -> None:
    """At the end consumers get what is pending, the state down of every channel, and bye; then the socket is gone."""
    async with staged(tmp_path) as stage:
        await stage.until(lambda: stage.reading.states(BOOK)[-1] == "live")
        stage.say(50)
        stage.daemon.stop()
        await stage.until(lambda: bool(stage.reading.of("bye")))
        assert stage.reading.of("bye")[0]["reason"] == "shutdown"
        assert stage.reading.states(BOOK)[-1] == stage.reading.states(TRADES)[-1] == "down"
        await stage.until(lambda: bool(stage.named("daemon_stopped")))
        assert not (tmp_path / "feed.sock").exists()
        names = [one.name for _, one in stage.notes]
        assert names.index("daemon_started") < names.index("daemon_draining") < names.index("daemon_stopped")


async def test_the_end_comes_within_its_time(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A consumer that does not read delays the end by drain_s altogether, goodbyes to the exchange included."""
    publish = Publish(socket=tmp_path / "feed.sock", drain_s=3.0)
    async with staged(tmp_path, publish=publish) as stage, raw_consumer(tmp_path / "feed.sock"):
        await trio.sleep(1)
        await stage.talk(30, every_s=0.005)
        stage.strike("throttle", "all", bytes_per_s=1)  # so that the goodbyes take their time, too
        stage.say(2)
        stopped_s = trio.current_time()
        stage.daemon.stop()
        await stage.until(lambda: bool(stage.named("daemon_stopped")))
        assert stage.when("daemon_stopped") - stopped_s == pytest.approx(3, abs=0.2)


async def test_two_daemons_do_not_share_a_socket(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A second daemon at the same path ends with an error that names it; the first goes on."""
    async with staged(tmp_path) as stage:
        with pytest.RaisesGroup(SocketInUse, flatten_subgroups=True):
            await daemon_module.Daemon(stage.daemon.config, KEYS, lambda _: None).run()
        await stage.talk(1)
        await stage.arrived()
        stage.assert_exact()


class Host:
    """`daemon.run` in the background of a test, with what it noted."""

    def __init__(self, folder: Path) -> None:
        self.config = Config(
            exchange=Exchange(websocket_url="ws://127.0.0.1:9"),
            feeds=(Feed(markets=(BTC,)),),
            publish=Publish(socket=folder / "feed.sock", drain_s=1.0),
            observe=Observe(http=""),
        )
        self.notes: list[Note] = []
        self.exits: list[str] = []
        self.ended = trio.Event()
        self.load: Callable[[], object] = lambda: self.config

    async def run(self) -> None:
        """Run to the end."""
        await daemon_module.run(
            self.config,
            {},
            self.notes.append,
            reload=self._load,
            exit_now=lambda: self.exits.append("now"),
        )
        self.ended.set()

    def _load(self) -> Any:
        return self.load()

    async def wait_for(self, name: str) -> dict[str, Any]:
        """Wait for a note."""
        with trio.fail_after(60):
            while True:
                for one in self.notes:
                    if one.name == name:
                        return one.fields
                await trio.sleep(0.01)


async def test_signals_end_the_daemon(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first SIGTERM or SIGINT drains, a second one leaves at once."""
    drain = Publisher.drain

    async def drain_slowly(publisher: Publisher, seconds: float, reason: str) -> None:
        await trio.sleep(5)
        await drain(publisher, seconds, reason)

    monkeypatch.setattr(Publisher, "drain", drain_slowly)
    for first, second in ((signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)):
        host = Host(tmp_path)
        nursery.start_soon(host.run)
        await host.wait_for("daemon_started")
        signal.raise_signal(first)
        await host.wait_for("daemon_draining")
        assert host.exits == []
        signal.raise_signal(second)
        await host.ended.wait()
        assert host.exits == ["now"]
        assert host.notes[-1].name == "daemon_stopped"


async def test_a_hangup_reads_the_configuration_again(
    tmp_path: Path, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """SIGHUP: nothing new, something that needs a restart, or mistakes, of which each is told; the old one stays."""

    def broken() -> Config:
        raise ConfigError(["feed[0].lines: expected 1..8, got 0", "publish.mode: expected an octal mode"])

    host = Host(tmp_path)
    nursery.start_soon(host.run)
    await host.wait_for("daemon_started")
    signal.raise_signal(signal.SIGHUP)
    await host.wait_for("config_reloaded")
    publish = msgspec.structs.replace(host.config.publish, drain_s=9.0)
    changed = msgspec.structs.replace(host.config, publish=publish)
    host.load = lambda: changed
    signal.raise_signal(signal.SIGHUP)
    assert await host.wait_for("config_needs_restart") == {"key": "publish.drain_s"}
    host.load = broken
    signal.raise_signal(signal.SIGHUP)
    await host.wait_for("config_refused")
    mistakes = [one.fields["mistake"] for one in host.notes if one.name == "config_refused"]
    assert mistakes == ["feed[0].lines: expected 1..8, got 0", "publish.mode: expected an octal mode"]
    assert host.config.publish.drain_s == 1.0
    signal.raise_signal(signal.SIGTERM)
    await host.ended.wait()


async def test_a_configuration_on_a_disk_that_hangs_blocks_nothing(
    tmp_path: Path, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """While a SIGHUP waits for its file, the daemon can still be ended."""
    released = threading.Event()
    host = Host(tmp_path)
    returned: list[bool] = []

    def load() -> Config:
        returned.append(released.wait(20))
        return host.config

    host.load = load
    nursery.start_soon(host.run)
    await host.wait_for("daemon_started")
    signal.raise_signal(signal.SIGHUP)
    await trio.sleep(1)
    signal.raise_signal(signal.SIGTERM)
    await host.ended.wait()
    assert returned == []
    released.set()


async def test_lines_that_come_and_go_leave_nothing_behind(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Two hundred forced reconnects return tasks and descriptors to where they were."""
    async with staged(tmp_path) as stage:
        descriptors = len(os.listdir("/proc/self/fd"))
        tasks = trio.lowlevel.current_statistics().tasks_living
        for count in range(200):
            stage.strike("reset", count % 2)
            await stage.talk_until(lambda count=count: len(stage.named("line_lost")) > count)
            await stage.talk_until(stage.all_up)
        await trio.sleep(5)
        await stage.arrived()
        stage.assert_exact()
        assert len(os.listdir("/proc/self/fd")) == descriptors
        assert trio.lowlevel.current_statistics().tasks_living == tasks
