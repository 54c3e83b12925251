"""The socket file: one daemon at a path, a stale file replaced, a living one left alone.

A lock beside the socket (`publish.lock`) is held as long as the socket is served, so that two daemons at one path are
impossible however their starts interleave.

Under the lock, what lies at the path is looked at: nothing is fine, a socket that refuses connections is
what a killed daemon left and goes, a socket that answers belongs to someone and stays, anything else is no
business of ours and stays. Mode and group are set after the binding and before the listening: **nobody can
connect before the permissions stand**.

Who a peer is, the kernel wrote down when it connected, and nothing changes it: not what the peer becomes, nor who
gets the socket from it. Whoever may read an account may pass that on, and nobody can pass on more than he has.
"""

import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import chown
from typing import NamedTuple, Protocol

from feedhandler.config import Publish
from feedhandler.errors import OperationalError, SocketInUse
from feedhandler.publish.lock import Lock

PATH_BYTES = 107  # of a Unix socket's address on Linux, the closing zero left out
WAITING_CONNECTIONS = (
    128  # accepted by the kernel and not yet by us; beyond that, connecting fails with EAGAIN
)
_NOBODY = "nobody"
_CREDENTIALS = struct.Struct("i2I")  # pid, uid, gid; the last two have no sign


class Peer(NamedTuple):
    """The process that connected, as the kernel names it; it may be dead by now, and its pid another's."""

    pid: int
    uid: int


class HasOptions(Protocol):
    """A socket, be it trio's."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
        """Return an option's value."""


def peer_of(sock: HasOptions) -> Peer:
    """Return who connected."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return Peer(pid, uid)


@contextmanager
def listening(settings: Publish, lock: Lock | None = None) -> Iterator[socket.socket]:
    """Serve the path: yield a listening socket, and remove the socket file and free the lock at the end."""
    path = settings.socket
    if len(os.fsencode(path)) > PATH_BYTES:
        raise OperationalError(f"{path}: a socket's path has at most {PATH_BYTES} bytes")
    if _is_missing(path.parent):
        raise OperationalError(f"{path}: the folder {path.parent} does not exist")
    with lock or Lock(path) as held, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        held.mark("")
        _clear(path)
        _bind(sock, settings)
        try:
            yield sock
        finally:
            path.unlink(missing_ok=True)


def _is_missing(folder: Path) -> bool:
    """Tell whether a folder is not there; of one that may not be looked at the lock's error says more."""
    try:
        return not folder.is_dir()
    except OSError:
        return False


def _clear(path: Path) -> None:
    """Make way at the path, or say what is in the way."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OperationalError(f"{path}: there is a file that is not a socket; it is left alone")
    word = _answer(path)
    if word == _NOBODY:
        path.unlink(missing_ok=True)
    elif word:
        raise SocketInUse(f"{path}: another process uses this socket ({word})")
    else:
        raise SocketInUse(f"{path}: another process serves this socket")


def is_served(path: Path) -> bool:
    """Tell whether anybody listens at a path."""
    return not _answer(path)


def _answer(path: Path) -> str:
    """Connect to a path; return what came of it: nothing where somebody listens, `_NOBODY`, or another error."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return _NOBODY
        except OSError as error:
            return error.strerror or str(error)
    return ""


def _bind(sock: socket.socket, settings: Publish) -> None:
    path = settings.socket
    try:
        sock.setblocking(False)
        sock.bind(os.fspath(path))
        path.chmod(settings.mode_bits)
        if settings.group:
            chown(path, group=settings.group)
        sock.listen(WAITING_CONNECTIONS)
    except LookupError as error:
        path.unlink(missing_ok=True)
        raise OperationalError(f"{path}: there is no group {settings.group}") from error
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OperationalError(f"{path}: {error.strerror}") from error
