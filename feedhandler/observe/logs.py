"""Logs: one line for a note, JSON or for a terminal, and never a wait for whoever reads them.

Lines go through a bounded queue to a thread of their own, so a blocked pipe or disk costs log lines and nothing else:
what does not fit is counted, and the count is logged when there is room again. A line that comes alone is written at
once, lines that come together in one write: each time the thread wants the interpreter, the data path gives it up, and
finds its core's caches full of somebody else's data when it goes on.

Repetitions of one note are rate limited: a note with the same key as one that was written less than `REPEAT_S` ago is
kept back, the newest for all of them. When that time is over, it is written with ``repeated``, the number of notes
for which it stands. There is no timer behind this: what is kept back goes out before the next note of any kind, or at
the end.
"""

import os
import queue
import select
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self, TextIO

import structlog

from feedhandler.config import Log
from feedhandler.core.notes import Note, Value, note
from feedhandler.observe.catalogue import LEVELS, kind_of

QUEUE_LINES: Final = 10_000
"""Log lines that wait for their reader; further ones are left out and counted."""

WRITE_BYTES: Final = 4096
"""Lines that go into one write: so much a pipe takes in one piece (PIPE_BUF); a longer line has a write of its own."""

PAUSE_S: Final = 0.1
"""After writing all that waited, the thread lets so much time pass before it looks for more."""

REPEAT_S: Final = 1.0
"""The same note with the same key is written once in so many seconds."""

STORIES: Final = 10_000
"""Keys that are remembered for that time; beyond it the oldest starts anew."""

CLOSE_S: Final = 1.0
"""How long the end waits for room in the queue, and for the last lines to be read."""


class LogWriter:
    """A thread that writes lines to a descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: queue.Queue[bytes | None] = queue.Queue(QUEUE_LINES)
        self._refused = 0  # counted by whoever puts
        self._failed = 0  # counted by the thread
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """How many lines were left out so far."""
        return self._refused + self._failed

    @property
    def waiting(self) -> int:
        """How many lines wait for their reader."""
        return self._lines.qsize()

    def put(self, line: str, patience_s: float = 0.0) -> bool:
        """Queue a line; False where there is no room for it, not even after ``patience_s``."""
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        try:
            self._lines.put(data, block=patience_s > 0, timeout=patience_s)
        except queue.Full:
            self._refused += 1
            return False
        return True

    def close(self) -> None:
        """Write what waits, within `CLOSE_S`."""
        self._closing.set()
        try:
            self._lines.put(None, timeout=CLOSE_S)
        except queue.Full:
            return
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        batch = b""
        while (line := self._next(wait=not batch)) is not None:
            if not line or len(batch) + len(line) > WRITE_BYTES:
                self._write(batch)
                batch = b""
            if not line:
                self._closing.wait(PAUSE_S)
            batch += line
        self._write(batch)

    def _next(self, *, wait: bool) -> bytes | None:
        """Take a line; nothing where none is there and it is not waited for, None at the end."""
        try:
            return self._lines.get(block=wait)
        except queue.Empty:
            return b""

    def _write(self, lines: bytes) -> None:
        while lines:
            try:
                lines = lines[os.write(self._descriptor, lines) :]
            except BlockingIOError:  # somebody else made the descriptor non-blocking
                select.select([], [self._descriptor], [])
            except OSError:  # nobody reads, or the disk is full: the next lines may have more luck
                self._failed += lines.count(b"\n")
                return


@dataclass
class _Story:
    """Notes with one key: when the last line was written, and what has come since."""

    since: float
    newest: Note
    repeated: int = 0


class Journal:
    """Writes notes as log lines."""

    def __init__(
        self, settings: Log, write: Callable[[str], object], *, terminal: bool, now: Callable[[], float]
    ) -> None:
        self._least = LEVELS[settings.level]
        self._write = write
        self._now = now
        self._stories: dict[tuple[str, ...], _Story] = {}  # the oldest first
        self._console = settings.format == "console" or (not settings.format and terminal)
        self._stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
        self._render: structlog.typing.Processor = (
            structlog.dev.ConsoleRenderer(colors=terminal)
            if self._console
            else structlog.processors.JSONRenderer()
        )

    def __call__(self, one: Note) -> None:
        """Write a note, unless its level is below the configured one or it repeats itself."""
        now = self._now()
        self._finish(before=now - REPEAT_S)
        kind = kind_of(one.name)
        if LEVELS[kind.level] < self._least:
            return
        key = kind.story(one)
        story = self._stories.get(key)
        if story is not None:
            story.newest = one
            story.repeated += 1
            return
        self._stories[key] = _Story(now, one)
        self.write(one)
        if len(self._stories) > STORIES:
            self._write_repeated(self._stories.pop(next(iter(self._stories))))

    def set_level(self, level: str) -> None:
        """Write what is at least so important from now on."""
        self._least = LEVELS[level]

    def finish(self) -> None:
        """Write what is kept back."""
        self._finish(before=self._now())

    def write(self, one: Note, repeated: int = 0) -> None:
        """Write one line at once."""
        level = kind_of(one.name).level
        fields = (
            {name: _printable(value) for name, value in one.fields.items()} if self._console else one.fields
        )
        line: dict[str, Value] = {"event": one.name, "level": level, **fields}
        if repeated:
            line["repeated"] = repeated
        self._write(str(self._render(None, level, self._stamp(None, level, line))))

    def _finish(self, before: float) -> None:
        """Write what repeated itself in stories that are over; they begin anew with that line."""
        while self._stories:
            key = next(iter(self._stories))
            if self._stories[key].since > before:
                return
            story = self._stories.pop(key)
            if story.repeated:
                self._write_repeated(story)
                self._stories[key] = _Story(self._now(), story.newest)

    def _write_repeated(self, story: _Story) -> None:
        if story.repeated:
            self.write(story.newest, story.repeated)


def _printable(value: Value) -> Value:
    """Return a value that can do nothing to a terminal; names of markets come from outside."""
    if isinstance(value, str) and not value.isprintable():
        return value.encode("unicode_escape").decode()
    return value


class Logs:
    """The journal of a process on standard error; a context manager."""

    def __init__(self, settings: Log, now: Callable[[], float], stream: TextIO | None = None) -> None:
        stream = stream or sys.stderr
        self._writer = LogWriter(stream.fileno())
        self._journal = Journal(settings, self._put, terminal=stream.isatty(), now=now)
        self._told = 0
        self._patience_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.finish()
        self._patience_s = CLOSE_S
        self._tell_lost()
        self._writer.close()

    def __call__(self, one: Note) -> None:
        """Take a note."""
        self._journal(one)

    def set_level(self, level: str) -> None:
        """Write what is at least so important from now on."""
        self._journal.set_level(level)

    @property
    def lost(self) -> int:
        """How many log lines were left out so far."""
        return self._writer.lost

    @property
    def waiting(self) -> int:
        """How many log lines wait for their reader."""
        return self._writer.waiting

    def _put(self, line: str) -> None:
        if self._writer.put(line, self._patience_s):
            self._tell_lost()

    def _tell_lost(self) -> None:
        """Say how many lines were left out since the last time."""
        lost = self._writer.lost - self._told
        if lost:
            self._told += lost
            self._journal.write(note("log_lines_lost", lines=lost))
