"""The benchmark's source speaks WebSocket, plays every event once on each line, and shows its book as of then."""

import base64
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Thread
from typing import cast

import pytest

from feedhandler.ingest.frames import FrameSplitter
from tests.benchmarks import events as played
from tests.benchmarks import wire
from tests.benchmarks.control import Child, python
from tests.benchmarks.source import Connection, Market, Source

MASK = b"\x01\x02\x03\x04"
EVENTS = 200
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Client:
    """One line, written by hand."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=5)
        key = base64.b64encode(os.urandom(16))
        self.sock.sendall(
            b"GET /?market=BTC-USD&subscriptions=publicTrades HTTP/1.1\r\nHost: localhost\r\n"
            b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Protocol: authorization#token\r\nSec-WebSocket-Key: %b\r\n\r\n" % key
        )
        self.head = b""
        while not self.head.endswith(b"\r\n\r\n"):
            self.head += self.sock.recv(1)
        digest = hashlib.sha1(key + GUID, usedforsecurity=False).digest()
        assert b"Sec-WebSocket-Accept: " + base64.b64encode(digest) in self.head
        self.messages: list[bytes] = []
        self.control = b""
        self._splitter = FrameSplitter(1 << 20)

    def send(self, opcode: int, payload: bytes) -> None:
        """Send a short frame, masked as a client's is."""
        self.sock.sendall(bytes((0x80 | opcode, 0x80 | len(payload))) + MASK + wire.unmasked(payload, MASK))

    def read(self, messages: int, control: int = 0) -> list[bytes]:
        """Read until so many messages, and so many bytes of control frames, have come."""
        while len(self.messages) < messages or len(self.control) < control:
            payloads, control_frames = self._splitter.feed(self.sock.recv(1 << 16))
            self.messages += payloads
            self.control += control_frames
        assert not self._splitter.failure
        return self.messages


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Child]:
    """Run a source with one market."""
    with Child(*python("source"), log=tmp_path / "log") as child:
        yield child


@pytest.fixture
def line(source: Child) -> Iterator[Client]:
    """Connect one line."""
    ports = source.ask(do="listen")
    source.ask(do="prepare", markets=["BTC-USD"], events=EVENTS)
    client = Client(ports["plain"])
    with closing(client.sock):
        source.ask(do="expect", lines=1)
        yield client


def test_the_token_is_echoed_and_pings_of_both_kinds_are_answered(line: Client) -> None:
    """A client sees an ordinary server."""
    assert b"Sec-WebSocket-Protocol: authorization#token" in line.head
    line.send(wire.PING, b"here")
    line.send(wire.TEXT, b'{"message":"ping","content":{"clientRequestId":"r1"}}')
    [reply] = line.read(1, control=6)
    assert line.control == b"\x8a\x04here"
    assert json.loads(reply) == {"resultType": "pong", "data": {"clientRequestId": "r1", "statusCode": 200}}


def test_a_burst_is_numbered_and_the_book_behind_it_is_that_of_its_deltas(
    source: Child, line: Client
) -> None:
    """Every event comes once, in order; a snapshot asked for later shows what they made of the book."""
    assert source.ask(do="burst", events=EVENTS)["events"] == {"BTC-USD": EVENTS}
    line.send(wire.TEXT, b'{"message":"emitPublicOrderBook","content":{"clientRequestId":"r2"}}')
    *sent, reply = line.read(EVENTS + 1)
    programme = played.generated(EVENTS)
    assert sent == [played.stamped(one.message, number) for number, one in enumerate(programme.events)]
    book = dict(programme.opening)
    played.apply(book, programme.events)
    rows = json.loads(reply)["data"]["orders"]
    assert {(row["orderType"], row["price"]): row["quantity"] for row in rows} == book


def test_rounds_played_flat_out_differ_in_their_stamps_alone(source: Child, line: Client) -> None:
    """However often the events are played, no two messages are the same."""
    for _ in range(2):
        assert source.ask(do="flat", seconds=0)["events"] == {"BTC-USD": EVENTS}
    messages = line.read(2 * EVENTS)
    assert len(set(messages)) == 2 * EVENTS
    assert [played.stamped(one, 0) for one in messages] == [
        one.message for one in played.generated(EVENTS).events
    ] * 2


@pytest.mark.parametrize("play", ["flat", "paced"])
def test_a_line_that_breaks_during_a_play_goes_on_with_its_sister(source: Child, play: str) -> None:
    """The oldest line is cut while it is not the only one; who comes back gets what its sisters get from then on."""
    ports = source.ask(do="listen")
    source.ask(do="prepare", markets=["BTC-USD"], events=EVENTS)
    with closing(Client(ports["plain"]).sock) as first, closing(Client(ports["plain"]).sock) as second:
        source.ask(do="expect", lines=2)
        reader = Thread(target=_drain, args=(second,))
        reader.start()
        done = source.ask(do=play, seconds=0.3, cut_s=0.05, **({"rate": 1000.0} if play == "paced" else {}))
        assert sum(done["events"].values()) > 0
        _drain(first)  # what it was sent before, and then its end
        second.shutdown(socket.SHUT_RDWR)
        reader.join()


def _drain(sock: socket.socket) -> None:
    """Read to the end."""
    while sock.recv(1 << 16):
        pass


def test_who_comes_back_gets_nothing_from_before() -> None:
    """A line joins where the foremost was, also if that one is gone: a broadcast of the past is nobody's any more."""
    market = Market("BTC-USD", played.generated(EVENTS))
    ahead, behind, back = (Connection(socket.socket(), cast("Source", None)) for _ in range(3))
    for line in (ahead, behind):
        market.join(line)
    ahead.sent, behind.sent = 70, 40
    market.leave(ahead)
    market.join(back)
    assert (behind.sent, back.sent) == (40, 70)
    market.start()
    assert (behind.sent, back.sent) == (0, 0)
    for line in (ahead, behind, back):
        line.close()
