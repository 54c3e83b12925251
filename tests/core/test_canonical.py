"""Equality of JSON values."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedhandler.core.canonical import canonical

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(values, values)
def test_forms_are_equal_exactly_when_values_are(one: object, other: object) -> None:
    """Spacing, key order and escapes make no difference; values do."""
    form = canonical(json.dumps(one).encode())
    assert form == canonical(json.dumps(one, indent=2, sort_keys=True, ensure_ascii=False).encode())
    assert (form == canonical(json.dumps(other).encode())) == (
        json.dumps(one) == json.dumps(other) or same(one, other)
    )


def same(one: object, other: object) -> bool:
    """Tell whether two values are equal and of equal types."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


@pytest.mark.parametrize(
    ("one", "other"), [(b"1.0", b"1.00"), (b"1e1", b"10"), (b"0.1", b"0.10000000000000001"), (b"1", b"1.0")]
)
def test_numbers_keep_their_text(one: bytes, other: bytes) -> None:
    """Two numbers that only rounding or spelling makes equal are different."""
    assert canonical(one) != canonical(other)


@pytest.mark.parametrize("payload", [b"", b"b1", b"\xff", b"[" * 100_000, b'{"a":'])
def test_what_is_no_json_stands_for_itself(payload: bytes) -> None:
    """Rule R11: no bytes make it raise."""
    assert canonical(payload) == payload
