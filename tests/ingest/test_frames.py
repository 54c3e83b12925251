"""Splitting frames: against a naive reference, whatever the cuts, and every rule that fails a connection."""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedhandler.ingest.frames import FrameSplitter

LIMIT = 70_000


def frame(first: int, payload: bytes, *, masked: int = 0, width: int | None = None) -> bytes:
    """Encode one server frame; ``width`` forces the number of length bytes."""
    size = len(payload)
    width = width if width is not None else 0 if size < 126 else 2 if size < 65_536 else 8
    short = {0: size, 2: 126, 8: 127}[width]
    return bytes([first, masked | short]) + (size.to_bytes(width, "big") if width else b"") + payload


class Expected(NamedTuple):
    """What should come out of a sequence of frames."""

    wire: bytes
    payloads: list[bytes]
    control: bytes
    rejected: list[str]


controls = st.builds(frame, st.sampled_from([0x89, 0x8A]), st.binary(max_size=125))
bodies = st.one_of(
    st.binary(max_size=4),
    st.binary(min_size=120, max_size=132),
    st.sampled_from([b"x" * 65_535, b"y" * 65_536, b"z" * LIMIT]),
)


@st.composite
def messages(draw: st.DrawFn) -> Expected:
    """One message in one or more fragments, control frames between them."""
    opcode = draw(st.sampled_from([1, 1, 1, 2]))
    body = draw(bodies)
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=3)))
    parts = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    wire = control = b""
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        wire += frame((0x80 if last else 0) | (0 if index else opcode), part)
        if not last and draw(st.booleans()):
            between = draw(controls)
            wire += between
            control += between
    return Expected(wire, [body] if opcode == 1 else [], control, ["binary"] if opcode == 2 else [])


def alone(wire: bytes) -> Expected:
    """Expect a control frame between messages."""
    return Expected(wire, [], wire, [])


streams = st.lists(st.one_of(messages(), messages(), controls.map(alone)), max_size=8)


def split(splitter: FrameSplitter, chunks: list[bytes]) -> tuple[list[bytes], bytes]:
    """Feed chunk after chunk and join what comes out."""
    payloads: list[bytes] = []
    control = b""
    for chunk in chunks:
        more, handed_on = splitter.feed(chunk)
        payloads += more
        control += handed_on
    return payloads, control


@given(streams, st.data())
def test_any_cuts_give_the_same_messages(expected: list[Expected], data: st.DataObject) -> None:
    """However the bytes are cut, messages and control frames come out complete and in order."""
    wire = b"".join(one.wire for one in expected)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    splitter = FrameSplitter(LIMIT)

    result = split(splitter, [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)])

    assert result == (
        [payload for one in expected for payload in one.payloads],
        b"".join(one.control for one in expected),
    )
    assert splitter.take_rejected() == [kind for one in expected for kind in one.rejected]
    assert not splitter.failure


STORY = (
    frame(0x81, b"first")
    + frame(0x81, b"")
    + frame(0x81, b"s" * 130)
    + frame(0x89, b"ping")
    + frame(0x01, b"frag")
    + frame(0x8A, b"")
    + frame(0x80, b"ment")
    + frame(0x82, b"binary")
    + frame(0x81, b"\xc3\xa9", width=8)
    + frame(0x88, b"\x03\xe8")
)


@pytest.mark.parametrize("cut", range(len(STORY) + 1))
def test_every_single_cut(cut: int) -> None:
    """A cut at any byte offset of a story with every kind of frame changes nothing."""
    splitter = FrameSplitter(LIMIT)
    payloads, control = split(splitter, [STORY[:cut], STORY[cut:]])
    assert payloads == [b"first", b"", b"s" * 130, b"fragment", b"\xc3\xa9"]
    assert control == frame(0x89, b"ping") + frame(0x8A, b"") + frame(0x88, b"\x03\xe8")
    assert splitter.closed


def test_byte_by_byte() -> None:
    """The same story arriving one byte at a time gives the same messages."""
    splitter = FrameSplitter(LIMIT)
    payloads, _ = split(splitter, [STORY[i : i + 1] for i in range(len(STORY))])
    assert payloads == [b"first", b"", b"s" * 130, b"fragment", b"\xc3\xa9"]


