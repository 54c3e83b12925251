"""What recovery needs of this exchange: requests for snapshots, and how books and trades are written."""

from collections.abc import Sequence

from feedhandler.core.book import Book
from feedhandler.core.book_repair import BookImage
from feedhandler.core.bookkeeper import BOOK
from feedhandler.core.levels import Broken, Levels
from feedhandler.core.messages import Reply
from feedhandler.core.trades import TRADES, Row, Rows
from feedhandler.exchange.books import (
    doubt,
    is_refusal,
    market_of_reply,
    read_book,
    read_levels,
    read_run,
    write_book,
)
from feedhandler.exchange.messages import OTHER, PUBLIC_BOOK, PUBLIC_TRADES, Dialect
from feedhandler.exchange.requests import ALL, emit_book, emit_trades
from feedhandler.exchange.trades import TradesReply, backfill_event, read_trades

_KINDS = {PUBLIC_BOOK: BOOK, PUBLIC_TRADES: TRADES}
_ANSWERS = {
    "publicOrderBook": BOOK,
    "orderBook": BOOK,
    "publicCompletedOrders": TRADES,
    "completedOrders": TRADES,
}


class Books:
    """The books of one market."""

    def __init__(self, market: str, dialect: Dialect) -> None:
        self._market = market
        self._dialect = dialect

    def levels(self, payload: bytes) -> Levels | Broken:
        """Read a delta."""
        return read_levels(payload)

    def run(self, payloads: Sequence[bytes]) -> Levels | None:
        """Read deltas as if they were one."""
        return read_run(payloads)

    def time_ms(self, payload: bytes) -> int | None:
        """Return a delta's ``ts``."""
        return self._dialect.identify(payload).time_ms

    def read(self, payload: bytes) -> BookImage | Broken:
        """Read a snapshot."""
        reply = read_book(payload, self._market)
        return reply if isinstance(reply, Broken) else BookImage(reply.levels, reply.ts, doubt(reply.levels))

    def write(self, book: Book) -> bytes:
        """Return a book as a ``publicOrderBook`` message."""
        return write_book(book, self._market)


class TradeRows:
    """The trades of one market."""

    def __init__(self, market: str) -> None:
        self._market = market

    def rows(self, payload: bytes) -> Rows | None:
        """Return the rows of an event or a snapshot; None where it cannot be read."""
        reply = read_trades(payload, self._market)
        if not isinstance(reply, TradesReply):
            return None
        return Rows([Row(row.key, row.raw, row.time_ms) for row in reply.rows], reply.newest_first)

    def backfill(self, raw: bytes) -> bytes:
        """Return the event of one row."""
        return backfill_event(raw, self._market)


class Desk:
    """What one feed asks for and how it reads the answers; ``market`` is its connections' parameter."""

    def __init__(self, market: str, dialect: Dialect) -> None:
        self._market = market
        self._dialect = dialect

    def kind(self, stream: str) -> str:
        """Return what a stream is."""
        return _KINDS.get(stream, "")

    def has_gaps(self, stream: str) -> bool:
        """Tell whether a stream belongs to the promise of exactness."""
        return stream != OTHER

    def books(self, market: str) -> Books:
        """Return how the books of a market are written."""
        return Books(market, self._dialect)

    def trades(self, market: str) -> TradeRows:
        """Return how the trades of a market are written."""
        return TradeRows(market)

    def request(self, kind: str, market: str, request_id: str) -> str:
        """Return a request for a snapshot; over ``market=ALL`` it names its market."""
        named = market if self._market == ALL else None
        return emit_book(request_id, named) if kind == BOOK else emit_trades(request_id, named)

    def answers(self, reply: Reply) -> str:
        """Return which kind of request a reply may answer."""
        return _ANSWERS.get(reply.kind, "")

    def refuses(self, reply: Reply) -> bool:
        """Tell whether a reply says that its request failed."""
        return is_refusal(reply.payload)

    def named(self, reply: Reply) -> str:
        """Return the market that a reply is for: that which it names, else the connection's; "" where that is ALL."""
        return market_of_reply(reply.payload) or ("" if self._market == ALL else self._market)
