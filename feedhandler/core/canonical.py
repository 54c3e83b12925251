"""Equality of JSON values, for the slow path of rule R1.

Two messages that differ only in spacing, key order or escapes are the same event. Their canonical form, keys sorted
and white space gone, is equal exactly when the values are. Numbers with a fraction or an exponent keep their text:
two of them that only rounding makes equal are different.
"""

import msgspec


class _Text(msgspec.Struct, frozen=True):
    number: str


_decode = msgspec.json.Decoder(float_hook=_Text).decode
_encode = msgspec.json.Encoder(order="sorted").encode


def canonical(payload: bytes) -> bytes:
    """Return the canonical form of ``payload``, or ``payload`` itself where it is no JSON."""
    try:
        return _encode(_decode(payload))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return payload
