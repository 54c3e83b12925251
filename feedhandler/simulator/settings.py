"""What can be set in the simulated exchange, and the file that says what goes wrong.

`Behaviour` holds one switch for everything that the exchange's documents leave open. `Fault` is one thing
that goes wrong at one moment, `RandomFaults` draws such things by lot. All three come from one TOML file:

    [behaviour]
    echo_subprotocol = false

    [[fault]]
    at_event = 500          # or at_s = 2.5, counted from the start of playing
    kind = "reset"
    market = "BTC-USD"      # default: every market has its own
    line = 0                # the number of a connection, "random" or "all"

    [random]
    kinds = ["reset", "mute", "drop"]
    every_s = 3.0
    spare = 1

Each key is checked on its own, so that one reading reports every mistake with its path.
"""

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from textwrap import fill
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

from feedhandler.errors import ConfigError

OUTBOX_MAX_BYTES = 64 * 1024 * 1024
"""Default bound of what waits for one connection; a connection that reaches it is closed as slow."""

SUBSCRIBE_LATE_S = 0.2
"""How late the answer to a request to subscribe comes, where it comes late."""

DEFAULT_MARKETS = ("BTC-USD", "ETH-USD")

Kind = Literal[
    "close", "reset", "half_frame", "mute", "delay", "throttle",
    "drop", "interleave", "refuse", "garbage", "outage", "ping",
]  # fmt: skip
"""What can go wrong."""

Variant = Literal["text", "array", "binary", "invalid_utf8", "oversize", "line_breaks", "fragmented"]
"""What kind of garbage; the last two are the next event in an unusual dress."""

EndpointAnswer = Literal[
    "ordinary", "html", "cut", "empty", "array", "no_token", "odd_token", "huge", "endless",
    "redirect", "no_http", "silence", "close", "reset",
]  # fmt: skip
"""How the token endpoint answers."""

How = Literal["close", "reset"]

KINDS: tuple[Kind, ...] = get_args(Kind)
VARIANTS: tuple[Variant, ...] = get_args(Variant)

