"""What the control socket is asked, read into a value or an answer to what is wrong with it; and the answers.

One JSON object a line each way. Types are strict, unknown keys are ignored, and whatever comes, the outcome is a
`Request` or a `Refusal`: data never raises.

    > {"op":"restart","feed":"BTC-USD","line":"a"}
    < {"ok":true,"result":"line a of BTC-USD is being replaced"}
    > {"op":"restart","feed":"BTC","line":"a"}
    < {"ok":false,"code":"unknown_feed","error":"there is no feed BTC; there are: BTC-USD, ETH-USD"}
"""

from typing import Annotated, Literal, NamedTuple

import msgspec

Name = Annotated[str, msgspec.Meta(max_length=256)]

Op = Literal[
    "list", "restart", "rotate", "pause", "resume", "add-stream", "drop-stream",
    "add-market", "drop-market", "reload", "drain", "handover",
]  # fmt: skip


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """An operator's wish; which of the names matter depends on ``op``."""

    op: Op
    feed: Name = ""
    line: Name = ""
    stream: Name = ""
    market: Name = ""
    socket: Name = ""
    """The file name of the feed socket of the daemon that is meant; empty: whichever is asked."""


class Refusal(NamedTuple):
    """Why a request is not carried out."""

    code: str
    detail: str


class Done(NamedTuple):
    """What came of a request: a sentence, or whatever was asked for."""

    result: object


Answer = Done | Refusal

_decoder = msgspec.json.Decoder(Request)


def parse(line: bytes) -> Request | Refusal:
    """Read a request.

    >>> parse(b'{"op":"dance"}')
    Refusal(code='bad_request', detail="Invalid enum value 'dance' - at `$.op`")
    """
    try:
        line.decode()
        return _decoder.decode(line)
    except UnicodeDecodeError:
        return Refusal("bad_request", "the line is not valid UTF-8")
    except RecursionError:
        return Refusal("bad_request", "the line is nested too deeply")
    except msgspec.DecodeError as wrong:
        return Refusal("bad_request", str(wrong))


def render(answer: Answer) -> bytes:
    """Write an answer as a line."""
    if isinstance(answer, Refusal):
        fields = {"ok": False, "code": answer.code, "error": answer.detail}
    else:
        fields = {"ok": True, "result": answer.result}
    return msgspec.json.encode(fields) + b"\n"
