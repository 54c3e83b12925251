"""What the control socket is asked: hostile lines never raise, and every request of the command is one."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedhandler.control.client import COMMANDS
from feedhandler.control.requests import Done, Refusal, Request, parse, render


@pytest.mark.parametrize("op", COMMANDS)
def test_every_command_is_a_request(op: str) -> None:
    """What the command line can ask is what the daemon understands."""
    assert parse(msgspec.json.encode(Request(op))) == Request(op)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        (b"", "Input data was truncated"),
        (b"\xff", "the line is not valid UTF-8"),
        (b'{"x":' + b"[" * 100_000, "the line is nested too deeply"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "Object missing required field `op`"),
        (b'{"op":"dance"}', "Invalid enum value 'dance' - at `$.op`"),
        (b'{"op":"rotate","feed":7}', "Expected `str`, got `int` - at `$.feed`"),
        (b'{"op":"rotate","feed":"%s"}' % (b"x" * 300), "Expected `str` of length <= 256 - at `$.feed`"),
    ],
)
def test_what_is_no_request_is_answered(line: bytes, detail: str) -> None:
    """Each mistake has its word."""
    assert parse(line) == Refusal("bad_request", detail)


@given(st.binary() | st.text().map(str.encode))
def test_no_line_raises(line: bytes) -> None:
    """Whatever comes is a request or a refusal, and its answer is one line."""
    outcome = parse(line)
    assert isinstance(outcome, Request | Refusal)
    if isinstance(outcome, Refusal):
        assert render(outcome).count(b"\n") == 1


def test_answers() -> None:
    """An answer says whether it was done, and what came of it."""
    assert render(Done({"a": 1})) == b'{"ok":true,"result":{"a":1}}\n'
    assert render(Refusal("busy", "later")) == b'{"ok":false,"code":"busy","error":"later"}\n'
