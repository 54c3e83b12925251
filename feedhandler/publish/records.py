"""The records that belong to no channel's numbering, as lines for one consumer.

Compact JSON, keys in the order of the contract, one line each. Events and gaps are encoded where they get
their seq, in `feedhandler.core.channels`.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from feedhandler import __version__
from feedhandler.core.channels import Channel, Forgotten

PROTOCOL = 1

FOLLOW: Final = 2
"""The version of what a daemon that follows is told beside what every consumer is."""

_json = msgspec.json.encode


def _line(**fields: object) -> bytes:
    return _json(fields) + b"\n"


def hello(session: str, channels: Iterable[Channel]) -> bytes:
    """Greet: the session and the channels that the peer may read."""
    names = [channel.name for channel in channels]
    server = f"feedhandler {__version__}"
    return _line(type="hello", protocol=PROTOCOL, session=session, server=server, channels=names)


def subscribed(next_seqs: dict[str, int]) -> bytes:
    """Confirm: of each channel the first seq that will come."""
    return _line(type="subscribed", channels={name: {"next": seq} for name, seq in next_seqs.items()})


def refused(channel: str, reason: str, oldest: int, next_seq: int) -> bytes:
    """Say that a resume can't be served exactly, and what could be: from `oldest` to before `next`."""
    return _line(type="refused", channel=channel, reason=reason, oldest=oldest, next=next_seq)


def skipped(channel: str, first: int, last: int) -> bytes:
    """Say which seqs a consumer that was too slow will not get."""
    return _json({"type": "skipped", "channel": channel, "from": first, "to": last}) + b"\n"


def state(channel: str, word: str, since_ns: int) -> bytes:
    """Tell a channel's state."""
    return _line(type="state", channel=channel, state=word, since=since_ns)


def retired(channel: str, next_seq: int, since_ns: int) -> bytes:
    """Say that a channel is given up: nothing from `next` on comes of it until a state of it says otherwise."""
    return _line(type="retired", channel=channel, next=next_seq, since=since_ns)


def heartbeat(now_ns: int, next_seqs: dict[str, int]) -> bytes:
    """Tell the next seq of each channel, true of the place in the stream where this record stands."""
    return _line(type="heartbeat", now=now_ns, next=next_seqs)


def error(code: str, detail: str) -> bytes:
    """Say why the connection will be closed: the consumer asked for something wrong."""
    return _line(type="error", code=code, detail=detail)


def bye(reason: str) -> bytes:
    """Say why the connection will be closed: the server's reason."""
    return _line(type="bye", reason=reason)


# For a daemon that follows (`publish.precedence`)


def channel(one: Channel, first: int) -> bytes:
    """Tell of a channel all that its records do not; the first one that will come has the seq ``first``."""
    return _line(
        type="channel",
        channel=one.name,
        feed=one.feed,
        account=one.account,
        first=first,
        last=one.last_ns,
        retired=one.retired,
    )


def forgotten(name: str, gone: Forgotten) -> bytes:
    """Tell of a channel of which nothing but its numbering is remembered."""
    return _line(type="forgotten", channel=name, account=gone.account, first=gone.next, last=gone.last_ns)


def interleaved(name: str) -> bytes:
    """Say that lines of a channel's feed interleave its channels differently: one order proves nothing there."""
    return _line(type="interleaved", channel=name)


def level() -> bytes:
    """Say that from here on whoever reads this is sent everything before any consumer is."""
    return _line(type="level")


def heard(*, ready: bool) -> bytes:
    """Confirm what whoever reads this has said of itself: it is relied on from here on, or not any more."""
    return _line(type="heard", ready=ready)
