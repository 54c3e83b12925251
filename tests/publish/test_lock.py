"""The lock beside the socket: who may be the active daemon, and who knows all that was published."""

from pathlib import Path

import pytest

from feedhandler.config import Publish
from feedhandler.errors import OperationalError, SocketInUse
from feedhandler.publish.endpoint import listening
from feedhandler.publish.lock import TOKEN_BYTES, Lock


def test_there_is_one_holder(tmp_path: Path) -> None:
    """A second taker is told that it is held, and has it as soon as the first lets go."""
    first, second = Lock(tmp_path / "s"), Lock(tmp_path / "s")
    assert first.take()
    assert first.take()
    assert not second.take()
    with pytest.raises(SocketInUse, match="another feedhandler serves this socket"):
        second.__enter__()
    first.release()
    assert second.take()
    assert second.held
    second.release()


def test_what_was_written_down_outlives_the_holder(tmp_path: Path) -> None:
    """The next holder reads who was sent everything first; a shorter word leaves nothing of a longer one."""
    first, second = Lock(tmp_path / "s"), Lock(tmp_path / "s")
    with first:
        first.mark("f" * TOKEN_BYTES)
        first.mark("token")
    with second:
        assert second.marked() == "token"
        second.mark("")
        assert second.marked() == ""


def test_only_the_holder_writes_and_reads(tmp_path: Path) -> None:
    """Who does not hold the lock changes nothing, and learns nothing."""
    holder, other = Lock(tmp_path / "s"), Lock(tmp_path / "s")
    with holder:
        holder.mark("token")
        other.mark("other")
        assert other.marked() == ""
        assert holder.marked() == "token"


def test_who_begins_to_serve_is_followed_by_nobody(tmp_path: Path) -> None:
    """Whatever a dead daemon has left in the file is gone when the next one listens."""
    path = tmp_path / "s"
    with Lock(path) as lock:
        lock.mark("token")
    lock = Lock(path)
    with listening(Publish(socket=path), lock):
        assert lock.marked() == ""


def test_a_lock_that_cannot_be_is_said(tmp_path: Path) -> None:
    """A link in the place of the file is not followed."""
    (tmp_path / "s.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OperationalError, match=r"s\.lock"):
        Lock(tmp_path / "s").take()
    assert not (tmp_path / "elsewhere").exists()
