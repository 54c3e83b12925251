"""The client of the socket: one core, three faces.

A `Reader` says what is wanted and knows where the stream was left. A `Client` connects it to the socket,
again and again, and gives one record after the other: none twice, none out of order, and where records are
missing, a record that says so (`Gap`, `Skipped`, `Refused`). The three clients have the same names and do
the same; they differ in how they wait, and this package imports none of them itself, nor what they run on:

    feedhandler.client.thread_client.Client     plain threads
    feedhandler.client.asyncio_client.Client    asyncio
    feedhandler.client.trio_client.Client       trio

From a thread, going on where the last run ended (`close`, called by another thread, ends the loop):

    from pathlib import Path
    from feedhandler.client import Event, Gap, Reader, Refused, load_position, save_position
    from feedhandler.client.thread_client import Client

    saved = Path("position.json")
    with Client("feed.sock", Reader(["*/publicTrades"], resume=load_position(saved))) as client:
        for line, record in client:
            if isinstance(record, Event):
                print(record.channel, record.seq, bytes(record.msg))
            elif isinstance(record, Gap | Refused):
                print("incomplete:", line)
            save_position(saved, client.position())

With asyncio, a book that is there at any time:

    import asyncio
    from feedhandler.client import Reader
    from feedhandler.client.asyncio_client import Client

    async def main():
        async with Client("feed.sock", Reader(["BTC-USD/publicOrderBook"]), books=True) as client:
            async for line, record in client:
                if book := client.books.get("BTC-USD/publicOrderBook"):
                    print(book.seq, book.synchronised, book.bids[:1], book.asks[:1])

    asyncio.run(main())

With trio, told about the connection, too:

    import trio
    from feedhandler.client import Event, Reader
    from feedhandler.client.trio_client import Client

    async def main():
        async with Client("feed.sock", Reader(), report=print) as client:
            async for line, record in client:
                if isinstance(record, Event):
                    print(record.channel, record.seq, record.event_class or "ordinary")

    trio.run(main)

`save_position` waits for the disk: a consumer of a busy stream saves as often as it wants to pay for, and gets
what came after the last time again.

Rooms: `core` (the protocol), `following` (reconnecting) and `books` are pure; `position` keeps a file. The
package imports nothing of the daemon.
"""

from feedhandler.client.books import Book, Books, Level
from feedhandler.client.core import (
    Bye,
    Error,
    Event,
    Gap,
    Heartbeat,
    Hello,
    Reader,
    Received,
    Record,
    Refused,
    Retired,
    Skipped,
    Snapshot,
    State,
    Subscribed,
    Unknown,
)
from feedhandler.client.errors import ClientClosed, ProtocolError, ServerError
from feedhandler.client.position import Position, load_position, read_position, save_position, write_position

__all__ = [
    "Book",
    "Books",
    "Bye",
    "ClientClosed",
    "Error",
    "Event",
    "Gap",
    "Heartbeat",
    "Hello",
    "Level",
    "Position",
    "ProtocolError",
    "Reader",
    "Received",
    "Record",
    "Refused",
    "Retired",
    "ServerError",
    "Skipped",
    "Snapshot",
    "State",
    "Subscribed",
    "Unknown",
    "load_position",
    "read_position",
    "save_position",
    "write_position",
]
