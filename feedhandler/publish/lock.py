"""The lock beside the socket (`PATH.lock`): who holds it is the active daemon at that path, and there is one at most.

The kernel frees it with the process that holds it: a killed daemon leaves it at once, a frozen one keeps it until it is
killed. The file itself stays behind: removing it would let a third process lock a file that a second one is still
waiting for.

**What is written in it says who knows all.** A daemon that is followed by another one serves that one first
(`publish.precedence`), and writes down its token before it does; before it goes on without it, it wipes the token out.
So whoever has the lock, and finds its own token there, has been sent every record that any consumer was sent. The file
is a few bytes, written at the beginning and the end of a following and at no other time.
"""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from feedhandler.errors import OperationalError, SocketInUse

TOKEN_BYTES: Final = 64
"""The longest token."""


class Lock:
    """The lock of one socket path; a context in which it is held."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._name = f"{path}.lock"
        self._descriptor = -1

    @property
    def name(self) -> str:
        """The file's path."""
        return self._name

    @property
    def held(self) -> bool:
        """Whether this process holds it through this object."""
        return self._descriptor >= 0

    def take(self) -> bool:
        """Take the lock if it is free; tell whether it is held now. Raise OperationalError where there can be none."""
        if self.held:
            return True
        try:
            descriptor = os.open(self._name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise OperationalError(f"{self._name}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Let others have it."""
        if self.held:
            os.close(self._descriptor)
            self._descriptor = -1

    def mark(self, token: str) -> None:
        """Write down who is sent every record before any consumer is; empty: nobody."""
        if self.held:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, token.encode(), 0)

    def marked(self) -> str:
        """Return who was written down last; empty for nobody."""
        return os.pread(self._descriptor, TOKEN_BYTES, 0).decode(errors="replace") if self.held else ""

    def __enter__(self) -> Self:
        if not self.take():
            path = self._path
            raise SocketInUse(f"{path}: another feedhandler serves this socket (it holds {self._name})")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
