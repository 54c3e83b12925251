"""The state of a daemon as one value: what ``/status`` answers, what the page, ``status`` and ``top`` show.

Inert values alone, without anything of the daemon: who reads an answer needs no more. Times are wall clock, ns;
durations are in seconds. Nothing secret is in it.
"""

from typing import Final

import msgspec

from feedhandler.core.notes import Value

UNNEEDED: Final = "unneeded"
"""The state of the token where none is needed."""

ACTIVE: Final = "active"
STANDBY: Final = "standby"
ROLES: Final = (ACTIVE, STANDBY)
"""Which of two daemons one is (`observe.pair`)."""

NONE: Final = "none"
REPLAYING: Final = "replaying"
FOLLOWING: Final = "following"
READY: Final = "ready"
STATES: Final = (NONE, REPLAYING, FOLLOWING, READY)
"""How far the standby has come."""


class LineStatus(msgspec.Struct, frozen=True):
    """One line: who it is, how it does, what it has done since the start."""

    name: str
    state: str
    doing: str
    """What the connection does or waits for: a token, a slot, a place that the exchange has left, and so on."""
    peer: str
    """The address that it is connected to; empty where it is not."""
    since_s: float
    leads: bool
    connected_since_ns: int | None
    lag_p50_s: float
    lag_p99_s: float
    wins: int
    duplicates: int
    messages: int
    garbage: int
    reconnects: int
    last_reason: str
    last_reason_ns: int | None
    led: list[int]
    """Events that it was the first to bring, in each of the last steps; only where the history was asked for."""
    lagged_s: list[float]
    """How far it was behind on average, likewise."""


class BookStatus(msgspec.Struct, frozen=True):
    """A book and its top; a side is None where it is empty, or the book too large to look."""

    synchronised: bool
    levels: int
    bid: tuple[str, str] | None
    """Price and quantity, as the exchange writes them."""
    ask: tuple[str, str] | None


class ChannelStatus(msgspec.Struct, frozen=True):
    """One channel; ``seq`` is the newest."""

    name: str
    state: str
    seq: int
    rate: float
    gaps: int
    last_event_ns: int | None
    repairing_events: int
    book: BookStatus | None


class FeedStatus(msgspec.Struct, frozen=True):
    """One feed."""

    name: str
    market: str
    streams: list[str]
    state: str
    ready: bool
    reasons: list[str]
    failovers: int
    last_failover_ns: int | None
    divergences: int
    window_events: int
    lines: list[LineStatus]
    channels: list[ChannelStatus]
    channels_total: int


class ConsumerStatus(msgspec.Struct, frozen=True):
    """One consumer; ``lag_bytes`` is an upper bound."""

    name: str
    pid: int
    uid: int
    subscribed: bool
    lag_events: int
    lag_bytes: int
    since_ns: int


class BudgetStatus(msgspec.Struct, frozen=True):
    """Attempts to connect: how many may begin at once, how many wait, and what the exchange allows."""

    available: int
    waiting: int
    paused_s: float
    """For how long yet nobody tries, since the exchange asked for that."""
    per_minute: int
    per_market: int
    total: int
    agnostic: int
    learnt: dict[str, int]
    """Connections at once that the exchange was found to allow, where that is fewer: by market, ``*`` of all."""


class TokenStatus(msgspec.Struct, frozen=True):
    """The token: its state as `exchange.token` has it, or `UNNEEDED`."""

    state: str
    age_s: float | None


class BacklogStatus(msgspec.Struct, frozen=True):
    """The backlog."""

    bytes: int
    limit_bytes: int
    records: int


class NewsItem(msgspec.Struct, frozen=True):
    """A note for people, a warning or worse, and how often it came with the same key."""

    at_ns: int
    times: int
    name: str
    level: str
    meaning: str
    fields: dict[str, Value]


class PairStatus(msgspec.Struct, frozen=True):
    """The pair, as one of the two sees it."""

    role: str
    expected: bool
    """Whether this daemon was started as one of two, so that a standby is missed where there is none."""
    standby: str
    """The state of the standby."""
    reasons: list[str]
    """Why it could not take over without a gap."""
    other_pid: int | None
    """The process of the other daemon; None where it is not connected."""
    behind_events: int
    """On the active daemon: what the standby was not sent yet. On the standby: what a line of its own has brought, and
    the active daemon has not published."""
    heard_s: float | None
    """For how long the standby has heard nothing of the active daemon; told by the standby."""
    lock: str
    """The file whose lock the active daemon holds."""
    holds_lock: bool


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of the daemon as a whole."""

    version: str
    session: str
    socket: str
    since_ns: int
    now_ns: int
    ready: bool
    reasons: list[str]
    """Why it is not ready, and what is in doubt although it may be (`observe.readiness`)."""
    pair: PairStatus
    step_s: float
    clock_offset_s: float | None
    budget: BudgetStatus
    token: TokenStatus
    backlog: BacklogStatus
    consumers_total: int
    news: list[NewsItem]


class Status(Summary, frozen=True, kw_only=True):
    """All that is told."""

    consumers: list[ConsumerStatus]
    feeds: list[FeedStatus]
