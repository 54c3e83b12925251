"""The configuration as frozen values: every key, what it means, what it may hold, and its default.

The annotation of a field carries the reader that checks its key; nothing else knows the shape of the file.
Keys end in their unit. Every queue, window, hold and payload of the program has its bound here, and the
sentence below the key says what happens when the bound is reached.
"""

from pathlib import Path
from typing import Annotated

import msgspec

from feedhandler.config.readers import (
    FilePath,
    ListOf,
    OneOf,
    Real,
    Text,
    Url,
    Whole,
    is_address,
    is_feed_name,
    is_group,
    is_market,
    is_mode,
    split_address,
)

KIB = 1024
MIB = 1024 * 1024

ALL = "ALL"
"""The market parameter of one connection over every market."""

LISTED = "*"
"""In the configuration: every market that the exchange lists, one feed each."""

ACCOUNT_STREAMS = frozenset({"orders", "trades"})
"""Streams of the account that the key belongs to; only the uids of ``publish.account_uids`` may read them."""

STREAMS = ("publicTrades", "publicOrderBook", "orders", "trades")

_Uids = ListOf(Whole(0, 2**32 - 2), "a list of numeric user ids", may_be_empty=True)
_Markets = ListOf(
    Text('a market name such as "BTC-USD"', is_market), 'a list of market names, ["*"] or ["ALL"]'
)
_Streams = ListOf(OneOf(STREAMS), "a list of streams: " + ", ".join(STREAMS))


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """Where the exchange is and who we are there."""

    websocket_url: Annotated[str, Url(("wss", "ws"), optional=False)]
    """The WebSocket endpoint; market and subscriptions are added to it."""
    token_url: Annotated[str, Url(("https", "http"))] = ""
    """Where a token is fetched; empty: none is sent."""
    markets_url: Annotated[str, Url(("https", "http"))] = ""
    """Where the exchange lists its markets; needed for ``markets = ["*"]``."""
    markets_refresh_s: Annotated[float, Real(0, 86_400)] = 600.0
    """Time between two requests for the list of markets; 0: it is asked for at the start only."""
    api_key_file: Annotated[Path | None, FilePath()] = None
    """Holds the API key; none: the systemd credential ``api-key``, else ``$FEEDHANDLER_API_KEY``."""
    api_secret_file: Annotated[Path | None, FilePath()] = None
    """Holds the API secret; none: the systemd credential ``api-secret``, else ``$FEEDHANDLER_API_SECRET``."""
    ca_file: Annotated[Path | None, FilePath()] = None
    """Certificates (PEM) that TLS trusts; none: the system's."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the exchange allows; the program never goes above it."""

    connections_per_minute: Annotated[int, Whole(1, 100_000)] = 20
    """Attempts to connect in any minute, all feeds together; further ones wait for their turn."""
    connections_per_market: Annotated[int, Whole(1, 100_000)] = 5
    """Lines of one market together."""
    connections_total: Annotated[int, Whole(0, 100_000)] = 0
    """Lines of all per-market feeds together; 0: no limit."""
    connections_agnostic: Annotated[int, Whole(1, 100_000)] = 5
    """Lines over ``market=ALL`` together."""


class Feed(msgspec.Struct, frozen=True, kw_only=True):
    """One ``[[feed]]``: one feed for each of its markets, all with the same streams and as many lines."""

    name: Annotated[str, Text("letters, digits, '.', '_' and '-', at most 64", is_feed_name)] = ""
    """Put before the market in the feed's label; needed where two feeds are on one market."""
    markets: Annotated[tuple[str, ...], _Markets] = (LISTED,)
    """One feed each; ``["*"]``: all that the exchange lists; ``["ALL"]``: one feed over all of them."""
    streams: Annotated[tuple[str, ...], _Streams] = ("publicTrades", "publicOrderBook")
    """What the lines subscribe to."""
    lines: Annotated[int, Whole(1, 8)] = 2
    """Identical connections of each feed."""

    def label(self, market: str) -> str:
        """Name the feed of ``market`` as operators see it."""
        return f"{self.name}/{market}" if self.name else market


