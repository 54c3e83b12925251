"""The three faces of the client do the same, whatever the server does."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from feedhandler.client import following
from feedhandler.client.core import Bye, Event, Reader, Received, Record
from feedhandler.client.errors import ClientClosed, ProtocolError, ServerError
from feedhandler.client.following import BACKOFF_MAX_S, BACKOFF_MIN_S, Following
from feedhandler.client.position import Position
from tests.client.faces import Closing, Face, every_face
from tests.client.scripted import PATIENCE_S, A, Act, B, Connection, event, hello, line, scripted, subscribed

Wishes = list[dict[str, Any]]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a path for the socket; attempts to connect follow each other quickly."""
    monkeypatch.setattr(following, "BACKOFF_MIN_S", 0.001)
    return tmp_path / "feed.sock"


def says(wishes: Wishes, answer: bytes, greeting: bytes | None = None) -> Act:
    """Greet, read the request, say something and leave."""

    def act(connection: Connection) -> None:
        connection.say(hello() if greeting is None else greeting)
        wishes.append(connection.ask())
        connection.say(answer)

    return act


def events_up_to(last: int, seqs: list[int]) -> Callable[[Received, Following], bool]:
    """Keep the seqs of events, up to a last one."""

    def take(received: Received, client: Following) -> bool:
        if isinstance(received.record, Event):
            assert received.line == event(received.record.seq)
            seqs.append(received.record.seq)
            position = client.position()
            assert position is not None
            assert position.seq[A] == received.record.seq
        return seqs[-1:] == [last]

    return take


@every_face
def test_no_record_is_lost_or_doubled_over_a_reconnect(face: Face, path: Path) -> None:
    """A connection that ends within a record is replaced by one that goes on after the last whole record."""
    wishes: Wishes = []
    reports: list[str] = []
    seqs: list[int] = []
    acts = (
        says(wishes, subscribed(a=1) + event(1) + event(2) + event(3)[:20]),
        says(wishes, b""),
        says(wishes, subscribed(a=3) + line(type="bye", reason="slow")),
        says(wishes, subscribed(a=3) + event(3) + event(4)),
    )
    with scripted(path, *acts):
        face(path, Reader([A], snapshot=False), events_up_to(4, seqs), report=reports.append)
    wish: dict[str, Any] = {"op": "subscribe", "channels": [A], "snapshot": False}
    goes_on = {**wish, "resume": {"session": "s", "seq": {A: 2}}}
    assert seqs == [1, 2, 3, 4]
    assert wishes == [wish, goes_on, goes_on, goes_on]
    assert reports == [
        f"{path}: the server closed the connection; trying again",
        f"{path}: connected",
        f"{path}: the server ended the connection (slow); trying again",
        f"{path}: connected",
    ]


@every_face
def test_a_server_that_resets_before_the_request_is_no_fault(face: Face, path: Path) -> None:
    """A request that can't be sent, or was not read, is sent again."""
    wishes: Wishes = []
    seqs: list[int] = []
    acts: list[Act] = [lambda connection: connection.say(hello()), lambda connection: connection.say(b"")]
    with scripted(path, *acts, says(wishes, subscribed(a=1) + event(1))):
        face(path, Reader([A]), events_up_to(1, seqs))
    assert (seqs, len(wishes)) == ([1], 1)


@every_face
def test_a_channel_missed_between_greeting_and_request_is_fetched(face: Face, path: Path) -> None:
    """(10) The torn connection is replaced at once, and what the new channel had said comes from its start."""
    wishes: Wishes = []
    got: list[tuple[str, int]] = []

    def take(received: Received, _: Following) -> bool:
        if isinstance(received.record, Event):
            got.append((received.record.channel, received.record.seq))
        return len(got) == 3

    acts = (
        says(wishes, subscribed(a=6, b=3) + event(3, B)),
        says(wishes, subscribed(a=6, b=1) + event(1, B) + event(2, B) + event(6)),
    )
    with scripted(path, *acts):
        face(path, Reader(resume=Position("s", {A: 5})), take)
    assert got == [(B, 1), (B, 2), (A, 6)]
    assert wishes[1]["resume"]["seq"] == {A: 5, B: 0}


@every_face
def test_an_error_of_the_server_is_passed_on_and_then_raised_for_ever(face: Face, path: Path) -> None:
    """The record itself can be read; after it there is nothing to wait for."""
    refusal = line(type="error", code="forbidden", detail="no")
    lines: list[bytes] = []
    clients: list[Following] = []

    def take(received: Received, client: Following) -> bool:
        lines.append(received.line)
        clients[:] = [client]
        return False

    with scripted(path, says([], refusal)), pytest.raises(ServerError, match="forbidden: no"):
        face(path, Reader(), take)
    assert lines == [hello(), refusal]
    with pytest.raises(ClientClosed):
        clients[0].receive_nowait()


