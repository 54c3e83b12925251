"""``feedhandler bridge nats``: forwards the stream of a socket into NATS JetStream.

It needs nats-py (``pip install 'feedhandler[nats]'``), which nothing else does. SIGTERM and SIGINT end it with 0. It
ends with 2 where somebody has to mend something first: bad usage, files that can't be read, a stream with other
settings; with 1 where the server refuses us at the first connection. Everything else is waited for.
"""

import argparse
import asyncio
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from feedhandler.bridge.settings import (
    GIB,
    MIB,
    UNLIMITED,
    Access,
    BridgeSettings,
    ConsumerSettings,
    StreamSettings,
)
from feedhandler.bridge.subjects import is_prefix
from feedhandler.config import Log
from feedhandler.config.readers import is_address, split_address
from feedhandler.errors import ConfigError
from feedhandler.observe.logs import Logs

SCHEMES: Final = ("nats://", "tls://")
DEFAULTS: Final = StreamSettings()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    targets = parser.add_subparsers(title="where to", metavar="TARGET", required=True)
    summary = "forward the stream of a socket into NATS JetStream"
    nats = targets.add_parser("nats", help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    nats.add_argument("--socket", type=Path, required=True, metavar="PATH", help="the daemon's socket")
    nats.add_argument(
        "--server",
        action="append",
        required=True,
        metavar="URL",
        help="nats://HOST:PORT or tls://HOST:PORT, without secrets; may be repeated for a cluster",
    )
    nats.add_argument(
        "--channel",
        action="append",
        default=[],
        metavar="C",
        help="MARKET/STREAM; * stands for any market, stream or all; may be repeated; default: *",
    )
    _add_stream(nats.add_argument_group("the stream", "created with these settings, or compared with them"))
    _add_access(nats.add_argument_group("access", "secrets are read from files, anew at each connection"))
    nats.add_argument(
        "--takeover-s",
        type=_positive,
        default=1.0,
        metavar="S",
        help="another host goes on where nobody has written for so long what it has (default: 1)",
    )
    nats.add_argument(
        "--snapshot-every-s",
        type=_not_negative,
        default=60.0,
        metavar="S",
        help="a book that has changed is put into the stream again so often, for consumers that begin later "
        "(default: 60; 0: never)",
    )
    nats.add_argument(
        "--pending-mib",
        type=_positive,
        default=64.0,
        metavar="N",
        help="what waits in memory while NATS is away; then the daemon's backlog is the reserve (default: 64)",
    )
    nats.add_argument(
        "--http",
        default="",
        metavar="HOST:PORT",
        help="serve /metrics, /healthz, /readyz and /status there (default: nowhere)",
    )
    nats.add_argument(
        "--log-format",
        choices=("json", "console"),
        default="",
        help="default: console on a terminal, else json",
    )
    nats.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="default: info",
    )
    nats.set_defaults(run=run)


