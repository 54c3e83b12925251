"""The consumer's side of the protocol: lines, records, counting, positions."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from feedhandler.client.core import (
    Bye,
    Error,
    Event,
    Gap,
    Heartbeat,
    Hello,
    Next,
    Reader,
    Record,
    Refused,
    Skipped,
    Snapshot,
    State,
    Subscribed,
    Unknown,
    decode,
)
from feedhandler.client.errors import ProtocolError
from feedhandler.client.position import Position

A, B = "m/a", "m/b"


def line(**fields: Any) -> bytes:
    """Write a record as the server does."""
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def hello(session: str = "s") -> bytes:
    """Write a greeting."""
    return line(type="hello", protocol=1, session=session, server="feedhandler 0.1.0", channels=[A, B])


def subscribed(**first: int) -> bytes:
    """Write the answer to a request; `a` stands for the channel `m/a`."""
    return line(type="subscribed", channels={f"m/{name}": {"next": seq} for name, seq in first.items()})


def event(seq: int, channel: str = A) -> bytes:
    """Write an event."""
    return line(type="event", channel=channel, seq=seq, line="a", recv=7, msg={"x": seq})


def fed(reader: Reader, *lines: bytes) -> list[Record]:
    """Feed lines and return the records."""
    reader.feed(b"".join(lines))
    records = []
    while received := reader.next():
        records.append(received.record)
    return records


def answered(reader: Reader, *lines: bytes, session: str = "s", channels: Sequence[str] = (A, B)) -> Any:
    """Let a connection begin with those lines after the greeting; return the request."""
    greeting = line(type="hello", protocol=1, session=session, server="x", channels=channels)
    assert len(fed(reader, greeting)) == 1
    request = json.loads(reader.request())
    fed(reader, *lines)
    return request


def live(**first: int) -> Reader:
    """Return a reader that is subscribed."""
    reader = Reader()
    answered(reader, subscribed(**first))
    return reader


@pytest.mark.parametrize(
    ("text", "record"),
    [
        (hello(), Hello(1, "s", "feedhandler 0.1.0", [A, B])),
        (subscribed(a=5), Subscribed({A: Next(5)})),
        (
            b'{"type":"gap","channel":"m/a","seq":2,"reason":"outage","since":1,"until":2}',
            Gap(A, 2, "outage", 1, 2),
        ),
        (b'{"type":"skipped","channel":"m/a","from":2,"to":4}', Skipped(A, 2, 4)),
        (
            b'{"type":"refused","channel":"m/a","reason":"future","oldest":1,"next":2}',
            Refused(A, "future", 1, 2),
        ),
        (b'{"type":"heartbeat","now":1,"next":{"m/a":2}}', Heartbeat(1, {A: 2})),
        (b'{"type":"state","channel":"m/a","state":"live","since":3}', State(A, "live", 3)),
        (b'{"type":"error","code":"busy","detail":"x","more":[1]}', Error("busy", "x")),
        (b'{"type":"bye","reason":"slow"}\n', Bye("slow")),
        (b'{"type":"sunrise","channel":7}', Unknown("sunrise")),
    ],
)
def test_records_are_typed(text: bytes, record: Record) -> None:
    """Each record of the contract has its type, and unknown keys and types pass."""
    assert decode(text) == record


def test_a_message_stays_as_it_came() -> None:
    """The message inside a record is not decoded; a class is there only where the server sent one."""
    record = decode(
        b'{"type":"event","channel":"m/a","seq":1,"line":"b","recv":7,"class":"late","msg":{ "x" : 1.50 }}'
    )
    assert isinstance(record, Event)
    assert (bytes(record.msg), record.event_class) == (b'{ "x" : 1.50 }', "late")
    book = decode(b'{"type":"snapshot","channel":"m/a","seq":1,"reason":"join","msg":{"y":[]}}')
    assert isinstance(book, Snapshot)
    assert bytes(book.msg) == b'{"y":[]}'


@pytest.mark.parametrize(
    "text", [b"", b"x", b"[]", b"{}", b'{"type":7}', b'{"type":"bye"}', b'{"type":' + b"[" * 99_999]
)
def test_what_is_no_record_is_an_error(text: bytes) -> None:
    """A line that is no record of the protocol is never passed on."""
    with pytest.raises(ProtocolError, match="no record"):
        decode(text)


def test_the_request_is_the_contracts() -> None:
    """The request names what is wanted, and a position only where there is one."""
    plain = Reader(["m/a"], snapshot=False)
    resuming = Reader(["m/*"], name="desk", slow="conflate", resume=Position("s", {A: 120, B: 7}))
    fed(plain, hello())
    fed(resuming, hello())
    assert plain.request() == b'{"op":"subscribe","channels":["m/a"],"snapshot":false}\n'
    assert resuming.request() == (
        b'{"op":"subscribe","channels":["m/*"],"snapshot":true,'
        b'"resume":{"session":"s","seq":{"m/a":120,"m/b":7}},"slow":"conflate","name":"desk"}\n'
    )


def test_the_request_is_sent_once_and_after_the_greeting() -> None:
    """There is one request for each connection."""
    reader = Reader()
    for _ in range(2):
        assert reader.request() == b""
        fed(reader, hello())
        assert reader.request() != b""
        assert reader.request() == b""
        reader.restart()


def test_another_version_of_the_protocol_is_not_read() -> None:
    """What a later version means by its records is unknown."""
    with pytest.raises(ProtocolError, match="speaks version 2 of the protocol, not 1"):
        fed(Reader(), line(type="hello", protocol=2, session="s", server="x", channels=[]))


@pytest.mark.parametrize("pattern", ["*", "*/*", "m/*", "*/b"])
def test_a_channel_that_appeared_meanwhile_is_asked_for_from_its_start(pattern: str) -> None:
    """(10) What a pattern chooses and the position does not name was not there before."""
    reader = Reader([pattern, A], resume=Position("s", {A: 5}))
    asked = answered(reader, subscribed(a=6, b=1), event(6), event(1, B))
    assert asked["resume"]["seq"] == {A: 5, B: 0}
    assert reader.position() == Position("s", {A: 6, B: 1})


def test_a_channel_that_was_not_asked_for_before_starts_live() -> None:
    """An exact name that the position does not hold is new to this consumer, and so is what no pattern chooses."""
    reader = Reader([B, "x/*"], resume=Position("s", {A: 5}))
    assert answered(reader, subscribed(b=9), event(9, B))["resume"]["seq"] == {A: 5}
    assert not reader.torn
    first = Reader(["*"])
    assert "resume" not in answered(first, subscribed(b=9), event(9, B))


@pytest.mark.parametrize("session", ["s", "t"])
def test_a_channel_that_appears_between_greeting_and_request_is_asked_for_once_more(session: str) -> None:
    """(10) Its first records were missed, so the connection is replaced by one that gets them."""
    reader = Reader(resume=Position("s", {A: 5}))
    answered(reader, subscribed(a=6, b=3), event(3, B), session=session, channels=[A])
    assert reader.torn
    assert reader.position() == Position("s", {A: 5, B: 0})
    reader.restart()
    assert not reader.torn
    asked = answered(reader, subscribed(a=6, b=1), session="s", channels=[A])
    assert asked["resume"]["seq"] == {A: 5, B: 0}
    assert not reader.torn
    assert len(fed(reader, event(6), event(1, B))) == 2


def test_a_channel_that_appears_between_greeting_and_request_and_is_silent_was_not_missed() -> None:
    """Where its first record is still to come, nothing is wrong."""
    reader = Reader(resume=Position("s", {A: 5}))
    answered(reader, subscribed(a=6, b=1), event(1, B), channels=[A])
    assert reader.position() == Position("s", {A: 5, B: 1})


def test_a_stream_in_order_passes_and_moves_the_position() -> None:
    """Events, gaps, snapshots, skips and states in order pass; the position follows each of them."""
    reader = live(a=5, b=1)
    assert reader.position() == Position("s", {A: 4, B: 0})
    story = [
        (event(5), 5),
        (line(type="gap", channel=A, seq=6, reason="outage", since=1, until=2), 6),
        (line(type="snapshot", channel=A, seq=7, reason="gap", msg={}), 7),
        (line(type="state", channel=A, state="live", since=1), 7),
        (line(type="skipped", channel=A, **{"from": 8, "to": 20}), 20),
        (line(type="snapshot", channel=A, seq=20, reason="conflated", msg={}), 20),
        (event(21), 21),
        (line(type="heartbeat", now=1, next={A: 22, B: 1}), 21),
        (line(type="new"), 21),
    ]
    for text, last in story:
        assert len(fed(reader, text)) == 1
        position = reader.position()
        assert position
        assert position.seq == {A: last, B: 0}


@pytest.mark.parametrize(
    "text",
    [
        event(6),
        event(4),
        event(2, "m/new"),
        line(type="gap", channel=A, seq=6, reason="outage", since=1, until=2),
        line(type="snapshot", channel=A, seq=6, reason="audit", msg={}),
        line(type="skipped", channel=A, **{"from": 6, "to": 8}),
        line(type="heartbeat", now=1, next={A: 6}),
    ],
)
def test_a_hole_is_never_passed_on(text: bytes) -> None:
    """(10) Whatever does not go on from the last record is an error, and the position stays."""
    reader = live(a=5)
    with pytest.raises(ProtocolError, match="expected seq"):
        fed(reader, text)
    position = reader.position()
    assert position
    assert position.seq[A] == 4


def test_a_channel_that_appears_later_begins_with_one() -> None:
    """A new channel's first record has seq 1."""
    reader = live(a=5)
    assert len(fed(reader, event(1, "m/new"), event(2, "m/new"))) == 2


