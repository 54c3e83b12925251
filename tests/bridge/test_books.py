"""Books in the stream: each snapshot is exactly what the events before it make, and who comes late begins with one."""

from collections.abc import Sequence
from decimal import Decimal

import pytest

from feedhandler.bridge.channel import QUIET_TIMES
from feedhandler.bridge.entries import BOOK_AT
from tests.bridge.model import PATIENCE_S
from tests.bridge.nats import Received, nats_server
from tests.bridge.running import MARKETS, bridge, check, ended, exchange, sent_more
from tests.bridge.test_channel import BOOK, Stage, book, events
from tests.support.processes import daemon, write_config
from tests.support.references import changes

CHANNELS = tuple(f"{market}/publicOrderBook" for market in MARKETS)


@pytest.fixture
def stage():
    """Give two hosts that are linked to an empty stream; the first writes."""
    stage = Stage()
    stage.both(book(BOOK), *events(BOOK, 1, 2))
    return stage


def stale(stage: Stage, host: object, every_s: float = 60.0) -> list[str]:
    """Return the books that a host should give again."""
    return host.merge.stale_books(stage.now, every_s, 0.5)


def test_the_one_who_writes_gives_a_book_again(stage):
    """After the time, if something has changed, and once; the other host's time begins anew with it, too."""
    assert stale(stage, stage.a) == []
    stage.now += 60
    assert stale(stage, stage.a) == [BOOK]
    assert stale(stage, stage.b) == []
    stage.bring(stage.a, book(BOOK, "join"))
    stage.let(0)
    assert stale(stage, stage.a) == []
    assert stage.shown(BOOK) == ["snapshot start", "1", "2", "snapshot start"]
    stage.both(*events(BOOK, 3))
    stage.a.unlink()
    stage.bring(stage.b, *events(BOOK, 4))
    stage.let(PATIENCE_S)
    assert stage.b.merge.leads
    assert stale(stage, stage.b) == []
    stage.now += 60
    assert stale(stage, stage.b) == [BOOK]


def test_a_quiet_book_is_given_rarely(stage):
    """Where nothing has changed since the last one it takes so many times as long."""
    stage.bring(stage.a, book(BOOK, "join"))
    stage.let(0)
    stage.now += 60 * (QUIET_TIMES - 1)
    assert stale(stage, stage.a) == []
    stage.now += 60
    assert stale(stage, stage.a) == [BOOK]


def test_a_host_that_lacks_an_event_gives_no_book(stage):
    """Its book is not the stream's."""
    stage.bring(stage.b, *events(BOOK, 3))
    stage.let(2 * PATIENCE_S)
    stage.now += 60
    writer = stage.b
    assert writer.merge.leads
    assert stale(stage, writer) == [BOOK]
    stage.bring(stage.a, *events(BOOK, 3, 4))
    stage.let(2 * PATIENCE_S)
    stage.now += 60
    stage.b.merge.lead()
    assert stale(stage, stage.b) == []


def test_every_message_of_a_book_names_the_newest_snapshot(stage):
    """Those that are on their way with it, too, and the snapshot itself."""
    stage.bring(stage.a, *events(BOOK, 3), book(BOOK, "join"), *events(BOOK, 4), book(BOOK, "join"))
    stage.bring(stage.a, *events(BOOK, 5))
    stage.let(0)
    stage.let(0)  # all but the first are on their way at once
    assert stage.shown(BOOK)[3:] == ["3", "snapshot start", "4", "snapshot start", "5"]
    assert [int(one.headers[BOOK_AT]) for one in stage.server.messages] == [1, 1, 1, 1, 5, 5, 7, 7]


def check_books(found: Sequence[Received]) -> int:
    """Compare each snapshot with the one before it and the events since; return how many were compared."""
    compared = 0
    for channel in CHANNELS:
        levels: dict[object, Decimal] | None = None
        for number, one in enumerate(found, 1):
            record = one.record
            if record["channel"] != channel:
                continue
            change = changes(one.payload)
            if record["type"] == "snapshot":
                assert int(one.headers[BOOK_AT]) == number
                assert levels in (None, change)
                compared += levels is not None
                levels = dict(change)
            elif levels is not None:
                levels = {level: size for level, size in (levels | change).items() if size}
    return compared


async def test_books_are_given_again_in_their_places(tmp_path):
    """With a book a second under load, across a change of the writer, each is what the events before it make."""
    arguments = ("--snapshot-every-s", 1)
    async with (
        nats_server(tmp_path) as server,
        exchange(tmp_path, "--wait", 3, "--rate", 600) as running,
        daemon(write_config(tmp_path, running.url, markets=MARKETS)),
        bridge(server, tmp_path / "feed.sock", *arguments) as first,
    ):
        await first.errors.wait_for('"bridge_led"')
        async with bridge(server, tmp_path / "feed.sock", *arguments) as second:
            await second.errors.wait_for('"bridge_linked"')
            await sent_more(tmp_path, 3000)
            first.process.kill()
            await first.wait()
            await second.errors.wait_for('"bridge_led"')
            await sent_more(tmp_path, 3000)
            sent, found = await ended(tmp_path, running, server)
    check(sent, found)
    assert check_books(found) >= 8
