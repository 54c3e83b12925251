"""What a line asks for and what the answer to its handshake means. Pure: text and bytes in, values out.

The answer is judged here before the WebSocket library sees it, since that one reads the body of a refusal
without a bound, waits for ever where some rules are broken, and names in its exceptions what was sent. The
exchange may select the subprotocol that was offered, which carries the token, or none; no extension was
offered, so none may be selected. The library then checks the rest (``Sec-WebSocket-Accept`` and the like).
"""

from typing import Final, NamedTuple
from urllib.parse import urlsplit

from feedhandler.errors import ConnectionFailed, HandshakeRefused
from feedhandler.exchange.web import retry_after_s

SWITCHING_PROTOCOLS: Final = 101
PORTS: Final = {"ws": 80, "wss": 443}


class Target(NamedTuple):
    """Where a line connects and what it asks for there."""

    host: str
    port: int
    tls: bool
    resource: str

    @classmethod
    def from_url(cls, url: str) -> "Target":
        """Take a ``ws`` or ``wss`` URL apart; the configuration has checked it."""
        parts = urlsplit(url)
        resource = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.hostname or "", parts.port or PORTS[parts.scheme], parts.scheme == "wss", resource)

    @property
    def authority(self) -> str:
        """The ``Host`` header: an IPv6 address in brackets, and the port unless it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS["wss" if self.tls else "ws"] else f"{host}:{self.port}"


def subprotocol(token: str) -> str:
    """Return the subprotocol that carries the token (exchange-api.md, section 2.3)."""
    return f"authorization#{token}"


def check_answer(head: bytes, offered: str | None, wall_s: float) -> None:
    """Raise ``ConnectionFailed`` unless the head of an answer accepts what was offered."""
    status_line, *lines = head.decode("latin-1").split("\r\n")
    status = _status(status_line)
    headers = [_header(line) for line in lines if line]
    if status != SWITCHING_PROTOCOLS:
        waits = [retry_after_s(value, wall_s) for name, value in headers if name == "retry-after"]
        raise HandshakeRefused(status, next(iter(waits), None))
    for name, value in headers:
        if name == "sec-websocket-protocol" and value != offered:
            raise ConnectionFailed("protocol", "the exchange selected a subprotocol that was not offered")
        if name == "sec-websocket-extensions" and value:
            raise ConnectionFailed("protocol", "the exchange selected an extension that was not offered")


def _status(line: str) -> int:
    version, _, rest = line.partition(" ")
    code = rest[:3]
    if not version.startswith("HTTP/1.") or not (code.isascii() and code.isdigit() and len(code) == 3):
        raise ConnectionFailed("protocol", "the answer to the handshake is not HTTP/1.1")
    return int(code)


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip().lower(), value.strip()
