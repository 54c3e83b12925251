"""Positions as text and as files."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedhandler.client.position import (
    Position,
    load_position,
    read_position,
    save_position,
    write_position,
)
from feedhandler.errors import OperationalError

words = st.text(st.characters(exclude_categories=["Cs"]))


@given(words, st.dictionaries(words, st.integers(0)))
def test_a_written_position_is_read_back(session: str, seq: dict[str, int]) -> None:
    """A position survives being written, as one line."""
    position = Position(session, seq)
    assert read_position(write_position(position)) == position
    assert write_position(position).count(b"\n") == 1


@pytest.mark.parametrize(
    "text",
    [b"", b"{}", b"x", b'{"session":"s","seq":{"m/a":-1}}', b'{"session":"s","seq":{"m/a":1.0}}', b"\xff"],
)
def test_a_broken_position_is_refused(text: bytes) -> None:
    """What is not a position is said to be none."""
    with pytest.raises(OperationalError, match="not a position"):
        read_position(text)


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """A file that is not there holds no position; a saved one is read back, and what a killed writer left goes."""
    path = tmp_path / "position"
    assert load_position(path) is None
    save_position(path, None)
    assert not path.exists()
    (tmp_path / ".position.new").write_bytes(b'{"sess')
    for last in (1, 2):
        save_position(path, Position("s", {"m/a": last}))
        assert load_position(path) == Position("s", {"m/a": last})
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    """What is wrong with a file is said with its path."""
    broken = tmp_path / "broken"
    broken.write_bytes(b"{}")
    with pytest.raises(OperationalError, match=f"{broken}: not a position"):
        load_position(broken)
    with pytest.raises(OperationalError, match=f"{tmp_path}: Is a directory"):
        load_position(tmp_path)
    with pytest.raises(OperationalError, match="missing/p: No such file or directory"):
        save_position(tmp_path / "missing" / "p", Position("s", {}))
