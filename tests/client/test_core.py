"""The consumer's side of the protocol: lines, records, counting, positions."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedhandler.client.core import (
    Bye,
    Error,
    Event,
    Gap,
    Heartbeat,
    Hello,
    Lines,
    Next,
    Position,
    ProtocolError,
    Reader,
    Record,
    Refused,
    Skipped,
    Snapshot,
    State,
    Subscribed,
    Unknown,
    decode,
    read_position,
    write_position,
)
from feedhandler.errors import OperationalError

A, B = "m/a", "m/b"
words = st.text(st.characters(exclude_categories=["Cs"]))


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


def live(**first: int) -> Reader:
    """Return a reader that is subscribed."""
    reader = Reader()
    fed(reader, hello(), subscribed(**first))
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


@given(lines=st.lists(st.binary(max_size=9).map(lambda raw: raw.replace(b"\n", b""))), data=st.data())
@settings(deadline=None)
def test_lines_come_out_whatever_the_pieces(lines: list[bytes], data: st.DataObject) -> None:
    """However the bytes are cut, the same lines come out."""
    whole = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)))))
    out, reader = [], Lines()
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        reader.feed(whole[start:end])
        while (line := reader.next()) is not None:
            out.append(line)
    assert b"".join(out) == whole
    assert len(out) == len(lines)


def test_a_line_has_a_bound() -> None:
    """A line that does not end is given up, whole lines before it are not lost."""
    reader = Reader(line_bytes=100)
    assert len(fed(reader, hello() + b"x" * 100)) == 1
    reader.feed(b"x")
    with pytest.raises(ProtocolError, match="more than 100 bytes"):
        reader.next()


def test_the_request_is_the_contracts() -> None:
    """The request names what is wanted, and a position only where there is one."""
    assert Reader(["m/a"], snapshot=False).subscribe() == (
        b'{"op":"subscribe","channels":["m/a"],"snapshot":false}\n'
    )
    resuming = Reader(["*"], name="desk", resume=Position("s", {A: 120}))
    assert resuming.subscribe() == (
        b'{"op":"subscribe","channels":["*"],"snapshot":true,'
        b'"resume":{"session":"s","seq":{"m/a":120}},"name":"desk"}\n'
    )


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


def test_a_resume_that_comes_true_goes_on() -> None:
    """After a reconnect in the same session, the next seq of each channel is the one expected."""
    reader = live(a=5, b=9)
    fed(reader, event(5))
    reader.feed(b'{"type":"event","chan')
    reader.restart()
    assert not reader.subscribed
    assert json.loads(reader.subscribe())["resume"] == {"session": "s", "seq": {A: 5, B: 8}}
    assert len(fed(reader, hello(), subscribed(a=6, b=9), event(6), event(9, B))) == 4
    assert reader.position() == Position("s", {A: 6, B: 9})


def test_a_refused_resume_says_so_before_anything_else_comes() -> None:
    """(10) Where a channel goes on elsewhere and no `refused` came, its next record is an error."""
    answers = [hello("t"), subscribed(a=1, b=1)]
    reader = Reader(resume=Position("s", {A: 5}))
    fed(reader, *answers)
    with pytest.raises(ProtocolError, match="not resumed"):
        fed(reader, event(1))
    reader.restart()
    refused = line(type="refused", channel=A, reason="unknown_session", oldest=1, next=1)
    assert len(fed(reader, *answers, refused, event(1), event(1, B))) == 5
    assert reader.position() == Position("t", {A: 1, B: 1})


@pytest.mark.parametrize("session", ["s", "t"])
def test_a_refusal_that_was_not_dealt_with_is_asked_for_again(session: str) -> None:
    """A connection that ends between `subscribed` and `refused` leaves the position where it was."""
    reader = Reader(resume=Position("s", {A: 5, B: 2}))
    fed(reader, hello(session), subscribed(a=9, b=3))
    assert reader.position() == Position("s", {A: 5, B: 2})
    reader.restart()
    assert json.loads(reader.subscribe())["resume"] == {"session": "s", "seq": {A: 5, B: 2}}


def test_a_position_does_not_move_into_another_session() -> None:
    """Channels that are not subscribed keep their seq in their session, and are forgotten with it."""
    reader = Reader(["m/a"], resume=Position("s", {A: 5, B: 2}))
    fed(reader, hello("s"), subscribed(a=6))
    assert reader.position() == Position("s", {A: 5, B: 2})
    reader.restart()
    fed(reader, hello("t"), subscribed(a=1), line(type="refused", channel=A, reason="x", oldest=1, next=1))
    assert reader.position() == Position("t", {A: 0})


def test_nothing_is_confirmed_before_the_greeting() -> None:
    """Without a session there is no position."""
    with pytest.raises(ProtocolError, match="before it had greeted"):
        fed(Reader(), subscribed(a=1))
    assert Reader().position() is None


@given(words, st.dictionaries(words, st.integers(0)))
@settings(deadline=None)
def test_a_written_position_is_read_back(session: str, seq: dict[str, int]) -> None:
    """A position survives being written, as one line."""
    position = Position(session, seq)
    assert read_position(write_position(position)) == position
    assert write_position(position).count(b"\n") == 1


@pytest.mark.parametrize(
    "text",
    [b"", b"{}", b"x", b'{"session":"s","seq":{"m/a":-1}}', b'{"session":"s","seq":{"m/a":1.0}}', b"\xff"],
)
def test_a_broken_position_is_refused(text: bytes) -> None:
    """What is not a position is said to be none."""
    with pytest.raises(OperationalError, match="not a position"):
        read_position(text)
