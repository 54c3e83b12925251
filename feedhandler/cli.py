"""The command line: one function a command, each with its options, its help and its exit code.

Exit codes: 0 done, 1 failed at run time, 2 bad usage or configuration. What goes wrong on purpose
(`feedhandler.errors`) becomes one line on standard error for each mistake; anything else is a bug and keeps its trace.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import trio

from feedhandler import __version__, daemon, demo
from feedhandler.bridge import command as bridge
from feedhandler.client import tail
from feedhandler.config import Config, describe, describe_pair, load, pair_mistakes, render
from feedhandler.control import client as control
from feedhandler.errors import ConfigError, FeedHandlerError
from feedhandler.observe import command as observation
from feedhandler.observe.logs import Logs
from feedhandler.simulator import command as simulator

DONE, FAILED, BAD_USAGE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    args = _parser().parse_args(argv)
    code = DONE
    try:
        code = args.run(args)
    except* ConfigError as group:
        _complain(group)
        code = BAD_USAGE
    except* FeedHandlerError as group:
        _complain(group)
        code = FAILED
    except* KeyboardInterrupt:
        code = FAILED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="feedhandler",
        description="Merge identical WebSocket lines of an exchange into one exact, numbered stream.",
    )
    parser.add_argument("--version", action="version", version=f"feedhandler {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add(
        commands,
        "demo",
        "everything on this machine, with faults, without configuration",
        demo.add_arguments,
        demo.run,
    )
    _add(commands, "run", "the daemon, in the foreground", _add_run, _run)
    _add(commands, "check", "validate a configuration and show what it means", _add_config, _check)
    _add(commands, "ctl", "list and steer a running daemon", control.add_arguments, _ctl)
    bridge.add_arguments(
        commands.add_parser("bridge", help="forward the stream of a socket into another system")
    )
    _add(commands, "tail", "print the stream of a socket", tail.add_arguments, tail.run)
    _add(
        commands,
        "status",
        "one look at what daemons do",
        observation.add_status_arguments,
        observation.run_status,
    )
    _add(
        commands, "top", "what daemons do, live on a terminal", observation.add_arguments, observation.run_top
    )
    _add(commands, "simulate", "the simulated exchange alone", simulator.add_arguments, simulator.run)
    return parser


def _add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    summary: str,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    run: Callable[[argparse.Namespace], int],
) -> None:
    parser = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    add_arguments(parser)
    parser.set_defaults(run=run)


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="a TOML file, or a folder of them"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one key, as in publish.socket=./feed.sock or feed[0].lines=3",
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.add_argument(
        "--standby",
        action="store_true",
        help="follow the daemon that serves the socket, and take over with the same numbering when it ends; "
        "where none serves it, be that daemon",
    )


def _load(args: argparse.Namespace) -> Config:
    """Read the configuration; one of two daemons' has to leave places for both."""
    config = load(args.config, args.set, environ=os.environ)
    mistakes = pair_mistakes(config) if getattr(args, "standby", False) else []
    if mistakes:
        raise ConfigError(mistakes)
    return config


def _check(args: argparse.Namespace) -> int:
    config = _load(args)
    _say(render(config))
    for line in (*describe(config), *describe_pair(config)):
        _say(f"# {line}")
    return DONE


def _run(args: argparse.Namespace) -> int:
    config = _load(args)
    with Logs(config.log, time.monotonic) as logs:
        trio.run(
            partial(
                daemon.run,
                config,
                os.environ,
                logs,
                reload=partial(_load, args),
                exit_now=partial(os._exit, FAILED),
                standby=args.standby,
                set_level=logs.set_level,
                log=logs,
            )
        )
    return DONE


def _ctl(args: argparse.Namespace) -> int:
    if args.socket and args.set:
        raise ConfigError(["--set: expected --config, whose keys it overrides, got --socket"])
    socket = args.socket or _load(args).publish.socket
    return control.run(args, socket, observation.show_state)


def _complain(group: BaseExceptionGroup[FeedHandlerError]) -> None:
    for error in _leaves(group):
        for line in error.mistakes if isinstance(error, ConfigError) else str(error).splitlines():
            print(f"feedhandler: {line}", file=sys.stderr)  # noqa: T201 - a command speaks


def _leaves(group: BaseExceptionGroup[FeedHandlerError]) -> Iterator[FeedHandlerError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _say(text: str) -> None:
    print(text)  # noqa: T201 - a command speaks
