"""Names of channels as NATS subjects, and back.

A channel `MARKET/STREAM` has the subject `PREFIX.MARKET.STREAM`. NATS keeps dots, `*`, `>` and white space for itself,
and an empty token is none. So of a market and of a stream stay as they are: letters and digits of ASCII, `-` and `_`.
**Every other byte of the name's UTF-8 is written `%XX`**, two capital hexadecimal digits; an empty name is `%` alone.
`channel_of` reads that back, and takes only what `subject_of` writes, so two channels never share a subject.

A server closes the connection of whoever sends too long a line, and names come from outside. A token that would be
longer than `TOKEN_BYTES` is `%%` and a digest of the name: it can't be read back, but the record says its channel.
"""

import hashlib
import re
from typing import Final

TOKEN_BYTES: Final = 256
"""The longest token that is written out."""

_PLAIN: Final = re.compile(rb"[^A-Za-z0-9_-]")
_ESCAPED: Final = re.compile(r"%([0-9A-F]{2})")
_EMPTY: Final = "%"
_LONG: Final = "%%"
_PREFIX: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


def is_prefix(text: str) -> bool:
    """Tell whether subjects may begin with it: plain tokens with dots between them."""
    return _PREFIX.fullmatch(text) is not None


def escape(name: str) -> str:
    """Return a name as one token of a subject.

    >>> escape("BTC-USD"), escape("a.b *"), escape("")
    ('BTC-USD', 'a%2Eb%20%2A', '%')
    """
    if not name:
        return _EMPTY
    token = _PLAIN.sub(lambda found: b"%%%02X" % found[0][0], name.encode()).decode()
    return token if len(token) <= TOKEN_BYTES else _LONG + hashlib.sha256(name.encode()).hexdigest()


def unescape(token: str) -> str | None:
    """Return the name that a token stands for; None where it stands for none, or for one that was too long."""
    if token == _EMPTY:
        return ""
    try:
        raw = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), token).encode("latin-1")
        name = raw.decode()
    except UnicodeError:
        return None
    return name if token == escape(name) else None


def subject_of(prefix: str, channel: str) -> str:
    """Return the subject of a channel."""
    market, _, stream = channel.rpartition("/")
    return f"{prefix}.{escape(market)}.{escape(stream)}"


def pattern_of(prefix: str, channels: str) -> str:
    """Return the subjects of the channels that a pattern names; in it ``*`` stands for any market, stream, or all.

    >>> pattern_of("feed", "*"), pattern_of("feed", "*/publicTrades"), pattern_of("feed", "A.B/*")
    ('feed.>', 'feed.*.publicTrades', 'feed.A%2EB.*')
    """
    if channels == "*":
        return f"{prefix}.>"
    market, _, stream = channels.rpartition("/")
    return ".".join((prefix, *("*" if part == "*" else escape(part) for part in (market, stream))))


def channel_of(prefix: str, subject: str) -> str | None:
    """Return the channel of a subject; None where it is no channel's, or its name was too long."""
    head, market, stream = ("", *subject.rsplit(".", 2))[-3:] if subject.count(".") > 1 else ("", "", "")
    names = unescape(market), unescape(stream)
    if head != prefix or None in names:
        return None
    return f"{names[0]}/{names[1]}"
