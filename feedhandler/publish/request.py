"""The one line that a consumer sends, read into a value or an answer to what is wrong with it.

Types are strict (no number for a text, no `true` or `1.0` for a seq), unknown keys are ignored, and whatever
comes, the outcome is a `Request`, a `Follow` or a `BadRequest`: **data never raises**.
"""

from typing import Annotated, Literal, NamedTuple

import msgspec

NAME_CHARACTERS = 64

Seq = Annotated[int, msgspec.Meta(ge=0)]


class Resume(msgspec.Struct, frozen=True):
    """Where a consumer left off: of each channel the last seq that it received."""

    session: str
    seq: dict[str, Seq]


class Request(msgspec.Struct, frozen=True):
    """A consumer's wish."""

    op: Literal["subscribe"]
    channels: Annotated[list[str], msgspec.Meta(min_length=1)]
    snapshot: bool = False
    resume: Resume | None = None
    slow: Literal["disconnect", "conflate"] = "disconnect"
    name: Annotated[str, msgspec.Meta(max_length=NAME_CHARACTERS)] = ""


class Follow(msgspec.Struct, frozen=True):
    """The wish of another daemon: everything, so that it could take over. ``token`` is a name for this following."""

    op: Literal["follow"]
    protocol: int
    follow: int
    token: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]


class Readiness(msgspec.Struct, frozen=True):
    """What a daemon that follows says of itself: whether it could take over at once."""

    ready: bool


class _Kind(msgspec.Struct, frozen=True):
    op: object = None


class BadRequest(NamedTuple):
    """What is wrong with a line, for the consumer to read."""

    detail: str


_kind = msgspec.json.Decoder(_Kind)
_subscribe = msgspec.json.Decoder(Request)
_follow = msgspec.json.Decoder(Follow)
_readiness = msgspec.json.Decoder(Readiness)


def parse(line: bytes) -> Request | Follow | BadRequest:
    """Read a consumer's line.

    >>> parse(b'{"op":"subscribe","channels":"*"}')
    BadRequest(detail='Expected `array`, got `str` - at `$.channels`')
    """
    try:
        line.decode()  # the decoder below looks at no byte of what it ignores
        if _kind.decode(line).op == "follow":
            return _follow.decode(line)
        request = _subscribe.decode(line)
    except UnicodeDecodeError:
        return BadRequest("the line is not valid UTF-8")
    except RecursionError:
        return BadRequest("the line is nested too deeply")
    except msgspec.DecodeError as wrong:
        return BadRequest(str(wrong))
    if not request.name.isprintable():
        return BadRequest("Expected printable characters - at `$.name`")
    return request


def parse_readiness(line: bytes) -> Readiness | None:
    """Read what a daemon that follows says later on; None where that is something else."""
    try:
        return _readiness.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