@every_face
def test_errors_of_the_moment_are_got_over(face: Face, path: Path) -> None:
    """A server that is full, or that has not opened a known channel yet, is tried again."""
    reports: list[str] = []
    seqs: list[int] = []
    unknown = line(type="error", code="unknown_channel", detail="there is no channel m/a")
    acts: list[Act] = [
        lambda connection: connection.say(line(type="error", code="busy", detail="full")),
        says([], subscribed(a=1) + event(1)),
        says([], unknown),
        says([], subscribed(a=2) + event(2)),
    ]
    with scripted(path, *acts):
        face(path, Reader([A]), events_up_to(2, seqs), report=reports.append)
    assert seqs == [1, 2]
    assert [report.removeprefix(f"{path}: ") for report in reports] == [
        "busy: full; trying again",
        "connected",
        "the server closed the connection; trying again",
        "unknown_channel: there is no channel m/a; trying again",
        "connected",
    ]


@every_face
def test_a_channel_that_never_was_is_an_error(face: Face, path: Path) -> None:
    """Without a confirmation before, an unknown channel is the user's mistake."""
    unknown = line(type="error", code="unknown_channel", detail="x")
    with scripted(path, says([], unknown)), pytest.raises(ServerError, match="unknown_channel: x"):
        face(path, Reader([A]), lambda *_: False)


@every_face
def test_a_hole_is_never_passed_on(face: Face, path: Path) -> None:
    """(10) A server that leaves a record out is not read any further."""
    seqs: list[int] = []
    answer = subscribed(a=1) + event(1) + event(3)
    with scripted(path, says([], answer)), pytest.raises(ProtocolError, match="expected seq 2, got 3"):
        face(path, Reader([A]), events_up_to(9, seqs))
    assert seqs == [1]


@every_face
@pytest.mark.parametrize("wanted", [True, False])
def test_books_are_kept_across_connections(face: Face, path: Path, wanted: bool) -> None:
    """(5) A book goes on after an exact resume, and is there while the records are read."""
    book = "m/publicOrderBook"
    bid = {"orderType": "buy", "price": "100", "quantity": "1"}
    ask = {"orderType": "sell", "price": "101", "quantity": "2"}
    image = {"resultType": "publicOrderBook", "data": {"orders": [bid]}}
    delta = {"resultType": "publicOrderBookDelta", "data": {"orders": [ask]}}
    join = line(type="snapshot", channel=book, seq=4, reason="join", msg=image)
    seen: list[Any] = []

    def take(received: Received, client: Following) -> bool:
        if book in client.books:
            seen.append((client.books[book].seq, client.books[book].bids, client.books[book].asks))
        return isinstance(received.record, Event)

    acts = (
        says([], line(type="subscribed", channels={book: {"next": 5}}) + join),
        says([], line(type="subscribed", channels={book: {"next": 5}}) + event(5, book, delta)),
    )
    with scripted(path, *acts):
        face(path, Reader([book]), take, books=wanted)
    bids, asks = (("100", "1"),), (("101", "2"),)
    held = [(4, bids, ())] * 3  # the snapshot, then the second greeting and confirmation
    assert seen == ([(0, (), ()), *held, (5, bids, asks)] if wanted else [])


