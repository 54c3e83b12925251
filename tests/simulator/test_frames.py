"""Frames: what an independent parser makes of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import CloseConnection, TextMessage

from feedhandler.simulator import frames


def parse(data):
    """Return the events that a client sees."""
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(data)
    return list(client.events())


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_every_length_form(size):
    """Each of the three length forms is read back, at its edges."""
    payload = b"x" * size
    assert "".join(event.data for event in parse(frames.text(payload))) == payload.decode()
    assert frames.payload(frames.text(payload)) == payload


@given(
    payload=st.binary(min_size=1, max_size=300).map(lambda data: data.hex().encode()),
    size=st.integers(1, 700),
)
def test_fragments_make_one_message(payload, size):
    """However a message is cut, it is one message, in pieces of at most that size."""
    events = parse(frames.text(payload, size))
    assert all(isinstance(event, TextMessage) for event in events)
    assert "".join(event.data for event in events) == payload.decode()
    assert [event.message_finished for event in events] == [False] * (len(events) - 1) + [True]
    assert max(len(event.data) for event in events) <= size


def test_a_close_frame_names_its_reason():
    """A close frame carries its code and reason, cut to what a control frame may hold."""
    (event,) = parse(frames.close(1013, "slow" * 100))
    assert isinstance(event, CloseConnection)
    assert event.code == 1013
    assert event.reason == ("slow" * 100)[:123]


def test_only_a_plain_text_frame_has_a_payload():
    """Fragments and control frames have no payload that could be dressed anew."""
    assert frames.payload(frames.text(b"abc", 1)) is None
    assert frames.payload(frames.frame(frames.PING, b"abc")) is None
