"""What consumers say, read into a value or an answer."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedhandler.publish.request import BadRequest, Request, Resume, parse

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(["op", "channels", "snapshot", "resume", "slow", "name", "other"])


def test_a_full_request_is_read() -> None:
    """All keys of the contract are taken, unknown ones ignored."""
    line = (
        b'{"op":"subscribe","channels":["a/b","*"],"snapshot":true,"colour":"red",'
        b'"resume":{"session":"s","seq":{"a/b":120},"more":1},"slow":"disconnect","name":"desk"}\n'
    )
    assert parse(line) == Request("subscribe", ["a/b", "*"], True, Resume("s", {"a/b": 120}), name="desk")


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        (b"", "Input data was truncated"),
        (b"hello\n", "JSON is malformed: invalid character (byte 0)"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "Object missing required field `op`"),
        (b'{"op":"subscribe"}', "Object missing required field `channels`"),
        (b'{"op":"publish","channels":["*"]}', "Invalid enum value 'publish' - at `$.op`"),
        (b'{"op":"subscribe","channels":[]}', "Expected `array` of length >= 1 - at `$.channels`"),
        (b'{"op":"subscribe","channels":[1]}', "Expected `str`, got `int` - at `$.channels[0]`"),
        (b'{"op":"subscribe","channels":["*"],"snapshot":1}', "Expected `bool`, got `int` - at `$.snapshot`"),
        (b'{"op":"subscribe","channels":["*"],"slow":"x"}', "Invalid enum value 'x' - at `$.slow`"),
        (
            b'{"op":"subscribe","channels":["*"],"name":"a\\u001b[2J"}',
            "Expected printable characters - at `$.name`",
        ),
        (b'{"op":"subscribe","channels":["*"],"x":"\xff"}', "the line is not valid UTF-8"),
        (b'{"op":"subscribe","x":' + b"[" * 100_000, "the line is nested too deeply"),
    ],
)
def test_what_is_wrong_is_said(line: bytes, detail: str) -> None:
    """Each mistake has its clear answer."""
    assert parse(line) == BadRequest(detail)


@pytest.mark.parametrize("seq", ["-1", "true", "1.0", "1e3", '"1"', "null", "[]", "1" + "0" * 5000])
def test_a_seq_is_a_number_from_nought(seq: str) -> None:
    """Hostile values of a resume are refused, whatever their type."""
    line = b'{"op":"subscribe","channels":["*"],"resume":{"session":"s","seq":{"a/b":%b}}}' % seq.encode()
    assert isinstance(parse(line), BadRequest)


def test_a_huge_seq_is_a_seq() -> None:
    """A number beyond 64 bits is read; that it is in the future is for the resume to say."""
    line = b'{"op":"subscribe","channels":["*"],"resume":{"session":"s","seq":{"a/b":1%030d}}}' % 0
    request = parse(line)
    assert isinstance(request, Request)
    assert request.resume == Resume("s", {"a/b": 10**30})


@given(
    st.binary(max_size=64) | st.dictionaries(keys, json_values).map(lambda value: json.dumps(value).encode())
)
def test_nothing_raises(line: bytes) -> None:
    """Whatever bytes come, there is a request or an answer."""
    assert isinstance(parse(line), Request | BadRequest)


@given(st.text(max_size=200))
def test_a_name_is_bounded_and_printable(name: str) -> None:
    """A name that is accepted can stand in a terminal and in a label."""
    line: dict[str, Any] = {"op": "subscribe", "channels": ["*"], "name": name}
    request = parse(json.dumps(line).encode())
    if isinstance(request, Request):
        assert len(request.name) <= 64
        assert request.name.isprintable()