class Publish(msgspec.Struct, frozen=True, kw_only=True):
    """The Unix socket that consumers read."""

    socket: Annotated[Path, FilePath(optional=False)] = Path("/run/feedhandler/feed.sock")
    """Where it listens."""
    mode: Annotated[str, Text('an octal mode such as "0660"', is_mode)] = "0660"
    """Permissions of the socket, octal."""
    group: Annotated[str, Text("the name of a group", is_group)] = ""
    """Group of the socket; empty: the daemon's own."""
    drain_s: Annotated[float, Real(0, 3600)] = 5.0
    """Longest wait at shutdown for consumers to take what is pending; then they are disconnected."""
    account_uids: Annotated[tuple[int, ...] | None, _Uids] = None
    """Who may read the account streams; left out: the daemon's own uid and root."""
    backlog_mib: Annotated[int, Whole(1, 1024 * 1024)] = 64
    """Records kept for late and slow consumers, all channels together; the oldest go first."""
    consumer_mib: Annotated[int, Whole(0, 1024 * 1024)] = 0
    """How far a consumer may fall behind; one that is further is disconnected, or taken to the head where it
    asked for that. What the backlog holds beyond this is the room to come back without a loss; 0: three
    quarters of ``backlog_mib``."""
    peak_mib_s: Annotated[int, Whole(1, 65_536)] = 4
    """Most output that is expected in one second; with ``bounds.snapshot_mib``, the least that a consumer must
    be allowed to fall behind."""

    @property
    def mode_bits(self) -> int:
        """``mode`` as a number."""
        return int(self.mode, 8)

    @property
    def backlog_bytes(self) -> int:
        """``backlog_mib`` in bytes."""
        return self.backlog_mib * MIB

    @property
    def consumer_bytes(self) -> int:
        """``consumer_mib`` in bytes, or what it stands for."""
        return self.consumer_mib * MIB or self.backlog_bytes * 3 // 4

    @property
    def peak_bytes(self) -> int:
        """``peak_mib_s`` in bytes."""
        return self.peak_mib_s * MIB


class Observe(msgspec.Struct, frozen=True, kw_only=True):
    """What operators see."""

    http: Annotated[str, Text('host:port (an IPv6 host in brackets) or ""', is_address)] = "127.0.0.1:9464"
    """Where metrics, health and the status page are served; empty: nowhere."""
    incidents: Annotated[Path | None, FilePath()] = None
    """Folder for incident files; none: they are not written."""

    @property
    def http_address(self) -> tuple[str, int] | None:
        """``http`` as host and port; None where it is switched off."""
        return split_address(self.http)


