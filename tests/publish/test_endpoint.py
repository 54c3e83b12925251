"""The socket file: who may serve a path, and who may connect."""

import os
import socket
import stat
from pathlib import Path

import pytest

from feedhandler.config import Publish
from feedhandler.errors import OperationalError, SocketInUse
from feedhandler.publish.endpoint import listening, peer_of


def dead_socket(path: Path) -> None:
    """Leave what a killed daemon leaves."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(os.fspath(path))


def test_the_socket_is_there_only_while_it_is_served(tmp_path: Path) -> None:
    """The file has its mode, answers, and is gone at the end; then the path is free again."""
    path = tmp_path / "feed.sock"
    for mode in ("0660", "0600"):
        with listening(Publish(socket=path, mode=mode)) as listener:
            assert stat.S_IMODE(path.stat().st_mode) == int(mode, 8)
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(os.fspath(path))
                accepted, _ = listener.accept()
                with accepted:
                    assert peer_of(accepted) == (os.getpid(), os.getuid())
        assert not path.exists()


def test_a_second_daemon_is_refused_by_the_lock(tmp_path: Path) -> None:
    """While one daemon serves the path, another one is told so, and the first is undisturbed."""
    path = tmp_path / "feed.sock"
    with listening(Publish(socket=path)):
        with (
            pytest.raises(SocketInUse, match=f"{path}: another feedhandler"),
            listening(Publish(socket=path)),
        ):
            pass
        assert path.is_socket()


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    """A socket that refuses connections belongs to nobody."""
    path = tmp_path / "feed.sock"
    dead_socket(path)
    with listening(Publish(socket=path)), socket.socket(socket.AF_UNIX) as peer:
        peer.connect(os.fspath(path))
        assert peer.getpeername() == os.fspath(path)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_living_socket_is_left_alone(tmp_path: Path, kind: socket.SocketKind) -> None:
    """A socket that someone else serves, of whatever kind, is refused and stays."""
    path = tmp_path / "feed.sock"
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(os.fspath(path))
        if kind == socket.SOCK_STREAM:
            other.listen(1)
        with pytest.raises(SocketInUse, match="another process"), listening(Publish(socket=path)):
            pass
        assert path.is_socket()


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.symlink_to("/dev/null")])
def test_what_is_no_socket_is_left_alone(tmp_path: Path, make: object) -> None:
    """A file, a folder or a link at the path is refused and stays as it is."""
    path = tmp_path / "feed.sock"
    assert callable(make)
    make(path)
    before = path.lstat()
    with pytest.raises(OperationalError, match="not a socket"), listening(Publish(socket=path)):
        pass
    assert path.lstat() == before


def test_an_impossible_path_is_named(tmp_path: Path) -> None:
    """A missing folder, a path that is too long and an unknown group each have their clear text."""
    missing = tmp_path / "missing" / "feed.sock"
    with pytest.raises(OperationalError, match="missing does not exist"), listening(Publish(socket=missing)):
        pass
    long = tmp_path / ("x" * 108)
    with pytest.raises(OperationalError, match="at most 107 bytes"), listening(Publish(socket=long)):
        pass
    grouped = Publish(socket=tmp_path / "feed.sock", group="no-such-group")
    with pytest.raises(OperationalError, match="there is no group no-such-group"), listening(grouped):
        pass
    assert not (tmp_path / "feed.sock").exists()


def test_the_path_is_free_after_a_failure(tmp_path: Path) -> None:
    """A failed start leaves neither lock nor socket behind."""
    path = tmp_path / "feed.sock"
    with pytest.raises(OperationalError), listening(Publish(socket=path, group="no-such-group")):
        pass
    with listening(Publish(socket=path)):
        pass


def test_nobody_connects_before_the_permissions_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mode and group are set while connections are still refused."""
    path = tmp_path / "feed.sock"
    listen = socket.socket.listen
    modes = []

    def watched(sock: socket.socket, waiting: int) -> None:
        modes.append(stat.S_IMODE(path.stat().st_mode))
        listen(sock, waiting)

    monkeypatch.setattr(socket.socket, "listen", watched)
    with listening(Publish(socket=path, mode="0604")):
        assert modes == [0o604]
