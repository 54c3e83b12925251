"""`feedhandler ctl`: ask a running daemon for something, over its control socket.

One request, one answer, one exit code: 0 done, 1 refused or no daemon there, 2 bad usage. What went wrong is one line
on standard error; with ``--json`` the daemon's answer is printed as it came, whatever it says.
"""

import argparse
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from feedhandler.config import CONTROL
from feedhandler.control.requests import Op, Request
from feedhandler.control.server import control_path
from feedhandler.errors import ConfigError, OperationalError

PATIENCE_S: Final = 30.0
"""The longest wait for the daemon's answer."""
ANSWER_BYTES: Final = 64 * 1024 * 1024
"""The longest answer that is read."""
READ_BYTES: Final = 65_536

LASTS: Final = (
    "What a command changes lasts until the configuration is read again (reload, SIGHUP) or the daemon is restarted: "
    "write what is to stay into the file."
)

COMMANDS: Final[dict[Op, tuple[str, tuple[str, ...]]]] = {
    "list": ("show the state of everything, as `feedhandler status` does", ()),
    "restart": ("have one line replaced, or tried at once where it is not connected", ("feed", "line")),
    "rotate": ("have all lines of a feed replaced, one after the other", ("feed",)),
    "pause": ("let a line be without a connection until it is resumed", ("feed", "line")),
    "resume": ("let a paused line connect again", ("feed", "line")),
    "add-stream": ("add a stream to the live lines of a feed", ("feed", "stream")),
    "drop-stream": (
        "drop a stream from the live lines of a feed; its consumers are told",
        ("feed", "stream"),
    ),
    "add-market": ("open a feed for a market, as a [[feed]] section has them", ("market",)),
    "drop-market": (
        "give up the feed of a market, or one feed by its label; its consumers are told",
        ("market",),
    ),
    "reload": ("read the configuration again, as SIGHUP does", ()),
    "drain": ("let all consumers have what is pending, and end the daemon", ()),
    "handover": ("end the daemon where a standby is ready to go on; else refuse", ()),
}
"""Each command: what it does, and which names it takes."""

MEANINGS: Final = {
    "feed": "a feed's label, as `list` shows it",
    "line": "a line of the feed: a, b, ...",
    "stream": "publicTrades, publicOrderBook, orders or trades",
    "market": "a market's name",
}


class _Reply(msgspec.Struct):
    ok: bool
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.epilog = LASTS
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--socket", type=Path, metavar="PATH", help="the daemon's control socket, or its feed socket"
    )
    where.add_argument(
        "--config", type=Path, metavar="FILE", help="the daemon's configuration, which names its socket"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one key of the configuration, as the daemon was told to",
    )
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="op")
    for op, (summary, names) in COMMANDS.items():
        one = commands.add_parser(
            op, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", epilog=LASTS
        )
        for name in names:
            one.add_argument(name, metavar=name.upper(), help=MEANINGS[name])
        if op == "add-market":
            help_ = "the section's name, or its place as in feed[0]; needed where there are several"
            one.add_argument("--section", dest="feed", default="", metavar="NAME", help=help_)


def run(args: argparse.Namespace, feed_socket: Path, show_state: Callable[[str, bytes], None]) -> int:
    """Ask the daemon whose feed or control socket is given; return the exit code. ConfigError where it is no socket.

    ``show_state`` shows the answer to ``list``, and from where it is.
    """
    _check(feed_socket)
    is_control = feed_socket.name == CONTROL
    path = feed_socket if is_control else control_path(feed_socket)
    names = {name: getattr(args, name, "") for name in ("feed", "line", "stream", "market")}
    line = ask(path, Request(args.op, **names, socket="" if is_control else feed_socket.name))
    reply = _read(path, line)
    if args.json:
        _say(line.decode().rstrip("\n"))
        return 0 if reply.ok else 1
    if not reply.ok:
        print(f"feedhandler: {_printable(reply.error)}", file=sys.stderr)  # noqa: T201 - a command speaks
        return 1
    if args.op == "list":
        show_state(str(path), bytes(reply.result))
    else:
        _say(_printable(str(msgspec.json.decode(reply.result))))
    return 0


def _check(path: Path) -> None:
    """Raise `ConfigError` where there is something that is no socket; what is not there may be a daemon that is not."""
    if os.path.isdir(path):
        raise ConfigError([f"{path}: expected a socket, got a folder; name the socket in it"])
    if os.path.exists(path) and not path.is_socket():
        raise ConfigError([f"{path}: expected a socket, got a file"])


def ask(path: Path, request: Request) -> bytes:
    """Send a request; return the answer's line. OperationalError where there is no daemon, or none that answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE_S)
        try:
            sock.connect(os.fspath(path))
            sock.sendall(msgspec.json.encode(request) + b"\n")
            return _receive(sock)
        except TimeoutError as error:
            raise OperationalError(f"{path}: the daemon did not answer within {PATIENCE_S:g} s") from error
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise OperationalError(f"{path}: no daemon is running there") from error
        except OSError as error:
            raise OperationalError(f"{path}: {error.strerror or error}") from error


def _receive(sock: socket.socket) -> bytes:
    answer = bytearray()
    while not answer.endswith(b"\n") and len(answer) <= ANSWER_BYTES:
        data = sock.recv(READ_BYTES)
        if not data:
            break
        answer += data
    return bytes(answer)


def _read(path: Path, line: bytes) -> _Reply:
    try:
        return msgspec.json.decode(line, type=_Reply)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise OperationalError(f"{path}: the daemon ended without an answer") from error


def _printable(text: str) -> str:
    """Return text that can do nothing to a terminal: names of markets come from outside."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def _say(text: str) -> None:
    print(text)  # noqa: T201 - a command speaks
