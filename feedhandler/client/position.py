"""Where a consumer left off, as a value, as a line of JSON and as a file.

The file is always replaced as a whole: whoever reads it finds the old position or the new one, whenever its
writer was killed. A consumer that saves its position after it has dealt with a record may get that record
again, and never misses one; a consumer that must not get it again keeps the position where its results are,
in one transaction or one file with them.
"""

import os
from pathlib import Path
from typing import Annotated

import msgspec

from feedhandler.errors import OperationalError


class Position(msgspec.Struct, frozen=True):
    """Where a consumer left off: of each channel the last seq that it received."""

    session: str
    seq: dict[str, Annotated[int, msgspec.Meta(ge=0)]]


_decoder = msgspec.json.Decoder(Position)


def read_position(text: bytes) -> Position:
    """Read what `write_position` wrote."""
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise OperationalError(f"not a position to resume from: {error}") from error


def write_position(position: Position) -> bytes:
    """Write a position as one line of JSON."""
    return msgspec.json.encode(position) + b"\n"


def load_position(path: Path) -> Position | None:
    """Read the position that a file holds; none from a file that is not there yet."""
    try:
        return read_position(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OperationalError(f"{path}: {error.strerror}") from error
    except OperationalError as error:
        raise OperationalError(f"{path}: {error}") from error


def save_position(path: Path, position: Position | None) -> None:
    """Replace the file's content by a position, once there is one; one process at a time may do so."""
    if position is None:
        return
    fresh = path.with_name(f".{path.name}.new")
    try:
        with fresh.open("wb") as file:
            file.write(write_position(position))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        raise OperationalError(f"{path}: {error.strerror}") from error