@pytest.fixture
def be_patient(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Tell the faces whether silence is to mean something: at once, or not while the machine is busy, either."""

    def tell(patient: bool) -> None:
        for module in ("thread_client", "asyncio_client", "trio_client"):
            monkeypatch.setattr(f"feedhandler.client.{module}.SILENCE_S", 60.0 if patient else 0.05)

    return tell


@every_face
def test_a_silent_server_is_left(face: Face, path: Path, be_patient: Callable[[bool], None]) -> None:
    """A server that hangs sends no heartbeats, and the client asks again."""
    reports: list[str] = []
    seqs: list[int] = []
    up_to_2 = events_up_to(2, seqs)

    def hang(connection: Connection) -> None:
        connection.say(hello())
        connection.ask()
        connection.wait()

    def take(received: Received, client: Following) -> bool:
        if isinstance(received.record, Event):
            be_patient(False)
        return up_to_2(received, client)

    def report(text: str) -> None:
        reports.append(text.removeprefix(f"{path}: "))
        if "nothing heard" in text:
            be_patient(True)

    be_patient(True)
    first, last = says([], subscribed(a=1) + event(1)), says([], subscribed(a=2) + event(2))
    with scripted(path, first, hang, last):
        face(path, Reader([A]), take, report=report)
    assert seqs == [1, 2]
    assert reports == [
        "the server closed the connection; trying again",
        "nothing heard for 5 s; trying again",
        "connected",
    ]


@every_face
def test_a_request_that_nobody_reads_is_given_up(
    face: Face, path: Path, be_patient: Callable[[bool], None]
) -> None:
    """A request that was sent in part ends with its connection, and the next one gets it whole."""
    channels = [A, *(f"market-{number}/*" for number in range(100_000))]
    wishes: Wishes = []
    seqs: list[int] = []
    gone = threading.Event()

    def hang(connection: Connection) -> None:
        connection.say(hello())
        assert gone.wait(PATIENCE_S)

    def report(_: str) -> None:
        be_patient(True)
        gone.set()

    be_patient(False)
    with scripted(path, hang, says(wishes, subscribed(a=1) + event(1))):
        face(path, Reader(channels), events_up_to(1, seqs), report=report)
    assert seqs == [1]
    assert wishes[0]["channels"] == channels


@every_face
def test_a_client_waits_for_a_server_that_comes_late(face: Face, path: Path) -> None:
    """A socket that is not there, or that nobody serves any more, is waited for; each trouble is told once."""
    seqs: list[int] = []
    reports: list[str] = []
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(os.fspath(path))
    troubles = {"connection refused": path.unlink, "no such file or directory": threading.Event().set}
    release = threading.Event()

    def report(text: str) -> None:
        reports.append(text.removeprefix(f"{path}: "))
        trouble = reports[-1].removesuffix("; trying again")
        if trouble in troubles:
            troubles[trouble]()
        if trouble.startswith("no such"):
            release.set()

    def serve() -> None:
        assert release.wait(PATIENCE_S)
        with scripted(path, says([], subscribed(a=1) + event(1))):
            pass

    thread = threading.Thread(target=serve)
    thread.start()
    face(path, Reader([A]), events_up_to(1, seqs), report=report)
    thread.join()
    assert reports == [
        "connection refused; trying again",
        "no such file or directory; trying again",
        *(["connection refused; trying again"] if len(reports) == 4 else []),  # bound and not listening yet
        "connected",
    ]


@pytest.mark.parametrize("face", ["by_thread", "by_asyncio", "by_trio"])
@pytest.mark.parametrize("where", ["reading", "waiting"])
def test_a_client_can_be_closed_from_elsewhere(face: str, where: str, tmp_path: Path) -> None:
    """Closing ends the iteration at once, within a read or between two attempts, and is no trouble to report."""
    path = tmp_path / "feed.sock"
    closing = Closing()
    reports: list[str] = []

    def act(connection: Connection) -> None:
        connection.say(hello())
        connection.ask()
        connection.say(subscribed(a=1) + event(1))
        closing.reading.set()
        connection.wait()

    def report(text: str) -> None:
        reports.append(text)
        closing.reading.set()

    if where == "reading":
        with scripted(path, act):
            getattr(closing, face)(path, Reader([A]), report)
    else:
        getattr(closing, face)(path, Reader([A]), report)
    assert len(reports) == (0 if where == "reading" else 1)
    assert closing.records <= 3


@every_face
def test_a_closed_client_has_no_next_record(face: Face, path: Path) -> None:
    """What was received and not taken before the end is not given any more."""

    def take(_: Received, client: Following) -> bool:
        clients.append(client)
        return True

    clients: list[Following] = []
    with scripted(path, says([], subscribed(a=1) + event(1))):
        face(path, Reader([A]), take)
    with pytest.raises(ClientClosed, match="the client is closed"):
        clients[0].receive_nowait()


def test_the_wait_doubles_to_its_bound_and_starts_anew_with_good_data() -> None:
    """A confirmation alone does not shorten the wait; the first record of the stream does."""
    reader = Reader([A])
    follower = Following("feed.sock", reader)
    pauses = [follower._ended("x") for _ in range(12)]
    for number, pause_s in enumerate(pauses):
        bound_s = min(BACKOFF_MIN_S * 2**number, BACKOFF_MAX_S)
        assert bound_s / 2 <= pause_s <= bound_s

    def connected(*lines: bytes) -> list[Record]:
        follower._began()
        reader.feed(hello())
        records = [follower.receive_nowait()]
        reader.request()
        reader.feed(b"".join(lines))
        while received := follower.receive_nowait():
            records.append(received)
        return [received.record for received in records if received]

    assert isinstance(connected(subscribed(a=1), line(type="bye", reason="slow"))[-1], Bye)
    assert follower._ended("x") > BACKOFF_MAX_S / 2
    connected(subscribed(a=1), line(type="heartbeat", now=1, next={A: 1}))
    assert follower._ended("x") <= BACKOFF_MIN_S


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("feedhandler.client", {"trio", "asyncio"}),
        ("feedhandler.client.thread_client", {"trio", "asyncio"}),
        ("feedhandler.client.asyncio_client", {"trio"}),
        ("feedhandler.client.trio_client", {"asyncio"}),
    ],
)
def test_a_face_imports_only_what_it_runs_on(module: str, absent: set[str]) -> None:
    """Whoever reads with threads or asyncio needs no trio."""
    code = f"import sys, {module}; print(*sorted({absent!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
