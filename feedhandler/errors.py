"""The exceptions of the program, drawn as one tree.

    FeedHandlerError              everything below; `cli` turns it into one line and an exit code
    ├── ConfigError               the configuration or the command line is wrong (exit code 2)
    └── OperationalError          the world is not as needed at run time (exit code 1)
        ├── SocketInUse           another live process serves the socket path
        ├── NoSuchLine            a feed has no line of this name
        ├── LineNeeded            a feed would be without an aligned line
        └── ConnectionFailed      one attempt to open a line failed; the line backs off and tries again
            ├── HandshakeRefused  the exchange answered the handshake with an HTTP status
            └── TokenRefused      the token endpoint gave no token

Data never raises: what the exchange, a consumer or a file sends is counted, named in a note and answered, so
none of these carries a message from outside beyond a status code. An exception that is not in this tree is a bug.
"""

from collections.abc import Sequence


class FeedHandlerError(Exception):
    """Base of everything that the program raises on purpose."""


class ConfigError(FeedHandlerError):
    """The configuration is wrong: ``mistakes`` holds one line for each mistake, its path first."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = tuple(mistakes)


class OperationalError(FeedHandlerError):
    """Something outside the program is not as it needs to be."""


class SocketInUse(OperationalError):
    """Another live process serves the socket path."""


class NoSuchLine(OperationalError):
    """A feed has no line of the name that somebody gave."""

    def __init__(self, feed: str, line: str) -> None:
        super().__init__(f"feed {feed} has no line {line}")


class LineNeeded(OperationalError):
    """What somebody asked for would leave a feed without an aligned line."""

    def __init__(self, feed: str, line: str) -> None:
        super().__init__(f"line {line} is the last aligned one of feed {feed}")


class ConnectionFailed(OperationalError):
    """One attempt to open a line failed.

    ``reason`` is a word of a closed set (``dns``, ``refused``, ``unreachable``, ``tls``, ``timeout``, ``protocol``,
    ``handshake``, ``token``); the text is for people and free of secrets.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class HandshakeRefused(ConnectionFailed):
    """The exchange answered the WebSocket handshake with ``status``; ``retry_after`` in seconds if it named one."""

    def __init__(self, status: int, retry_after: float | None = None) -> None:
        super().__init__("handshake", f"the exchange answered the handshake with HTTP status {status}")
        self.status = status
        self.retry_after = retry_after


class TokenRefused(ConnectionFailed):
    """The token endpoint gave no token; ``status`` is its HTTP status or 0 where there was no usable answer."""

    def __init__(self, status: int, text: str, retry_after: float | None = None) -> None:
        super().__init__("token", text)
        self.status = status
        self.retry_after = retry_after
