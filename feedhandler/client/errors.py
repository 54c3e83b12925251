"""What can end a client: three faults, all of them an `OperationalError`.

Trouble with the connection is none of these; it is what a client is there to get over.
"""

from feedhandler.errors import OperationalError


class ProtocolError(OperationalError):
    """The server broke the protocol: a seq that is not the next, a line that is no record or too long."""


class ServerError(OperationalError):
    """The server answered with an `error` record."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class ClientClosed(OperationalError):
    """The client was closed: it has no next record."""

    def __init__(self) -> None:
        super().__init__("the client is closed")