def _add_stream(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--stream", default=DEFAULTS.name, metavar="NAME", help=f"default: {DEFAULTS.name}")
    group.add_argument(
        "--prefix", default=DEFAULTS.prefix, help="subjects are PREFIX.MARKET.STREAM (default: feed)"
    )
    group.add_argument(
        "--storage", choices=("file", "memory"), default=DEFAULTS.storage, help="default: file"
    )
    group.add_argument(
        "--replicas",
        type=int,
        choices=range(1, 6),
        default=DEFAULTS.replicas,
        metavar="N",
        help="1 to 5, default: 1",
    )
    group.add_argument(
        "--max-gib",
        type=_positive,
        default=DEFAULTS.max_bytes / GIB,
        metavar="N",
        help="size of the stream (default: 16)",
    )
    group.add_argument(
        "--max-msgs", type=int, default=UNLIMITED, metavar="N", help="default: -1, as many as fit"
    )
    group.add_argument(
        "--max-age-h", type=_not_negative, default=0.0, metavar="H", help="default: 0, as long as it fits"
    )
    group.add_argument(
        "--discard",
        choices=("old", "new"),
        default=DEFAULTS.discard,
        help="what a full stream does without: its oldest (default), or what comes, which the bridge sends again",
    )
    group.add_argument(
        "--duplicate-window-s",
        type=_positive,
        default=DEFAULTS.duplicate_window_s,
        metavar="S",
        help="how long the server remembers ids (default: 120)",
    )
    group.add_argument(
        "--consumer",
        action="append",
        default=[],
        metavar="NAME[=C]",
        help="a durable consumer for those who will read the stream, created or compared like it; of the channels C "
        "(default: *); may be repeated",
    )


def _add_access(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--credentials", type=Path, metavar="FILE", help="a .creds file (JWT and seed)")
    group.add_argument("--user", default="", metavar="NAME", help="with --password-file")
    group.add_argument("--password-file", type=Path, metavar="FILE", help="with --user")
    group.add_argument(
        "--tls-ca", type=Path, metavar="FILE", help="the authority of the server's certificate"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    settings = _settings(args)
    if find_spec("nats") is None:
        raise ConfigError(["bridge nats: nats-py is not installed: pip install 'feedhandler[nats]'"])
    from feedhandler.bridge.forwarding import Bridge  # noqa: PLC0415 - the only part that needs nats-py

    with Logs(Log(format=args.log_format, level=args.log_level), time.monotonic) as logs:
        asyncio.run(Bridge(settings, logs, lambda: logs.lost).run())
    return 0


def _settings(args: argparse.Namespace) -> BridgeSettings:
    """Return what the command line says, or all its mistakes."""
    mistakes = [
        f"--server: expected {' or '.join(SCHEMES)}, without user or password"
        for server in args.server
        if not server.startswith(SCHEMES) or "@" in server
    ]
    if not is_prefix(args.prefix):
        mistakes.append("--prefix: expected letters, digits, - and _, in parts with dots between them")
    if not is_prefix(args.stream) or "." in args.stream:
        mistakes.append("--stream: expected letters, digits, - and _")
    consumers = [_consumer(one) for one in args.consumer]
    mistakes += _consumer_mistakes(consumers)
    if args.max_msgs != UNLIMITED and args.max_msgs < 1:
        mistakes.append(f"--max-msgs: expected 1 or more, or -1, got {args.max_msgs}")
    if bool(args.user) != bool(args.password_file):
        mistakes.append("--user: goes with --password-file")
    if not is_address(args.http):
        mistakes.append(f"--http: expected HOST:PORT, got {args.http}")
    if 0 < args.max_age_h * 3600 < args.duplicate_window_s:
        mistakes.append("--duplicate-window-s: longer than --max-age-h")
    if mistakes:
        raise ConfigError(mistakes)
    return BridgeSettings(
        socket=args.socket,
        servers=tuple(args.server),
        stream=StreamSettings(
            name=args.stream,
            prefix=args.prefix,
            storage=args.storage,
            replicas=args.replicas,
            max_bytes=round(args.max_gib * GIB),
            max_msgs=args.max_msgs,
            max_age_s=args.max_age_h * 3600,
            discard=args.discard,
            duplicate_window_s=args.duplicate_window_s,
        ),
        access=Access(args.credentials, args.user, args.password_file, args.tls_ca),
        channels=tuple(args.channel) or ("*",),
        takeover_s=args.takeover_s,
        pending_bytes=round(args.pending_mib * MIB),
        http=split_address(args.http),
        snapshot_every_s=args.snapshot_every_s,
        consumers=tuple(consumers),
    )


def _consumer(text: str) -> ConsumerSettings:
    name, _, channels = text.partition("=")
    return ConsumerSettings(name, channels or "*")


def _consumer_mistakes(consumers: Sequence[ConsumerSettings]) -> Iterator[str]:
    for name, channels in consumers:
        if not is_prefix(name) or "." in name:
            yield f"--consumer: expected a name of letters, digits, - and _, got {name}"
        elif channels != "*" and "/" not in channels:
            yield f"--consumer: {name}: expected MARKET/STREAM, * for either or for all, got {channels}"
    if len({one.name for one in consumers}) < len(consumers):
        yield "--consumer: a name comes twice"


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("expected more than 0")
    return value


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError("expected 0 or more")
    return value
