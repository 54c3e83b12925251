"""Work in slices: others have their turn in between, and nothing is lost or mixed up."""

from collections.abc import Iterator

import pytest
import trio

from feedhandler.observe import slices
from feedhandler.observe.slices import in_chunks, in_slices


async def test_others_have_their_turn_after_each_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as a slice has passed another task runs; within it none does."""
    now = 0.0
    monkeypatch.setattr(slices, "perf_counter", lambda: now)
    turns: list[int] = []
    made = 0

    def pieces() -> Iterator[int]:
        nonlocal now, made
        for made in range(1, 21):
            now += slices.SLICE_S * 0.6
            yield made

    async def other() -> None:
        while made < 20:
            turns.append(made)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        assert await in_slices(pieces()) == list(range(1, 21))
    assert set(turns) <= set(range(0, 20, 2))
    assert len(turns) >= 8  # who comes first within a turn of the loop is drawn


def test_chunks_are_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks are about as long as they should be, one piece yields one of them, and together they are the text."""
    monkeypatch.setattr(slices, "CHUNK_CHARS", 10)
    pieces = ["abc", "", "d" * 8, "é" * 3, "x" * 25, "end"]
    chunks = list(in_chunks(pieces))
    assert len(chunks) == len(pieces) + 1
    assert b"".join(chunks) == "".join(pieces).encode()
    assert [len(chunk) for chunk in chunks if chunk] == [11, 31, 3]