def test_a_snapshot_for_one_consumer_stands_where_the_channel_is() -> None:
    """(10) It takes no seq and leaves none out."""
    reader = Reader()
    joined = line(type="snapshot", channel=A, seq=4, reason="join", msg={})
    answered(reader, subscribed(a=5, b=1), joined, event(5))
    assert reader.position() == Position("s", {A: 5, B: 0})
    for seq in (4, 6):
        with pytest.raises(ProtocolError, match=f"expected seq 6, got {seq + 1}"):
            fed(reader, line(type="snapshot", channel=A, seq=seq, reason="conflated", msg={}))


def test_a_skip_goes_forward() -> None:
    """A skip from a seq to an earlier one is none."""
    with pytest.raises(ProtocolError, match="from seq 5 to 4"):
        fed(live(a=5), line(type="skipped", channel=A, **{"from": 5, "to": 4}))


def test_a_resume_that_comes_true_goes_on() -> None:
    """After a reconnect in the same session, the next seq of each channel is the one expected."""
    reader = live(a=5, b=9)
    fed(reader, event(5))
    reader.feed(b'{"type":"event","chan')
    reader.restart()
    assert not reader.subscribed
    asked = answered(reader, subscribed(a=6, b=9), event(6), event(9, B))
    assert asked["resume"] == {"session": "s", "seq": {A: 5, B: 8}}
    assert reader.position() == Position("s", {A: 6, B: 9})


