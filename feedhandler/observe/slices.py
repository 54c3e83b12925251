"""Work for people and scrapers in slices, so that it does not hold up the data path.

What is shown is made piece by piece by generators that never wait. Between two pieces, as soon as `SLICE_S` has passed,
all other tasks have their turn. So a picture of everything takes as long as it takes, and an event that arrives
meanwhile waits for one slice and one piece at most. The parts of a picture may differ by that time; each piece is of
one moment.
"""

from collections.abc import Iterable, Iterator
from time import perf_counter
from typing import Final, TypeVar

import trio

SLICE_S: Final = 0.0004
"""After so long all other tasks have their turn."""

CHUNK_CHARS: Final = 32 * 1024
"""Text is encoded in chunks of about this length, since a megabyte at once takes a millisecond."""

Piece = TypeVar("Piece")


def in_chunks(pieces: Iterable[str]) -> Iterator[bytes]:
    """Return text in encoded chunks; a piece that does not fill one yet yields nothing, for others to have a turn."""
    waiting: list[str] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= CHUNK_CHARS:
            yield "".join(waiting).encode()
            waiting, size = [], 0
        else:
            yield b""
    yield "".join(waiting).encode()


async def in_slices(pieces: Iterable[Piece]) -> list[Piece]:
    """Return all pieces; the other tasks have their turn in between."""
    made: list[Piece] = []
    began = perf_counter()
    for piece in pieces:
        made.append(piece)
        if perf_counter() - began > SLICE_S:
            await trio.lowlevel.checkpoint()
            began = perf_counter()
    await trio.lowlevel.checkpoint()
    return made