GOOD = frame(0x81, b"good")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        pytest.param(frame(0x81, b"\0\0\0\0x", masked=0x80), "protocol", id="masked"),
        pytest.param(frame(0xC1, b"x"), "protocol", id="rsv1"),
        pytest.param(frame(0xA1, b"x"), "protocol", id="rsv2"),
        pytest.param(frame(0x91, b"x"), "protocol", id="rsv3"),
        pytest.param(frame(0x83, b"x"), "protocol", id="reserved data opcode"),
        pytest.param(frame(0x8B, b"x"), "protocol", id="reserved control opcode"),
        pytest.param(frame(0x80, b"x"), "protocol", id="continuation of nothing"),
        pytest.param(
            frame(0x01, b"x") + frame(0x81, b"x"), "protocol", id="text within a fragmented message"
        ),
        pytest.param(
            frame(0x01, b"x") + frame(0x02, b"x"), "protocol", id="binary within a fragmented message"
        ),
        pytest.param(frame(0x09, b"x"), "protocol", id="fragmented control frame"),
        pytest.param(frame(0x89, b"x" * 126), "protocol", id="long control frame"),
        pytest.param(frame(0x81, b"x" * 1001), "oversize", id="oversize"),
        pytest.param(b"\x81\x7f" + b"\xff" * 8, "oversize", id="absurd length"),
        pytest.param(frame(0x82, b"x" * 1001), "oversize", id="oversize binary"),
        pytest.param(frame(0x01, b"x" * 600) + frame(0x80, b"x" * 401), "oversize", id="oversize in sum"),
        pytest.param(
            frame(0x02, b"x" * 600) + frame(0x00, b"x" * 401), "oversize", id="oversize binary in sum"
        ),
    ],
)
def test_violations_fail_the_connection(bad: bytes, reason: str) -> None:
    """What precedes a violation comes out, nothing after it does, and the reason is named."""
    for chunks in ([GOOD + bad + GOOD, GOOD], [(GOOD + bad + GOOD)[i : i + 1] for i in range(len(bad) + 12)]):
        splitter = FrameSplitter(1000)
        assert split(splitter, chunks) == ([b"good"], b"")
        assert splitter.failure == reason


def test_message_of_exactly_the_limit() -> None:
    """The bound itself is allowed, in one frame and in fragments."""
    splitter = FrameSplitter(1000)
    wire = frame(0x81, b"x" * 1000) + frame(0x01, b"y" * 500) + frame(0x80, b"y" * 500)
    assert split(splitter, [wire]) == ([b"x" * 1000, b"y" * 1000], b"")


def test_oversize_is_known_from_the_header() -> None:
    """The header alone fails the connection: nothing of the payload needs to come."""
    splitter = FrameSplitter(1000)
    splitter.feed(frame(0x81, b"x" * 1001)[:4])
    assert splitter.failure == "oversize"


def test_nothing_after_a_close_frame() -> None:
    """Data after a close frame is not looked at."""
    splitter = FrameSplitter(LIMIT)
    close = frame(0x88, b"\x03\xe8bye")
    assert split(splitter, [GOOD + close + GOOD, GOOD]) == ([b"good"], close)
    assert not splitter.failure


def test_rejected_messages_are_taken_once() -> None:
    """Each binary message is named once, fragmented or not."""
    splitter = FrameSplitter(LIMIT)
    splitter.feed(frame(0x82, b"a") + frame(0x02, b"b") + frame(0x80, b"c") + GOOD)
    assert splitter.take_rejected() == ["binary", "binary"]
    assert splitter.take_rejected() == []


def test_large_frame_in_small_reads_costs_linear_work() -> None:
    """A large frame in many reads is looked at when it is complete, not at every read."""
    splitter = FrameSplitter(1 << 22)
    wire = frame(0x81, b"x" * (1 << 22))
    splitter.feed(wire[:100])
    looks = 0

    def split_once(data: bytes, position: int) -> None:
        nonlocal looks
        looks += 1
        FrameSplitter._split(splitter, data, position)

    splitter._split = split_once  # type: ignore[method-assign]
    payloads, _ = split(splitter, [wire[i : i + 1000] for i in range(100, len(wire), 1000)])
    assert payloads == [b"x" * (1 << 22)]
    assert looks == 1
