"""Logs: one line for a note, JSON or for a terminal, and never a wait for whoever reads them.

Lines go through a bounded queue to a thread of their own, so a blocked pipe or disk costs log lines and nothing else:
what does not fit is counted, and the count is logged when there is room again. Repetitions of one note are rate
limited: within `REPEAT_S` the same note with the same key is counted, and the next line says how often it came.
"""

import logging
import os
import queue
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Final, Self, TextIO

import structlog

from feedhandler.config import Log
from feedhandler.core.notes import Note, Value, note
from feedhandler.observe.catalogue import CATALOGUE

QUEUE_LINES: Final = 10_000
"""Log lines that wait for their reader; further ones are left out and counted."""

REPEAT_S: Final = 1.0
"""The same note with the same key is written once in so many seconds."""

KEYS_REMEMBERED: Final = 10_000
"""Keys whose last line is remembered; beyond that all of them start anew."""

CLOSE_S: Final = 1.0
"""How long the end waits for the last lines to be read."""


class LogWriter:
    """A thread that writes lines to a descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: queue.Queue[bytes | None] = queue.Queue(QUEUE_LINES)
        self.lost = 0
        self._thread = threading.Thread(target=self._write, name="log-writer", daemon=True)
        self._thread.start()

    def put(self, line: str) -> bool:
        """Queue a line; False where there is no room for it."""
        try:
            self._lines.put_nowait(line.encode("utf-8", "backslashreplace") + b"\n")
        except queue.Full:
            self.lost += 1
            return False
        return True

    def close(self) -> None:
        """Write what waits, within `CLOSE_S`."""
        try:
            self._lines.put(None, timeout=CLOSE_S)
        except queue.Full:
            return
        self._thread.join(CLOSE_S)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                while line:
                    line = line[os.write(self._descriptor, line) :]
            except OSError:
                return  # nobody reads any more; the queue fills up and counts


class Journal:
    """Writes notes as log lines."""

    def __init__(
        self, settings: Log, write: Callable[[str], object], *, terminal: bool, now: Callable[[], float]
    ) -> None:
        self._level = logging.getLevelNamesMapping()[settings.level.upper()]
        self._write = write
        self._now = now
        self._last: dict[tuple[str, ...], float] = {}
        self._repeated: Counter[tuple[str, ...]] = Counter()
        console = settings.format == "console" or (not settings.format and terminal)
        render = (
            structlog.dev.ConsoleRenderer(colors=terminal) if console else structlog.processors.JSONRenderer()
        )
        self._processors: list[Callable[..., object]] = [
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            render,
        ]

    def __call__(self, one: Note) -> None:
        """Write a note, unless its level is below the configured one or it repeats itself."""
        kind = CATALOGUE[one.name]
        if logging.getLevelNamesMapping()[kind.level.upper()] < self._level:
            return
        key = (one.name, *(str(one.fields.get(field, "")) for field in kind.key))
        now = self._now()
        if now - self._last.get(key, -REPEAT_S) < REPEAT_S:
            self._repeated[key] += 1
            return
        if len(self._last) >= KEYS_REMEMBERED:
            self._last.clear()
            self._repeated.clear()
        self._last[key] = now
        self.write(one, kind.level, repeated=self._repeated.pop(key, 0))

    def write(self, one: Note, level: str, *, repeated: int) -> None:
        """Write one line."""
        event: dict[str, Value] = {"event": one.name, "level": level, **one.fields}
        if repeated:
            event["repeated"] = repeated
        rendered: object = event
        for process in self._processors:
            rendered = process(None, level, rendered)
        self._write(str(rendered))


class Logs:
    """The journal of a process on standard error; a context manager."""

    def __init__(self, settings: Log, now: Callable[[], float], stream: TextIO = sys.stderr) -> None:
        self._writer = LogWriter(stream.fileno())
        self._journal = Journal(settings, self._put, terminal=stream.isatty(), now=now)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def __call__(self, one: Note) -> None:
        """Take a note."""
        self._journal(one)

    def _put(self, line: str) -> None:
        if self._writer.put(line) and self._writer.lost:
            lost, self._writer.lost = self._writer.lost, 0
            self._journal.write(note("log_lines_lost", lines=lost), "error", repeated=0)
