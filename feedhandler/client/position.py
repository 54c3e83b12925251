"""Where a consumer left off, as a value, as a line of JSON and as a file.

The file is always replaced as a whole: whoever reads it finds the old position or the new one, whenever its
writer was killed. A consumer that saves its position after it has dealt with a record may get that record
again, and never misses one; a consumer that must not get it again keeps the position where its results are,
in one transaction or one file with them.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from feedhandler.errors import OperationalError

Held = TypeVar("Held")


class Position(msgspec.Struct, frozen=True):
    """Where a consumer left off: of each channel the last seq that it received."""

    session: str
    seq: dict[str, Annotated[int, msgspec.Meta(ge=0)]]


class Positions(msgspec.Struct, frozen=True):
    """Where a consumer of several daemons left off, by the paths of their sockets."""

    sockets: dict[str, Position]


_decoder = msgspec.json.Decoder(Position)
_decoder_of_several = msgspec.json.Decoder(Positions)


def read_position(text: bytes) -> Position:
    """Read what `write_position` wrote."""
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise OperationalError(f"not a position to resume from: {error}") from error


def write_position(position: Position) -> bytes:
    """Write a position as one line of JSON."""
    return msgspec.json.encode(position) + b"\n"


def read_positions(text: bytes) -> Positions:
    """Read what `save_positions` wrote."""
    try:
        return _decoder_of_several.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise OperationalError(f"not the positions of several sockets: {error}") from error


def load_position(path: Path) -> Position | None:
    """Read the position that a file holds; none from a file that is not there yet."""
    return _load(path, read_position)


def load_positions(path: Path) -> dict[str, Position]:
    """Likewise for several sockets."""
    positions = _load(path, read_positions)
    return positions.sockets if positions else {}


def _load(path: Path, read: Callable[[bytes], Held]) -> Held | None:
    try:
        return read(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OperationalError(f"{path}: {error.strerror}") from error
    except OperationalError as error:
        raise OperationalError(f"{path}: {error}") from error


def save_position(path: Path, position: Position | None) -> None:
    """Replace the file's content by a position, once there is one; one process at a time may do so."""
    if position is not None:
        _save(path, write_position(position))


def save_positions(path: Path, positions: dict[str, Position]) -> None:
    """Likewise for several sockets."""
    _save(path, msgspec.json.encode(Positions(positions)) + b"\n")


def _save(path: Path, text: bytes) -> None:
    fresh = path.with_name(f".{path.name}.new")
    try:
        with fresh.open("wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        raise OperationalError(f"{path}: {error.strerror}") from error
