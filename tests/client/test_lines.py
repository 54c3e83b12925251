"""Bytes into lines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedhandler.client.errors import ProtocolError
from feedhandler.client.lines import Lines


@given(lines=st.lists(st.binary(max_size=9).map(lambda raw: raw.replace(b"\n", b""))), data=st.data())
def test_lines_come_out_whatever_the_pieces(lines: list[bytes], data: st.DataObject) -> None:
    """However the bytes are cut, the same lines come out."""
    whole = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)))))
    out, reader = [], Lines()
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        reader.feed(whole[start:end])
        while (line := reader.next()) is not None:
            out.append(line)
    assert b"".join(out) == whole
    assert len(out) == len(lines)


def test_a_line_has_a_bound() -> None:
    """A line that does not end is given up, whole lines before it are not lost."""
    lines = Lines(100)
    lines.feed(b"first\n" + b"x" * 100)
    assert lines.next() == b"first\n"
    assert lines.next() is None
    lines.feed(b"x")
    with pytest.raises(ProtocolError, match="more than 100 bytes"):
        lines.next()
