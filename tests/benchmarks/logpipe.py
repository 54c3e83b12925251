"""The log of a contender: a small pipe that a thread reads into a file, or that nobody reads for a while."""

import fcntl
import os
import select
import time
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Self

PIPE_BYTES = 4096
"""A pipe so small is full after some ten lines."""
READ_BYTES = 64 * 1024
LOOK_S = 0.02
SILENT_S = 0.3
"""A log from which nothing came for so long says nothing more of what was before."""


class LogPipe:
    """A pipe whose `descriptor` is for the contender; it is read into ``path``, until `pause` and after `resume`."""

    def __init__(self, path: Path) -> None:
        self._output, self.descriptor = os.pipe()
        fcntl.fcntl(self.descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._file = path.open("ab", buffering=0)
        self._reading = Event()
        self._reading.set()
        self._over = False
        self._heard_at = time.monotonic()
        self._thread = Thread(target=self._read)
        self.lines = 0
        """Lines that were read so far."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        self._reading.set()
        self._thread.join()
        self._file.close()
        os.close(self._output)
        os.close(self.descriptor)

    def pause(self) -> None:
        """Read no more."""
        self._reading.clear()

    def resume(self) -> None:
        """Read on, and wait until what had to wait was read."""
        self._heard_at = time.monotonic()
        self._reading.set()
        while time.monotonic() - self._heard_at < SILENT_S:
            time.sleep(LOOK_S)

    def _read(self) -> None:
        while not self._over:
            self._reading.wait()
            if select.select([self._output], [], [], LOOK_S)[0]:
                data = os.read(self._output, READ_BYTES)
                self._file.write(data)
                self.lines += data.count(b"\n")
                self._heard_at = time.monotonic()
