"""Readers: one small checker for each kind of value that a key can hold.

A reader is called with the value as TOML gave it, the path of the key and the list of mistakes found so
far. A value that fits is returned in the type of its field. One that does not adds its mistake, path first,
and a neutral stand-in is returned (zero, nothing, or the text as it stands), so that everything else can
still be checked and all mistakes are reported at once; a configuration with mistakes is never handed out.

Readers are inert values: the model carries them in its annotations, and tests ask them for their bounds.
"""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from feedhandler.config.toml import literal, shown

Reader = Callable[[object, str, list[str]], object]
"""Takes a value, its path and the mistakes so far; gives what the field is to hold."""

NAME_CHARS = 64
"""The longest name of a feed, market or group: each becomes a label, a file name or a part of a URL."""

PATH_BYTES = 4095
"""The longest path that the system takes."""

URL_CHARS = 2048
"""The longest URL; servers refuse longer ones."""

_FEED_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number within both bounds."""

    low: int
    high: int

    def __call__(self, value: object, path: str, mistakes: list[str]) -> int:
        """Take a TOML integer."""
        if isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high:
            return value
        refuse(mistakes, path, f"{self.low}..{self.high}", value)
        return 0


@dataclass(frozen=True, slots=True)
class Real:
    """A number within both bounds, with or without a fraction."""

    low: float
    high: float

    def __call__(self, value: object, path: str, mistakes: list[str]) -> float:
        """Take a TOML float or integer; infinities and NaN are in no range."""
        if isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high:
            return float(value)
        refuse(mistakes, path, f"{self.low:g}..{self.high:g}", value)
        return 0.0


@dataclass(frozen=True, slots=True)
class OneOf:
    """A word of a closed set."""

    words: tuple[str, ...]

    def __call__(self, value: object, path: str, mistakes: list[str]) -> str:
        """Take one of the words, written exactly so."""
        if value not in self.words:
            refuse(mistakes, path, "one of " + ", ".join(literal(word) for word in self.words), value)
        return str(value)


@dataclass(frozen=True, slots=True)
class Text:
    """Text that ``fits``; ``what`` says in a mistake what was expected."""

    what: str
    fits: Callable[[str], bool]

    def __call__(self, value: object, path: str, mistakes: list[str]) -> str:
        """Take a string that fits."""
        if not isinstance(value, str) or not self.fits(value):
            refuse(mistakes, path, self.what, value)
        return str(value)


@dataclass(frozen=True, slots=True)
class FilePath:
    """A path; where it is ``optional``, the empty string stands for none."""

    optional: bool = True

    def __call__(self, value: object, path: str, mistakes: list[str]) -> Path | None:
        """Take a path; what it is relative to was settled when its file was read."""
        if value == "" and self.optional:
            return None
        if isinstance(value, str) and value and _is_path(value):
            return Path(value)
        refuse(mistakes, path, "a path", value)
        return None


@dataclass(frozen=True, slots=True)
class Url:
    """A URL with a host, of one of the ``schemes``; where it is ``optional``, the empty string means none.

    Its value is never quoted in a mistake, since it may hold a password.
    """

    schemes: tuple[str, ...]
    optional: bool = True

    def __call__(self, value: object, path: str, mistakes: list[str]) -> str:
        """Take a URL without user, password and fragment."""
        if not isinstance(value, str):
            refuse(mistakes, path, "a URL", value)
            return ""
        fault = "" if value == "" and self.optional else self._fault(value)
        if fault:
            mistakes.append(f"{path}: {fault}")
        return value

    def _fault(self, value: str) -> str:
        parts = split_url(value)
        schemes = " or ".join(f"{scheme}://" for scheme in self.schemes)
        if parts is None or parts.scheme not in self.schemes or not parts.hostname:
            return f"expected a URL {schemes} with a host" + ("" if value else ', got ""')
        if parts.username is not None or parts.password is not None:
            return "expected a URL without user and password"
        if "#" in value:
            return "expected a URL without a fragment (#...)"
        if "ws" in parts.scheme and "?" in value:
            return "expected a URL without a query (?...): market and subscriptions are added by the program"
        return ""


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of which every item fits its own reader and none stands twice."""

    item: Reader
    what: str
    may_be_empty: bool = False

    def __call__(self, value: object, path: str, mistakes: list[str]) -> tuple[object, ...]:
        """Take a TOML list; items that do not fit are left out."""
        if not isinstance(value, list) or not (value or self.may_be_empty):
            refuse(mistakes, path, self.what, value)
            return ()
        taken: list[object] = []
        for index, raw in enumerate(value):
            self._take(raw, f"{path}[{index}]", mistakes, taken)
        return tuple(taken)

    def _take(self, raw: object, path: str, mistakes: list[str], taken: list[object]) -> None:
        known = len(mistakes)
        item = self.item(raw, path, mistakes)
        if len(mistakes) > known:
            return
        if item in taken:
            mistakes.append(f"{path}: {shown(item)} stands in the list twice")
        else:
            taken.append(item)


def refuse(mistakes: list[str], path: str, expected: str, value: object) -> None:
    """Add the mistake that ``path`` holds ``value`` where something else was expected."""
    mistakes.append(f"{path}: expected {expected}, got {shown(value)}")


def is_loopback(host: str | None) -> bool:
    """Whether ``host`` can only be this machine."""
    if host is None:
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def split_url(value: str) -> SplitResult | None:
    """Split a URL; None where it is none, its port included."""
    if len(value) > URL_CHARS or not value.isascii() or not value.isprintable() or " " in value:
        return None
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        return None
    return None if port == 0 else parts


def split_address(value: str) -> tuple[str, int] | None:
    """Split ``host:port`` (an IPv6 host in brackets); None where it is neither."""
    host, colon, port = value.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    if not colon or not (port.isascii() and port.isdecimal() and len(port) <= len("65535")):
        return None
    if int(port) > 65535 or not _is_host(bare, bracketed=bracketed):
        return None
    return bare, int(port)


def is_address(value: str) -> bool:
    """Whether ``value`` is ``host:port`` or empty."""
    return value == "" or split_address(value) is not None


def is_feed_name(value: str) -> bool:
    """Whether ``value`` can stand in labels, file names and URLs as it is, or is empty."""
    return value == "" or (len(value) <= NAME_CHARS and _FEED_NAME.fullmatch(value) is not None)


def is_market(value: str) -> bool:
    """Whether ``value`` can name a market: opaque, but visible, and no pattern unless it is ``*`` alone."""
    visible = value.isprintable() and value.strip() == value and 0 < len(value) <= NAME_CHARS
    return visible and ("*" not in value or value == "*")


def is_group(value: str) -> bool:
    """Whether ``value`` can name a group of the system, or is empty."""
    return len(value) <= NAME_CHARS and value.isprintable() and not any(char in value for char in ": /")


def is_mode(value: str) -> bool:
    """Whether ``value`` is a file mode: three octal digits, with or without a leading zero."""
    return re.fullmatch(r"0?[0-7]{3}", value, re.ASCII) is not None


def _is_host(value: str, *, bracketed: bool) -> bool:
    if bracketed or ":" in value:
        return bracketed and _is_ipv6(value)
    return re.fullmatch(r"[A-Za-z0-9_.-]{1,253}", value) is not None


def _is_ipv6(value: str) -> bool:
    try:
        ipaddress.IPv6Address(value)
    except ValueError:
        return False
    return True


def _is_path(value: str) -> bool:
    try:
        return "\0" not in value and len(value.encode()) <= PATH_BYTES
    except UnicodeEncodeError:
        return False
