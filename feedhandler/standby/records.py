"""What the active daemon says to who follows it, line by line.

Mostly that is what it says to every consumer, in the very bytes that consumers get; beside it what is for a daemon
alone (`feedhandler.publish.records`). The message of a record stands last and verbatim, so it is cut out and not read.
Data never raises: a line that is no such record is None, and whoever reads it knows that he must not rely on the rest.
"""

from typing import NamedTuple

import msgspec

_MESSAGE = b',"msg":'


class Head(msgspec.Struct, frozen=True, gc=False, rename={"event_class": "class"}):
    """All of a record but its message."""

    type: str
    channel: str = ""
    seq: int = 0
    line: str = ""
    recv: int = -1
    event_class: str = ""
    reason: str = ""
    since: int = 0
    until: int = 0
    state: str = ""
    feed: str = ""
    account: bool = False
    first: int = 1
    last: int = -1
    retired: bool = False
    protocol: int = 0
    session: str = ""
    server: str = ""
    code: str = ""
    detail: str = ""
    ready: bool = False


class Record(NamedTuple):
    """One record: its head, its message (empty where it has none), and the line as it came, its end included."""

    head: Head
    message: bytes
    line: bytes


_decode = msgspec.json.Decoder(Head).decode


def read(line: bytes) -> Record | None:
    r"""Read a line without its end; None where it is no record.

    >>> read(b'{"type":"bye","reason":"takeover"}').head.reason
    'takeover'
    >>> read(b'{"type":"event","channel":"m/s","seq":1,"line":"a","recv":7,"msg":{"a":1}}').message
    b'{"a":1}'
    """
    end = line.find(_MESSAGE)
    head = line if end < 0 else b"%b}" % line[:end]
    try:
        return Record(_decode(head), b"" if end < 0 else line[end + len(_MESSAGE) : -1], line + b"\n")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
