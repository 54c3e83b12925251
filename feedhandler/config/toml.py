"""How values look in TOML: what `render` writes and what a mistake quotes.

The standard library reads TOML and does not write it. The few shapes of a configuration (strings, numbers,
booleans, lists of those) are written here; whatever else a file may hold (tables, dates) is only ever
quoted in a mistake, on one line and bounded.
"""

import re
from pathlib import Path

SHOWN_CHARS = 80
"""The longest value that a mistake quotes; what is longer is cut and ends in an ellipsis."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPED = re.compile(r'[\x00-\x1f"\\\x7f-\x9f\u2028\u2029\ud800-\udfff]')


def key(name: str) -> str:
    """Write ``name`` as a key: bare where TOML allows it, quoted otherwise.

    >>> key("drain_s"), key("two words")
    ('drain_s', '"two words"')
    """
    return name if _BARE_KEY.fullmatch(name) else _quoted(name)


def literal(value: object) -> str:
    """Write ``value`` as a TOML value on one line.

    >>> literal(["BTC-USD", True, 2.0])
    '["BTC-USD", true, 2.0]'
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(literal, value)) + "]"
    return _quoted(str(value))


def shown(value: object) -> str:
    """Quote ``value`` in a mistake: on one line, cut where it is long."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "a list of tables"
    text = literal(value) if isinstance(value, str | Path | int | float | list | tuple) else str(value)
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"


def _quoted(text: str) -> str:
    return '"' + _ESCAPED.sub(_escape, text) + '"'


def _escape(found: re.Match[str]) -> str:
    char = found[0]
    return "\\" + char if char in '"\\' else f"\\u{ord(char):04x}"