class Standby(msgspec.Struct, frozen=True, kw_only=True):
    """What ``run --standby`` does while another daemon is the active one."""

    lines: Annotated[int, Whole(0, 8)] = 1
    """Its own lines of each feed, at most those of the feed; they count beside the active daemon's."""
    http: Annotated[str, Text('host:port (an IPv6 host in brackets) or ""', is_address)] = ""
    """Where this process is observed, whoever is active; ``observe.http`` is the active one's. Empty: nowhere."""

    @property
    def http_address(self) -> tuple[str, int] | None:
        """``http`` as host and port; None where it is switched off."""
        return split_address(self.http)


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """How the program logs."""

    format: Annotated[str, OneOf(("json", "console", ""))] = ""
    """Shape of the lines; empty: console on a terminal, json otherwise."""
    level: Annotated[str, OneOf(("debug", "info", "warning", "error"))] = "info"
    """The least important level that is written."""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """When a line is suspect, when it is replaced, and when it counts as good again."""

    stall_events: Annotated[int, Whole(1, 1_000_000)] = 3
    """Events by which the peers must be ahead before a line can be stalled."""
    stall_min_s: Annotated[float, Real(0.01, 3600)] = 1.0
    """Shortest time without progress, while the peers advance, that makes a line suspect."""
    stall_lag_factor: Annotated[float, Real(1, 1000)] = 3.0
    """Multiple of the line's usual lag (p99) allowed where that is longer than ``stall_min_s``."""
    replace_s: Annotated[float, Real(0, 3600)] = 3.0
    """Time as a suspect after which a replacement is requested."""
    probation_s: Annotated[float, Real(0, 3600)] = 5.0
    """Time that a line must keep up before it counts as good."""
    ping_interval_s: Annotated[float, Real(0.1, 540)] = 5.0
    """Time between two application-level pings of a line; a gateway may cut what is idle for ten minutes."""
    pong_timeout_s: Annotated[float, Real(0.1, 3600)] = 10.0
    """Time after a ping in which something must arrive; then the line is closed and replaced."""
    quiet_s: Annotated[float, Real(0.1, 3600)] = 10.0
    """Time without an event, with pongs arriving, after which a feed is called quiet."""
    quarantine_divergences: Annotated[int, Whole(1, 1_000_000)] = 8
    """Missed or unconfirmed events within an hour that quarantine a line."""
    quarantine_s: Annotated[float, Real(0, 86_400)] = 60.0
    """Time that a quarantined line stays disconnected."""
    connection_max_age_s: Annotated[float, Real(0, 604_800)] = 0.0
    """Age before which a connection is replaced, whatever its token allows; 0: no such age."""


