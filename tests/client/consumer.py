"""A consumer that may be killed at any moment, as a program: `consumer.py SOCKET RESULTS POSITION`.

Its results are the lines of the numbered records. It appends results first and saves its position after
them, so that at its start it only has to cut off what stands beyond the position, and goes on from there.

For each line on its standard input the program forks one consumer and prints its pid, and a second line once
that one is gone: a fork is quicker than a start.
"""

import os
import sys
from pathlib import Path

from feedhandler.client import Event, Gap, Position, Reader, load_position, save_position
from feedhandler.client.core import decode
from feedhandler.client.thread_client import Client

SAVE_RECORDS = 50
LAST = b'{"last":true}'


def recover(results: Path, position: Position) -> None:
    """Cut off the results that the position does not cover."""
    covered_bytes = 0
    for line in results.read_bytes().splitlines(keepends=True):
        record = decode(line) if line.endswith(b"\n") else None
        if not isinstance(record, Event | Gap) or record.seq > position.seq.get(record.channel, 0):
            break
        covered_bytes += len(line)
    os.truncate(results, covered_bytes)


def consume(path: Path, results: Path, saved: Path) -> None:
    """Go on where the one before was killed, up to the last record."""
    position = load_position(saved)
    assert position is not None
    recover(results, position)
    with results.open("ab") as file, Client(path, Reader(["*"], resume=position)) as client:
        for number, (line, record) in enumerate(client):
            if isinstance(record, Event | Gap):
                file.write(line)
            last = isinstance(record, Event) and bytes(record.msg) == LAST
            if last or number % SAVE_RECORDS == 0:
                file.flush()
                save_position(saved, client.position())
            if last:
                return


def main() -> None:
    """Fork one consumer after the other."""
    path, results, saved = map(Path, sys.argv[1:])
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            consume(path, results, saved)
            os._exit(0)
        os.write(1, b"%d\n" % pid)
        os.waitpid(pid, 0)
        os.write(1, b"gone\n")


if __name__ == "__main__":
    main()
