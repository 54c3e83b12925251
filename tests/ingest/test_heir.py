"""What a feed makes of another daemon's records: which gaps that one owed when it died."""

import pytest

from feedhandler.config import Bounds, Health, Recovery
from feedhandler.core.channels import Channel
from feedhandler.core.following import Following
from feedhandler.core.messages import Gap
from feedhandler.core.recovery import Recovery as Recovering
from feedhandler.exchange.desk import Desk
from feedhandler.exchange.messages import Dialect
from feedhandler.ingest.heir import Heir

TRADES, BOOK = "M/publicTrades", "M/publicOrderBook"
STREAMS = ("publicTrades", "publicOrderBook")
OUTAGE = Gap(TRADES, "outage", 1, 2)


@pytest.fixture
def heir() -> Heir:
    """Return the heir of a feed with two channels, both live."""
    dialect = Dialect("M")
    arbiter = Following("M", "a", dialect, streams=STREAMS, bounds=Bounds(), limits=Health())
    arbiter.follow(0.0)
    recovery = Recovering(
        "M",
        Desk("M", dialect),
        settings=Recovery(),
        bounds=Bounds(),
        new_id=lambda: "id",
        askable=list,
        owns=lambda _: True,
        notify=lambda _: None,
    )
    made = Heir(arbiter, recovery, lambda: STREAMS, lambda _: None)
    for number, name in enumerate((TRADES, BOOK)):
        made.open(Channel(name, number=number, feed="M", account=False), "down")
        made.state(name, "live")
    made.events([TRADES, BOOK], [b"{}", b"{}"], 0.0, 7)
    assert made.owed == set()
    return made


def test_what_the_other_daemon_saw_of_the_lines_is_known_here(heir: Heir) -> None:
    """(3) One order over all channels is no proof any more."""
    assert not heir._arbiter.interleaves
    heir.interleaved()
    assert heir._arbiter.interleaves


def test_a_channel_in_repair_owes_its_gap(heir: Heir) -> None:
    """The state says so, until it is live again, or anything has come in the channel."""
    heir.state(BOOK, "syncing")
    assert heir.owed == {BOOK}
    heir.events([TRADES], [b"{}"], 0.0, 7)
    assert heir.owed == {BOOK}
    heir.state(BOOK, "live")
    assert heir.owed == set()
    heir.state(BOOK, "syncing")
    heir.events([BOOK], [b"{}"], 0.0, 7)
    assert heir.owed == set()


def test_the_gap_of_one_channel_is_that_of_all(heir: Heir) -> None:
    """Until they have published theirs, all others owe it; one that hides nothing concerns nobody else."""
    heir.gap(OUTAGE, 0.0)
    assert heir.owed == {BOOK}
    heir.gap(Gap(BOOK, "outage", 1, 2), 0.0)
    assert heir.owed == set()
    heir.gap(Gap(BOOK, "audit", 3, 4), 0.0)
    assert heir.owed == set()
    heir.marked(TRADES, b"{}", 0.0, 7, "backfilled")
    assert heir.owed == {BOOK}
    heir.book(BOOK, b"{}", 0.0, "gap")
    assert heir.owed == set()


def test_what_is_of_no_stream_of_the_feed_is_left_alone(heir: Heir) -> None:
    """Whatever comes on it changes nothing here."""
    before = heir._arbiter.window.head
    heir.events(["M/orders"], [b"{}"], 0.0, 7)
    heir.events(["M/orders", TRADES], [b"{}", b"{}"], 0.0, 7)
    heir.marked("M/other", b"{}", 0.0, 7, "unknown")
    heir.gap(Gap("M/orders", "outage", 1, 2), 0.0)
    assert heir._arbiter.window.head == before + 1
    assert heir.owed == set()


def test_a_retired_channel_ends_the_inheritance(heir: Heir) -> None:
    """Unless it is opened again."""
    heir.close(BOOK)
    assert not heir.is_whole
    heir.open(Channel(BOOK, number=1, feed="M", account=False), "down")
    assert heir.is_whole
