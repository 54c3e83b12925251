"""``feedhandler simulate``: the simulated exchange as a program.

What others read stands on standard output, one line each: ``listening on URL``, ``ca file PATH`` (with
``--tls``), ``playing``, ``fault KIND market=M line=N …``, ``breach TEXT`` where a client breaks a documented rule,
``finished``. Progress stands on standard error. SIGTERM and
SIGINT end the broadcasts; the connections still get what is on its way to them, for a few seconds at most.
"""

import argparse
import signal
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import msgspec
import trio

from feedhandler.errors import ConfigError, OperationalError
from feedhandler.simulator.exchange import Exchange
from feedhandler.simulator.messages import ALL
from feedhandler.simulator.server import serve
from feedhandler.simulator.settings import DEFAULT_MARKETS, FaultPlan, Settings, explained, load_faults

PROGRESS_S = 5.0
DEFAULT_RATE = 200.0
MOST_PORT = 65_535


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"The file of --faults (TOML); all of it may be left out:\n\n{explained()}"
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="H", help="address to listen on (default: %(default)s)"
    )
    parser.add_argument(
        "--port", type=int, default=0, metavar="P", help="port to listen on; 0: any (default)"
    )
    parser.add_argument("--tls", action="store_true", help="speak TLS, with a made-up authority")
    parser.add_argument(
        "--ca-file",
        type=Path,
        metavar="FILE",
        help="where to write that authority's certificate (default: a temporary file)",
    )
    parser.add_argument(
        "--tape",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="play this tape; may be repeated: one after another",
    )
    parser.add_argument(
        "--market",
        action="append",
        default=[],
        metavar="M",
        help="generate traffic for this market; may be repeated "
        f"(default: {' and '.join(DEFAULT_MARKETS)}; none with --tape)",
    )
    parser.add_argument(
        "--rate",
        type=float,
        metavar="R",
        help=f"generated events per second; 0: flat out (default: {DEFAULT_RATE:g}; none with --tape)",
    )
    parser.add_argument(
        "--account-rate",
        type=float,
        default=0.0,
        metavar="R",
        help="generated events of the account per second, beside generated traffic (default: none)",
    )
    parser.add_argument(
        "--speed", type=float, default=1.0, metavar="X", help="of the tapes; 0: flat out (default: 1)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=1,
        metavar="N",
        help="of generated traffic and random choices (default: 1)",
    )
    parser.add_argument(
        "--wait",
        type=int,
        default=0,
        metavar="N",
        help="start playing when every market has so many connections (default: 0)",
    )
    parser.add_argument(
        "--faults",
        type=Path,
        metavar="FILE",
        help="what goes wrong, and how the exchange behaves (TOML, below)",
    )
    parser.add_argument(
        "--truth",
        type=Path,
        metavar="FILE",
        help="write every broadcast to this file, one JSON object a line",
    )
    parser.add_argument(
        "--api-key", default="", metavar="KEY", help="the key that the token endpoint accepts (default: any)"
    )
    parser.add_argument(
        "--api-secret", default="", metavar="SECRET", help="the secret that goes with it (default: any)"
    )
    parser.add_argument(
        "--token-life", type=float, metavar="S", help="seconds that a token lives (default: 1800)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the exchange until it is told to stop; return the exit code."""
    try:
        trio.run(_run, settings_from(args))
    except* OSError as group:
        raise OperationalError("\n".join(_said(one, args) for one in _leaves(group))) from None
    return 0


def settings_from(args: argparse.Namespace) -> Settings:
    """Return the settings that the options say."""
    _check(args)
    plan = load_faults(args.faults) if args.faults else FaultPlan()
    if args.token_life is not None:
        behaviour = msgspec.structs.replace(plan.behaviour, token_life_s=args.token_life)
        plan = msgspec.structs.replace(plan, behaviour=behaviour)
    rate = args.rate if args.rate is not None or args.tape else DEFAULT_RATE
    return Settings(
        host=args.host,
        port=args.port,
        tls=args.tls,
        ca_file=args.ca_file,
        markets=tuple(dict.fromkeys(args.market)) or None,
        tapes=tuple(args.tape),
        rate=rate,
        account_rate=args.account_rate,
        speed=args.speed,
        seed=args.seed,
        wait=args.wait,
        truth=args.truth,
        api_key=args.api_key,
        api_secret=args.api_secret,
        plan=plan,
    )


def _check(args: argparse.Namespace) -> None:
    mistakes = [
        f"--{name.replace('_', '-')}: expected 0 or more, got {value:g}"
        for name in ("rate", "account_rate", "speed", "wait", "token_life", "port")
        if (value := getattr(args, name)) is not None and not value >= 0
    ]
    if args.port > MOST_PORT:
        mistakes.append(f"--port: expected 0..{MOST_PORT}, got {args.port}")
    if ALL in args.market:
        mistakes.append(f"--market: {ALL} stands for every market and is none itself")
    if mistakes:
        raise ConfigError(mistakes)


def _said(error: OSError, args: argparse.Namespace) -> str:
    """Return what failed: a file, else the address."""
    return f"{error.filename or f'{args.host}:{args.port}'}: {error.strerror or error}"


def _leaves(group: BaseExceptionGroup[OSError]) -> list[OSError]:
    return [
        leaf
        for error in group.exceptions
        for leaf in (_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a command speaks


def _say_fault(kind: str, market: str, line: int, detail: str) -> None:
    _say(" ".join(part for part in (f"fault {kind} market={market} line={line}", detail) if part))


def _say_breach(text: str) -> None:
    _say(f"breach {text}")


async def _run(settings: Settings) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            exchange: Exchange = await nursery.start(
                partial(serve, settings, on_fault=_say_fault, on_breach=_say_breach)
            )
            _say(f"listening on {exchange.url}")
            if exchange.ca_file is not None:
                _say(f"ca file {exchange.ca_file}")
            nursery.start_soon(_tell, exchange)
            nursery.start_soon(_tell_progress, exchange)
            await anext(aiter(signals))
            nursery.start_soon(_stop_at_once, signals, nursery.cancel_scope)
            await exchange.stop_playing()
            nursery.cancel_scope.cancel()


async def _stop_at_once(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    """Do not wait any longer when a second signal comes."""
    await anext(signals)
    scope.cancel()


async def _tell(exchange: Exchange) -> None:
    await exchange.started_playing.wait()
    _say("playing")
    await exchange.finished.wait()
    _say("finished")


async def _tell_progress(exchange: Exchange) -> None:
    while True:
        await trio.sleep(PROGRESS_S)
        lines = sum(len(exchange.connections(market)) for market in (*exchange.markets, ALL))
        print(f"{exchange.broadcasts} events, {lines} connections", file=sys.stderr)  # noqa: T201 - a command speaks
