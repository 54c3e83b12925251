"""`feedhandler tail`: the stream on standard output, as received, one JSON record a line.

It behaves as `tail -F` does: a socket that is not there yet, or goes away, is waited for, with one line on
standard error for each new trouble and one when it is over; a path that holds something else is a mistake. SIGINT and
SIGTERM end it with 0, and so does a reader of the output that has gone (`| head`).

With `--resume FILE` the position is kept there, always replaced as a whole, at most once in `SAVE_S` and at
the end. **It covers only lines that reached standard output**: after any end, however rough, the next run
may repeat lines but never leaves one out.

Output goes through a thread, since a pipe that nobody reads must not keep signals from ending the program.

With several sockets the streams of several daemons become one: whole lines of one after the other, in the order in
which they come. Each channel belongs to one daemon and keeps its order; `seq` counts as ever, by channel and session,
and the position file then holds a position for each socket. A socket whose daemon does not know a channel that was
asked for by its exact name is left, with one line on standard error, as long as another remains.
"""

import argparse
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import trio

from feedhandler.client.core import Event, Gap, Reader, Snapshot
from feedhandler.client.dial import no_socket
from feedhandler.client.errors import ServerError
from feedhandler.client.position import (
    Position,
    load_position,
    load_positions,
    save_position,
    save_positions,
)
from feedhandler.client.trio_client import Client
from feedhandler.errors import OperationalError

SAVE_S = 1.0
WRITE_BYTES = 256 * 1024  # lines are joined up to this for one write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--socket",
        type=Path,
        action="append",
        required=True,
        metavar="PATH",
        help="the daemon's socket; may be repeated: the streams of several become one",
    )
    parser.add_argument(
        "--channel",
        action="append",
        default=[],
        metavar="C",
        help="MARKET/STREAM; * stands for any market, stream or all; may be repeated; default: *. With several sockets "
        "each is asked for all of them, and one whose daemon lacks a channel that is named exactly is left out as a "
        "whole, with a line on standard error, unless it is the last; so use a *, as in 'BTC-USD/*', which may fit "
        "nothing",
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
    sockets = [os.fspath(path) for path in dict.fromkeys(args.socket)]
    try:
        resume = _load(args.resume, sockets) if args.resume else {}
    except OperationalError as error:
        _complain(f"--resume {error}")
        return 2
    faults = [f"{path}: {fault}" for path in sockets if (fault := no_socket(path))]
    if faults:
        for fault in faults:
            _complain(fault)
        return 2
    channels = args.channel or ["*"]
    readers = {
        path: Reader(channels, snapshot=args.snapshot, name="tail", resume=resume.get(path))
        for path in sockets
    }
    tail = Tail(readers, count=args.count, resume_file=args.resume)
    try:
        trio.run(tail.run)
    except OperationalError as error:
        _complain(str(error))
        return 1
    return 0


def _load(file: Path, sockets: Sequence[str]) -> dict[str, Position]:
    """Read where each socket's stream was left."""
    if len(sockets) > 1:
        return load_positions(file)
    position = load_position(file)
    return {sockets[0]: position} if position else {}


class Source:
    """One socket's stream."""

    def __init__(self, path: str, reader: Reader) -> None:
        self.path = path
        self.reader = reader
        self.client = Client(path, reader, report=_complain)
        self.printed = reader.position()
        self.fault: OperationalError | None = None  # told once all before it is printed


class Tail:
    """One run of the command, over the readers of its sockets."""

    def __init__(
        self,
        readers: Mapping[str, Reader],
        *,
        count: int | None,
        resume_file: Path | None,
        output: int = 1,
    ) -> None:
        self._sources = [Source(path, reader) for path, reader in readers.items()]
        self._live = set(self._sources)
        self._left = count
        self._resume_file = resume_file
        self._output = output
        self._printing = trio.Lock()
        self._resting: set[trio.CancelScope] = set()  # of sources that wait for more
        self._fault: OperationalError | None = None  # raised once all before it is printed and saved
        self._saved = self._positions()
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
                async with trio.open_nursery() as sources:
                    for source in self._sources:
                        sources.start_soon(self._print_all, source)
            except* BrokenPipeError:
                pass  # whoever read the output has had enough
            except* OperationalError as group:
                self._fault = _first(group)
            nursery.cancel_scope.cancel()

    async def _print_all(self, source: Source) -> None:
        async with source.client:
            while self._wanted:
                lines = self._gather(source)
                if lines:
                    async with self._printing:
                        await self._print(source, lines)
                if source.fault is not None:
                    self._give_up(source, source.fault)
                    return
                if not lines:
                    await self._rest(source)
        self._wake()

    @property
    def _wanted(self) -> bool:
        return self._left is None or self._left > 0

    async def _rest(self, source: Source) -> None:
        """Wait for more, unless another source brings the last that is wanted."""
        with trio.CancelScope() as scope:
            self._resting.add(scope)
            try:
                await source.client.more()
            finally:
                self._resting.discard(scope)

    def _wake(self) -> None:
        for scope in self._resting:
            scope.cancel()

    def _give_up(self, source: Source, fault: OperationalError) -> None:
        """Leave a source to which a channel is not known; anything else, and the last one, ends the run."""
        self._live.discard(source)
        if isinstance(fault, ServerError) and fault.code == "unknown_channel" and self._live:
            _complain(f"{source.path}: {fault}; it is left out")
        else:
            raise fault

    def _gather(self, source: Source) -> bytes:
        """Take what is there already, as much as one write takes and the count allows."""
        lines: list[bytes] = []
        size = 0
        while size < WRITE_BYTES and self._wanted:
            try:
                received = source.client.receive_nowait()
            except OperationalError as fault:
                source.fault = fault
                break
            if received is None:
                break
            lines.append(received.line)
            size += len(received.line)
            if self._left is not None and isinstance(received.record, Event | Gap | Snapshot):
                self._left -= 1
        return b"".join(lines)

    async def _print(self, source: Source, lines: bytes) -> None:
        position = source.reader.position()
        try:
            await trio.to_thread.run_sync(_write, self._output, lines, abandon_on_cancel=True)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OperationalError(f"standard output: {error.strerror}") from error
        source.printed = position
        if trio.current_time() - self._saved_at >= SAVE_S:
            self._save()

    def _positions(self) -> dict[str, Position]:
        """Return where each stream has been printed to."""
        return {source.path: source.printed for source in self._sources if source.printed is not None}

    def _save(self) -> None:
        positions = self._positions()
        if self._resume_file is None or positions == self._saved:
            return
        if len(self._sources) > 1:
            save_positions(self._resume_file, positions)
        else:
            save_position(self._resume_file, positions[self._sources[0].path])
        self._saved = positions
        self._saved_at = trio.current_time()


def _first(group: BaseExceptionGroup[OperationalError]) -> OperationalError:
    """Return one of the faults that ended the run."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, OperationalError)
    return error


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
