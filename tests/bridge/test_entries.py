"""Records in the stream: what their headers tell, and what is no number there."""

import pytest

from feedhandler.bridge.entries import ID, KIND, NEWEST, RECV, SEQ, read_stored


@pytest.mark.parametrize(
    ("text", "expected"), [("1700000000000", 1_700_000_000_000), ("", None), ("-1", None), ("²", None)]
)
def test_the_newest_time_is_a_number_or_none(text: str, expected: int | None) -> None:
    """A record that says none, or nonsense, is a record all the same."""
    headers = {ID: "key-1", KIND: "late", SEQ: "1", RECV: "0", NEWEST: text}
    stored = read_stored(5, "M/publicTrades", headers, b"{}")
    assert stored is not None
    assert stored.newest_ms == expected