@pytest.mark.parametrize(
    "early",
    [event(1), line(type="heartbeat", now=1, next={A: 1, B: 1}), event(1, B)],
    ids=["event", "beat", "other"],
)
def test_a_refused_resume_says_so_before_anything_else_comes(early: bytes) -> None:
    """(10) Where a channel goes on elsewhere and no `refused` came, nothing of the stream is passed on."""
    reader = Reader([A, B], resume=Position("s", {A: 5}))
    with pytest.raises(ProtocolError, match="m/a was not resumed"):
        answered(reader, subscribed(a=1, b=1), early, session="t")
    reader.restart()
    refused = line(type="refused", channel=A, reason="unknown_session", oldest=1, next=1)
    answered(reader, subscribed(a=1, b=1), refused, event(1), event(1, B), session="t")
    assert reader.position() == Position("t", {A: 1, B: 1})


def test_a_join_snapshot_may_come_before_another_channels_refusal() -> None:
    """The answer goes channel by channel."""
    reader = Reader([A, B], resume=Position("s", {B: 5}))
    joined = line(type="snapshot", channel=A, seq=4, reason="join", msg={})
    refused = line(type="refused", channel=B, reason="too_old", oldest=8, next=9)
    answered(reader, subscribed(a=5, b=9), joined, refused, event(5), event(9, B))
    assert reader.position() == Position("s", {A: 5, B: 9})


@pytest.mark.parametrize("session", ["s", "t"])
def test_a_refusal_that_was_not_dealt_with_is_asked_for_again(session: str) -> None:
    """A connection that ends between `subscribed` and `refused` leaves the position where it was."""
    reader = Reader(resume=Position("s", {A: 5, B: 2}))
    answered(reader, subscribed(a=9, b=3), session=session)
    assert reader.position() == Position("s", {A: 5, B: 2})
    reader.restart()
    assert answered(reader)["resume"] == {"session": "s", "seq": {A: 5, B: 2}}


@pytest.mark.parametrize(("session", "last"), [("s", 5), ("t", 5), ("t", 0)])
def test_a_channel_that_is_gone_owes_a_refusal(session: str, last: int) -> None:
    """(10) A chosen channel of the position that the answer does not confirm is not simply forgotten."""
    reader = Reader(resume=Position("s", {A: last}))
    answered(reader, subscribed(b=1), session=session, channels=[])
    assert reader.position() == Position("s", {A: last})
    refused = line(type="refused", channel=A, reason="future", oldest=1, next=1)
    assert len(fed(reader, refused, event(1, B), event(1))) == 3
    assert reader.position() == Position(session, {A: 1, B: 1})


def test_a_channel_that_has_no_record_yet_owes_nothing() -> None:
    """Where nothing was received, and nothing is there, nothing can be missing."""
    reader = Reader(resume=Position("s", {A: 0}))
    answered(reader, subscribed(b=1), event(1, B), event(1), channels=[])
    assert reader.position() == Position("s", {A: 1, B: 1})


def test_a_position_does_not_move_into_another_session() -> None:
    """Channels that are not subscribed keep their seq in their session, and are forgotten with it."""
    reader = Reader(["m/a"], resume=Position("s", {A: 5, B: 2}))
    answered(reader, subscribed(a=6))
    assert reader.position() == Position("s", {A: 5, B: 2})
    reader.restart()
    refused = line(type="refused", channel=A, reason="x", oldest=1, next=1)
    answered(reader, subscribed(a=1), refused, session="t")
    assert reader.position() == Position("t", {A: 0})


@pytest.mark.parametrize("early", [b"", hello()])
def test_nothing_is_confirmed_before_it_was_asked_for(early: bytes) -> None:
    """A confirmation without a request is none."""
    with pytest.raises(ProtocolError, match="was not sent yet"):
        fed(Reader(), early, subscribed(a=1))
    assert Reader().position() is None


def test_nothing_of_the_stream_comes_before_the_confirmation() -> None:
    """An event before the confirmation belongs to nothing."""
    with pytest.raises(ProtocolError, match="before the request was confirmed"):
        answered(Reader(), event(1))