Seconds = Annotated[float, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Status = Annotated[int, msgspec.Meta(ge=100, le=599)]
Line = Annotated[int, msgspec.Meta(ge=0)] | Literal["random", "all"]


class Behaviour(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One switch for everything that the exchange's documents leave open."""

    echo_subprotocol: bool = True
    market_in_public: bool = True
    """Connections over ``market=ALL`` get the field in any case."""
    delta_ts: bool = True
    snapshot_ts: bool = True
    snapshot_market: bool = True
    snapshot_request_id: bool = True
    snapshot_lag_s: Seconds = 0.0
    """Snapshot replies show the book as it was so long ago."""
    trade_snapshot_rows: Count = 200
    trades_newest_first: bool = True
    rows_per_match: Literal[1, 2] = 1
    spaced_json: bool = False
    extra_keys: bool = False
    fragment_bytes: Count = 0
    """Messages longer than this go out as fragments of this size; 0: never."""
    unknown_types_every_s: Seconds = 0.0
    unsolicited_snapshot_every_s: Seconds = 0.0
    v1_names: bool = False
    """Public events and snapshots under V1's names, of which one is that of the account's trades, too."""
    order_events: Literal["account", "originator"] = "account"
    """Who gets what a request for an order causes: whoever is subscribed, or the connection that asked."""
    order_scope: Literal["market", "account"] = "market"
    """Whether a connection to one market gets the order messages of that market, or of the whole account."""
    order_market: Literal["never", "all", "always"] = "all"
    """Whether order messages name their market beside their order: on connections over ``market=ALL`` only, …"""
    order_status: bool = True
    order_request_id: bool = True
    """``clientRequestId`` inside ``data``."""
    order_request_id_in_order: bool = True
    """That of the request that made the order, inside ``data.order``."""
    refusals_show_order: bool = False
    modify_replies: Literal[3, 4] = 3
    fills_per_message: Annotated[int, msgspec.Meta(ge=1)] = 1
    """The most rows of one message of the account's trades."""
    partial_fill_times: bool = True
    """Whether rows of partial fills say when they were; otherwise that is 0."""
    subscribed_on_connect: bool = False
    subscribe_answer: Literal["reply", "late", "error", "silence", "deaf"] = "reply"
    """How a request to subscribe or unsubscribe is answered: before the first event that it brings; after
    `SUBSCRIBE_LATE_S`, although it has taken effect; with an error, or not at all, and without effect; or not at all,
    although it has taken effect."""
    subscribe_request_id: bool = True
    """Whether the answer to that names its request."""
    ping_every_s: Seconds = 0.0
    """WebSocket pings of the exchange to its clients; 0: none."""
    token_required: bool = False
    """Otherwise a client may come without a token; a wrong or expired one is refused in any case."""
    token_life_s: Seconds = 1800.0
    tokens_per_minute: Count = 20
    """More are answered 429; 0: no limit."""
    token_status: Status = 200
    token_margin_s: Seconds = 0.0
    """A client that uses a token so short before its end, or later, breaks the rules."""
    endpoint_answer: EndpointAnswer = "ordinary"
    """What a request gets that would get a token: the bytes of another answer, or the end of the connection."""
    read_only_key: Literal["", "token", "handshake"] = ""
    """Where a read-only key is told 403, if keys are read-only."""
    close_at_token_expiry: bool = False
    max_connection_age_s: Seconds = 0.0
    markets_shape: Literal["strings", "objects", "wrapped"] = "objects"
    """How the list of markets is answered."""
    handshake: Literal["accept", "silence"] = "accept"
    handshake_status: Status = 101
    """Anything but 101 refuses every handshake with it."""
    retry_after_s: Count = 0
    """Sent with refusals; 0: not sent."""
    retry_after_date: bool = False
    """Sent as a date, in seconds otherwise."""
    bad_token_status: Status = 401
    unknown_market_status: Status = 404
    connections_per_market: Count = 0
    connections_specific: Count = 0
    """Of all markets together, those over ``ALL`` not counted."""
    connections_agnostic: Count = 0
    connections_over_status: Status = 403
    connections_per_minute: Count = 0
    connections_per_minute_status: Status = 429


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing that goes wrong; which parameters matter depends on the kind."""

    kind: Kind
    at_s: Seconds | None = None
    at_event: Count | None = None
    """Strikes when so many events were broadcast: of the market if it names one, else of the exchange."""
    market: str = ""
    """Empty: the exchange draws one of those that are connected."""
    line: Line = "random"
    duration_s: Seconds | None = None
    """How long it lasts; left out: 5 s for `refuse` and `outage`, for ever otherwise."""
    delay_s: Seconds = 0.2
    bytes_per_s: Annotated[int, msgspec.Meta(ge=1)] = 10_000
    count: Annotated[int, msgspec.Meta(ge=1)] = 1
    """How many events are dropped, how many pings sent."""
    depth: Annotated[int, msgspec.Meta(ge=1)] = 8
    """By how many places `interleave` moves an event at most."""
    status: Status = 503
    retry_after_s: Count = 0
    variant: Variant = "text"
    size_bytes: Annotated[int, msgspec.Meta(ge=64, le=64 * 1024 * 1024)] = 4 * 1024 * 1024
    cut_bytes: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """How much of the frame `half_frame` sends; left out: half."""
    how: How = "reset"
    code: Annotated[int, msgspec.Meta(ge=1000, le=4999)] = 1001


class RandomFaults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Faults by lot: at exponential intervals, sparing some lines of every market."""

    kinds: Annotated[tuple[Kind, ...], msgspec.Meta(min_length=1)] = (
        "close", "reset", "half_frame", "mute", "delay", "drop", "interleave", "ping",
    )  # fmt: skip
    every_s: Annotated[float, msgspec.Meta(gt=0)] = 3.0
    """Mean interval."""
    seed: int = 1
    spare: Count = 1
    """So many connections of a market stay untouched at any time, or the fault is skipped."""
    settle_s: Seconds = 2.0
    """A connection younger than this, or so short after its last fault, does not count as untouched."""
    settle_events: Count = 0
    """Nor does one that had been sent fewer events than this so long ago, or whose client had not read them: in a
    quiet market time alone settles nothing, since a client finds the place of a connection by its events."""
    duration_s: Seconds = 3.0
    """Mean duration of what lasts."""


class FaultPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How the exchange behaves and what goes wrong with it."""

    behaviour: Behaviour = Behaviour()
    faults: tuple[Fault, ...] = ()
    random: RandomFaults | None = None


TABLES: dict[str, type[msgspec.Struct]] = {
    "[behaviour] - how the exchange behaves where its documents leave it open": Behaviour,
    "[[fault]] - goes wrong once, at_s seconds or at_event events after the start of playing": Fault,
    "[random] - what goes wrong by lot": RandomFaults,
}
"""The tables of a faults file."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a simulated exchange needs to start."""

    host: str = "127.0.0.1"
    port: int = 0
    tls: bool = False
    ca_file: Path | None = None
    """Where the certificate of the made-up authority is written; left out: a temporary file."""
    markets: tuple[str, ...] | None = None
    """Whose traffic is generated; left out: `DEFAULT_MARKETS`, none where tapes are played."""
    tapes: tuple[Path, ...] = ()
    """Played one after another."""
    rate: float | None = None
    """Generated events per second over all markets that no tape plays; 0: flat out; None: none."""
    account_rate: float = 0.0
    """Generated events of the account per second, beside those of the markets; 0: none."""
    speed: float = 1.0
    """Of the tapes; 0: flat out."""
    seed: int = 1
    wait: int = 0
    """Playing starts when every market has so many connections."""
    truth: Path | None = None
    api_key: str = ""
    """What the token endpoint accepts; empty: anything."""
    api_secret: str = ""
    start_ms: int | None = None
    """The exchange's clock at the start of generated traffic; left out: now."""
    outbox_bytes: int = OUTBOX_MAX_BYTES
    plan: FaultPlan = FaultPlan()


def explained() -> str:
    """Return the tables of a faults file with every key and its default, the other words that it may hold behind it."""
    text = "\n\n".join(
        f"{head}\n{fill(', '.join(_keys(struct)), 78, initial_indent='  ', subsequent_indent='  ')}"
        for head, struct in TABLES.items()
    )
    return text.replace("\N{NO-BREAK SPACE}", " ")


def _keys(struct: type[msgspec.Struct]) -> Iterator[str]:
    for key in msgspec.structs.fields(struct):
        words = list(get_args(key.type)) if get_origin(key.type) is Literal else []
        if key.default is not msgspec.NODEFAULT:
            words = [key.default, *(word for word in words if word != key.default)]
        shown = [json.dumps(word) for word in words if word is not None]
        yield f"{key.name}\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{' | '.join(shown)}" if shown else key.name


def load_faults(path: Path) -> FaultPlan:
    """Read a faults file; `ConfigError` names every mistake in it."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: {error}"]) from error
    mistakes = [f"{path}: {mistake}" for mistake in _mistakes(tables)]
    if mistakes:
        raise ConfigError(mistakes)
    return FaultPlan(
        behaviour=msgspec.convert(tables.get("behaviour", {}), Behaviour),
        faults=msgspec.convert(tables.get("fault", []), tuple[Fault, ...]),
        random=msgspec.convert(tables["random"], RandomFaults) if "random" in tables else None,
    )


def _mistakes(tables: dict[str, Any]) -> Iterator[str]:
    for name, struct in (("behaviour", Behaviour), ("random", RandomFaults)):
        yield from _mistakes_of_table(name, tables.get(name, {}), struct)
    faults = tables.get("fault", [])
    if isinstance(faults, list):
        for number, fault in enumerate(faults):
            yield from _mistakes_of_fault(f"fault[{number}]", fault)
    else:
        yield "fault: expected [[fault]] tables"
    for name in tables.keys() - {"behaviour", "random", "fault"}:
        yield f"{name}: unknown table"


def _mistakes_of_fault(path: str, fault: object) -> Iterator[str]:
    yield from _mistakes_of_table(path, fault, Fault)
    if not isinstance(fault, dict):
        return
    if "kind" not in fault:
        yield f"{path}.kind: missing, expected one of {', '.join(KINDS)}"
    if ("at_s" in fault) == ("at_event" in fault):
        yield f"{path}: expected either at_s or at_event"


def _mistakes_of_table(path: str, table: object, struct: type[msgspec.Struct]) -> Iterator[str]:
    if not isinstance(table, dict):
        yield f"{path}: expected a table"
        return
    types = {field.name: field.type for field in msgspec.structs.fields(struct)}
    for key, value in table.items():
        if key not in types:
            yield f"{path}.{key}: unknown key"
            continue
        try:
            msgspec.convert(value, types[key])
        except msgspec.ValidationError as error:
            text = str(error)
            yield f"{path}.{key}: {text[0].lower()}{text[1:]}"
