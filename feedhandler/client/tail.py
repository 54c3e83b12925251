"""`feedhandler tail`: the stream on standard output, as received, one JSON record a line.

It behaves as `tail -F` does: a socket that is not there yet, or goes away, is waited for, with one line on
standard error for each new trouble and one when it is over. SIGINT and SIGTERM end it with 0, and so does a
reader of the output that has gone (`| head`).

With `--resume FILE` the position is kept there, always replaced as a whole, at most once in `SAVE_S` and at
the end. **It covers only lines that reached standard output**: after any end, however rough, the next run
may repeat lines but never leaves one out.

Output goes through a thread, since a pipe that nobody reads must not keep signals from ending the program.
"""

import argparse
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import trio

from feedhandler.client.core import Event, Gap, Reader, Snapshot
from feedhandler.client.position import load_position, save_position
from feedhandler.client.trio_client import Client
from feedhandler.errors import OperationalError

SAVE_S = 1.0
WRITE_BYTES = 256 * 1024  # lines are joined up to this for one write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--socket", type=Path, required=True, metavar="PATH", help="the daemon's socket")
    parser.add_argument(
        "--channel",
        action="append",
        default=[],
        metavar="C",
        help="MARKET/STREAM; * stands for any market, stream or all; may be repeated; default: *",
    )
    parser.add_argument(
        "--no-snapshot", dest="snapshot", action="store_false", help="do not ask for the books first"
    )
    parser.add_argument(
        "--resume", type=Path, metavar="FILE", help="keep the last seqs in FILE and go on from there"
    )
    parser.add_argument(
        "--count", type=_count, metavar="N", help="end after N records of the types event, gap and snapshot"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    try:
        resume = load_position(args.resume) if args.resume else None
    except OperationalError as error:
        _complain(f"--resume {error}")
        return 2
    reader = Reader(args.channel or ["*"], snapshot=args.snapshot, name="tail", resume=resume)
    tail = Tail(args.socket, reader, count=args.count, resume_file=args.resume)
    try:
        trio.run(tail.run)
    except OperationalError as error:
        _complain(str(error))
        return 1
    return 0


class Tail:
    """One run of the command."""

    def __init__(
        self, path: Path, reader: Reader, *, count: int | None, resume_file: Path | None, output: int = 1
    ) -> None:
        self._client = Client(path, reader, report=_complain)
        self._reader = reader
        self._left = count
        self._resume_file = resume_file
        self._output = output
        self._fault: OperationalError | None = None  # raised once all before it is printed and saved
        self._printed = reader.position()
        self._saved = self._printed
        self._saved_at = 0.0

    async def run(self) -> None:
        """Print until the count is reached, a signal comes or the output is closed."""
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            await self._run(signals)
        self._save()
        if self._fault is not None:
            raise self._fault

    async def _run(self, signals: AsyncIterator[int]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_on_signal, signals, nursery.cancel_scope)
            try:
                await self._print_all()
            except BrokenPipeError:
                pass  # whoever read the output has had enough
            except OperationalError as fault:
                self._fault = fault
            nursery.cancel_scope.cancel()

    async def _print_all(self) -> None:
        async with self._client:
            while self._left is None or self._left > 0:
                lines = self._gather()
                if lines:
                    await self._print(lines)
                if self._fault is not None:
                    return
                if not lines:
                    await self._client.more()

    def _gather(self) -> bytes:
        """Take what is there already, as much as one write takes and the count allows."""
        lines: list[bytes] = []
        size = 0
        while size < WRITE_BYTES and (self._left is None or self._left > 0):
            try:
                received = self._client.receive_nowait()
            except OperationalError as fault:
                self._fault = fault
                break
            if received is None:
                break
            lines.append(received.line)
            size += len(received.line)
            if self._left is not None and isinstance(received.record, Event | Gap | Snapshot):
                self._left -= 1
        return b"".join(lines)

    async def _print(self, lines: bytes) -> None:
        try:
            await trio.to_thread.run_sync(_write, self._output, lines, abandon_on_cancel=True)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OperationalError(f"standard output: {error.strerror}") from error
        self._printed = self._reader.position()
        if trio.current_time() - self._saved_at >= SAVE_S:
            self._save()

    def _save(self) -> None:
        if self._resume_file is None or self._printed is None or self._printed == self._saved:
            return
        save_position(self._resume_file, self._printed)
        self._saved = self._printed
        self._saved_at = trio.current_time()


async def _end_on_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("expected 1 or more")
    return count


def _complain(line: str) -> None:
    print(f"feedhandler tail: {line}", file=sys.stderr, flush=True)  # noqa: T201 - a command speaks to people