class Recovery(msgspec.Struct, frozen=True, kw_only=True):
    """When snapshots are asked for: to repair what a gap has hidden, and to prove books."""

    reply_s: Annotated[float, Real(0.1, 600)] = 3.0
    """Longest wait for a snapshot that was asked for; then another line is asked."""
    retry_s: Annotated[float, Real(0.1, 600)] = 1.0
    """Longest pause between a snapshot that was of no use and the next request."""
    verify_s: Annotated[float, Real(0.1, 3600)] = 3.0
    """Time from the repair of a book to its first audit."""
    audit_s: Annotated[float, Real(0, 86_400)] = 60.0
    """Time between two audits of a book, give or take a quarter, so that they spread; 0: where all is silent only."""
    requests_per_s: Annotated[float, Real(0.1, 10_000)] = 16.0
    """Most requests for snapshots of one feed in a second; further ones wait."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """The bound of every queue, window, hold and payload."""

    window_events: Annotated[int, Whole(1024, 100_000_000)] = 65_536
    """Events in the window of a feed; the oldest go first, and a line that owes them is a witness again.

    What such a line brings from before the window counts as out: nobody can tell any more. Hence the least value.
    """
    window_mib: Annotated[int, Whole(1, 65_536)] = 32
    """Size of the window of a feed; likewise."""
    window_s: Annotated[float, Real(1, 86_400)] = 60.0
    """Age of the events in the window of a feed; likewise."""
    settled_events: Annotated[int, Whole(16, 100_000_000)] = 8192
    """Events of the window that every line has delivered already; the oldest go first."""
    trail_mib: Annotated[int, Whole(0, 65_536)] = 4
    """Size of the newest reads of a feed, with which lines behind are compared whole; the oldest go first, and a line
    further behind is compared event by event; 0: every line is."""
    hold_events: Annotated[int, Whole(1, 100_000_000)] = 65_536
    """Events held for a witness; when reached, the oldest quarter goes, and the line joins later."""
    hold_mib: Annotated[int, Whole(1, 65_536)] = 32
    """Size of what is held for a witness; likewise."""
    hold_s: Annotated[float, Real(0.1, 3600)] = 5.0
    """Time that a witness waits for a suspect line to go on; then it is aligned by decree, behind a gap."""
    passed_events: Annotated[int, Whole(1, 1_000_000)] = 64
    """Events delivered after a passed one until, with ``passed_s`` over as well, the line missed that one."""
    passed_s: Annotated[float, Real(0, 3600)] = 2.0
    """Time after which an event that a line passed counts as missed by it, ``passed_events`` reached."""
    repair_events: Annotated[int, Whole(1, 100_000_000)] = 8192
    """Events of a channel held while it is repaired; then a book's oldest quarter goes, and trades go on unrepaired."""
    repair_mib: Annotated[int, Whole(1, 65_536)] = 8
    """Size of what is held for that; likewise."""
    message_mib: Annotated[int, Whole(1, 1024)] = 16
    """Largest message of the exchange; a line that brings a larger one is closed."""
    snapshot_mib: Annotated[int, Whole(1, 1024)] = 8
    """Largest snapshot of a book that is taken from the exchange or published; a larger one is not used."""
    read_kib: Annotated[int, Whole(4, 65_536)] = 256
    """Most bytes taken from a line by one read; the rest waits for the next one."""
    handshake_s: Annotated[float, Real(0.1, 600)] = 10.0
    """Longest time for an attempt to connect; then it has failed."""
    backoff_min_s: Annotated[float, Real(0.01, 3600)] = 1.0
    """First bound of the random wait after a failed attempt; it doubles with each further one."""
    backoff_max_s: Annotated[float, Real(0.01, 3600)] = 30.0
    """Last bound of that wait."""
    consumers: Annotated[int, Whole(1, 100_000)] = 256
    """Consumers connected at once; further ones are answered with an error and closed."""
    request_kib: Annotated[int, Whole(1, 65_536)] = 1024
    """Longest line that a consumer may send; a longer one is answered with an error and closed."""
    send_kib: Annotated[int, Whole(1, 65_536)] = 256
    """Most bytes joined into one send to a consumer; the rest goes with the next one."""
    incident_files: Annotated[int, Whole(1, 100_000)] = 100
    """Incident files kept; the oldest are deleted."""
    incident_events: Annotated[int, Whole(1, 100_000)] = 64
    """Events around an incident that its file keeps; further ones are left out."""
    unknown_events: Annotated[int, Whole(1, 1_000_000)] = 1024
    """Messages of unknown type remembered per feed to remove duplicates; the oldest are forgotten."""

    @property
    def window_bytes(self) -> int:
        """``window_mib`` in bytes."""
        return self.window_mib * MIB

    @property
    def trail_bytes(self) -> int:
        """``trail_mib`` in bytes."""
        return self.trail_mib * MIB

    @property
    def hold_bytes(self) -> int:
        """``hold_mib`` in bytes."""
        return self.hold_mib * MIB

    @property
    def repair_bytes(self) -> int:
        """``repair_mib`` in bytes."""
        return self.repair_mib * MIB

    @property
    def message_bytes(self) -> int:
        """``message_mib`` in bytes."""
        return self.message_mib * MIB

    @property
    def snapshot_bytes(self) -> int:
        """``snapshot_mib`` in bytes."""
        return self.snapshot_mib * MIB

    @property
    def read_bytes(self) -> int:
        """``read_kib`` in bytes."""
        return self.read_kib * KIB

    @property
    def request_bytes(self) -> int:
        """``request_kib`` in bytes."""
        return self.request_kib * KIB

    @property
    def send_bytes(self) -> int:
        """``send_kib`` in bytes."""
        return self.send_kib * KIB


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the operator decides; ``feeds`` are the ``[[feed]]`` tables in their order."""

    exchange: Exchange
    limits: Limits = Limits()
    feeds: tuple[Feed, ...] = msgspec.field(name="feed")
    publish: Publish = Publish()
    observe: Observe = Observe()
    standby: Standby = Standby()
    log: Log = Log()
    health: Health = Health()
    recovery: Recovery = Recovery()
    bounds: Bounds = Bounds()
