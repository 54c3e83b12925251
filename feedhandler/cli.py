"""The command line: one function a command, each with its options, its help and its exit code.

Exit codes: 0 done, 1 failed at run time, 2 bad usage or configuration. What goes wrong on purpose
(`feedhandler.errors`) becomes one line on standard error for each mistake; anything else is a bug and keeps its trace.

What a command needs is imported when it is chosen, and no sooner: who asks for the version, or for one look, does not
wait for the daemon to be loaded.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from feedhandler import __version__
from feedhandler.errors import ConfigError, FeedHandlerError

if TYPE_CHECKING:
    from feedhandler.config import Config

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


class _Command(argparse.ArgumentParser):
    """A parser that gets its options, and what carries them out, when it is chosen."""

    prepare: Callable[[argparse.ArgumentParser], None] | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse what stands behind the command's name."""
        prepare, self.prepare = self.prepare, None
        if prepare is not None:
            prepare(self)
        return super().parse_known_args(args, namespace)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="feedhandler",
        description="Merge identical WebSocket lines of an exchange into one exact, numbered stream.",
    )
    parser.add_argument("--version", action="version", version=f"feedhandler {__version__}")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=_Command
    )
    for name, (summary, prepare) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        command.prepare = prepare
    return parser


# The commands


def _demo(parser: argparse.ArgumentParser) -> None:
    from feedhandler import demo

    demo.add_arguments(parser)
    parser.set_defaults(run=demo.run)


def _run(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.add_argument(
        "--standby",
        action="store_true",
        help="follow the daemon that serves the socket, and take over with the same numbering when it ends; "
        "where none serves it, be that daemon",
    )
    parser.set_defaults(run=_run_daemon)


def _check(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.set_defaults(run=_check_config)


def _ctl(parser: argparse.ArgumentParser) -> None:
    from feedhandler.control import client

    client.add_arguments(parser)
    parser.set_defaults(run=_steer)


def _bridge(parser: argparse.ArgumentParser) -> None:
    from feedhandler.bridge import command

    command.add_arguments(parser)


def _tail(parser: argparse.ArgumentParser) -> None:
    from feedhandler.client import tail

    tail.add_arguments(parser)
    parser.set_defaults(run=tail.run)


def _status(parser: argparse.ArgumentParser) -> None:
    from feedhandler.observe import command

    command.add_status_arguments(parser)
    parser.set_defaults(run=command.run_status)


def _top(parser: argparse.ArgumentParser) -> None:
    from feedhandler.observe import command

    command.add_arguments(parser)
    parser.set_defaults(run=command.run_top)


def _simulate(parser: argparse.ArgumentParser) -> None:
    from feedhandler.simulator import command

    command.add_arguments(parser)
    parser.set_defaults(run=command.run)


COMMANDS: Final = {
    "demo": ("everything on this machine, with faults, without configuration", _demo),
    "run": ("the daemon, in the foreground", _run),
    "check": ("validate a configuration and show what it means", _check),
    "ctl": ("list and steer a running daemon", _ctl),
    "bridge": ("forward the stream of a socket into another system", _bridge),
    "tail": ("print the stream of a socket", _tail),
    "status": ("one look at what daemons do", _status),
    "top": ("what daemons do, live on a terminal", _top),
    "simulate": ("the simulated exchange alone", _simulate),
}


# What is carried out here


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


def _load(args: argparse.Namespace) -> "Config":
    """Read the configuration; one of two daemons' has to leave places for both."""
    from feedhandler.config import load, pair_mistakes

    config = load(args.config, args.set, environ=os.environ)
    mistakes = pair_mistakes(config) if getattr(args, "standby", False) else []
    if mistakes:
        raise ConfigError(mistakes)
    return config


def _check_config(args: argparse.Namespace) -> int:
    from feedhandler.config import describe, describe_pair, render

    config = _load(args)
    _say(render(config))
    for line in (*describe(config), *describe_pair(config)):
        _say(f"# {line}")
    return DONE


def _run_daemon(args: argparse.Namespace) -> int:
    config = _load(args)

    import trio

    from feedhandler import daemon
    from feedhandler.observe.logs import Logs

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


def _steer(args: argparse.Namespace) -> int:
    from feedhandler.control import client

    if args.socket and args.set:
        raise ConfigError(["--set: expected --config, whose keys it overrides, got --socket"])
    socket = args.socket or _load(args).publish.socket
    return client.run(args, socket, _show_state)


def _show_state(where: str, body: bytes) -> None:
    from feedhandler.observe.command import show_state

    show_state(where, body)


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
