"""The commands ``status`` and ``top``: one look at daemons, or a look every second.

Both ask over HTTP (``observe.http``), one daemon or several, and end with 1 where one does not answer; ``top`` only
where none does at its start, since from then on it shows who is down. ``q`` and Ctrl-C end it.
"""

import argparse
import os
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

import trio
from rich.console import Console
from rich.live import Live

from feedhandler.errors import ConfigError, OperationalError
from feedhandler.observe.asking import DEFAULT_URL, Asker, Look, read_look
from feedhandler.observe.terminal import picture

LOOK_S: Final = 1.0
"""From one look of ``top`` to the next."""
QUIT: Final = b"qQ\x03\x04"
PIPE_COLUMNS: Final = 160
"""The width where the output is no terminal."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``top``."""
    parser.add_argument(
        "--url",
        action="append",
        default=[],
        metavar="URL",
        help=f"where a daemon answers (observe.http); several are shown as one (default: {DEFAULT_URL})",
    )


def add_status_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``status``."""
    add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object a line for each daemon")


def run_status(args: argparse.Namespace) -> int:
    """Look once; return 0 if all have answered."""
    asker = Asker(args.url)
    looks = trio.run(partial(asker.look, history=not args.json))
    if args.json:
        for look in looks:
            if look.status is not None:
                sys.stdout.buffer.write(look.body + b"\n")
        sys.stdout.flush()
    elif any(look.status for look in looks):
        _show(looks)
    _complain(looks)
    return 0


def show_state(where: str, body: bytes) -> None:
    """Show a state that was asked for elsewhere, as ``status`` does; ``OperationalError`` where it is none."""
    look = read_look(where, body)
    if look.status is not None:
        _show([look])
    _complain([look])


def _show(looks: list[Look]) -> None:
    console = Console() if sys.stdout.isatty() else Console(width=PIPE_COLUMNS)
    console.print(picture(looks, columns=console.width))


def _complain(looks: list[Look]) -> None:
    """Raise where a daemon has not answered."""
    failures = [f"{look.url}: {look.failure}" for look in looks if look.status is None]
    if failures:
        raise OperationalError("\n".join(failures))


def run_top(args: argparse.Namespace) -> int:
    """Look again and again until somebody has seen enough."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError(["top: expected a terminal; use status"])
    trio.run(_top, Asker(args.url))
    return 0


async def _top(asker: Asker) -> None:
    looks = await asker.look(history=True)
    if not any(look.status for look in looks):
        _complain(looks)
    with (
        trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGWINCH) as signals,
        _keys(),
        Live(screen=True, auto_refresh=False) as live,
    ):
        shown = _Screen(live, looks)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_look_again, asker, shown)
            nursery.start_soon(_wait_for_key, nursery.cancel_scope)
            async for number in signals:
                if number != signal.SIGWINCH:
                    break
                shown.draw()
            nursery.cancel_scope.cancel()


class _Screen:
    """What is on the screen."""

    def __init__(self, live: Live, looks: list[Look]) -> None:
        self._live = live
        self.show(looks)

    def show(self, looks: list[Look]) -> None:
        self._looks = looks
        self.draw()

    def draw(self) -> None:
        columns, rows = os.get_terminal_size()
        self._live.update(picture(self._looks, columns=columns, rows=rows), refresh=True)


async def _look_again(asker: Asker, screen: _Screen) -> None:
    while True:
        await trio.sleep(LOOK_S)
        screen.show(await asker.look(history=True))


async def _wait_for_key(scope: trio.CancelScope) -> None:
    """Cancel when a key says so, or when there is nobody at the keys any more."""
    while True:
        await trio.lowlevel.wait_readable(sys.stdin)
        key = os.read(sys.stdin.fileno(), 64)
        if not key or any(byte in QUIT for byte in key):
            scope.cancel()
            return


@contextmanager
def _keys() -> Iterator[None]:
    """Get each key at once, and put the terminal right at the end."""
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
