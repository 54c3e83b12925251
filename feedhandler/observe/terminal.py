"""The state of one or several daemons on a terminal: first what is wrong, then everything.

Several daemons are shown as one whole; where a name alone would not tell, the daemon's address stands before it. A
terminal has only so many rows: what is wrong comes first in each table, and what does not fit is counted.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from feedhandler.core.arbiter import DOWN, LIVE, QUIET, SYNCING
from feedhandler.core.budget import EVERY
from feedhandler.core.following import OUTPUT
from feedhandler.core.health import BACKOFF, CONNECTING, GOOD, PROBATION, QUARANTINED, SUSPECT, WITNESS
from feedhandler.exchange.token import FRESH, STALE
from feedhandler.ingest.doing import UP as CONNECTED
from feedhandler.observe.asking import Look
from feedhandler.observe.status import (
    READY,
    REPLAYING,
    STANDBY,
    UNNEEDED,
    BudgetStatus,
    ChannelStatus,
    ConsumerStatus,
    FeedStatus,
    LineStatus,
    PairStatus,
    Status,
)

UP: Final = frozenset({GOOD, PROBATION})
STYLES: Final = {
    GOOD: "green",
    PROBATION: "green",
    WITNESS: "yellow",
    SUSPECT: "yellow",
    CONNECTING: "red",
    BACKOFF: "red",
    QUARANTINED: "magenta",
    LIVE: "green",
    QUIET: "cyan",
    SYNCING: "yellow",
    DOWN: "red",
}
WIDE_COLUMNS: Final = 120
"""From this width on there is room for what is only nice to know."""
NARROW_COLUMNS: Final = 76
"""Below this width there is room for names and for what is wrong with them."""
REASONS_SHOWN: Final = 3
TABLE_ROWS: Final = 3
"""What a table's title, head and rule take."""
NS: Final = 1e9


class Width(NamedTuple):
    """How much room there is from left to right."""

    columns: int

    @property
    def wide(self) -> bool:
        """Whether everything has room."""
        return self.columns >= WIDE_COLUMNS

    @property
    def narrow(self) -> bool:
        """Whether only the most important has room."""
        return self.columns < NARROW_COLUMNS


class _LineRow(NamedTuple):
    feed: FeedStatus
    label: str
    line: LineStatus


def picture(looks: Sequence[Look], *, columns: int, rows: int | None = None) -> RenderableType:
    """Return the whole picture, for so many columns and rows (None: as many as it takes)."""
    answered = [(look, look.status) for look in looks if look.status is not None]
    head = [*_heads(looks, answered, columns)]
    if not answered:
        return Group(*head)
    width = Width(columns)
    several = len(looks) > 1
    lines = sorted(_line_rows(answered, several=several), key=_line_rank)
    channels = sorted(_channel_rows(answered, several=several), key=_channel_rank)
    consumers = sorted(_consumer_rows(answered, several=several), key=lambda row: -row[1].lag_events)
    room = None if rows is None else rows - len(head)
    tables = [
        _lines_table(lines, width),
        _channels_table(channels, answered[0][1].now_ns, width),
        _consumers_table(consumers, width),
    ]
    return Group(*head, *_fitted(tables, room))


def _fitted(
    tables: Sequence[tuple[Table, list[list[RenderableType]]]], room: int | None
) -> Iterable[RenderableType]:
    """Return the tables with as many rows as there is room for: each gets its share, and what others leave."""
    sizes = _shares([len(rows) for _, rows in tables], room)
    for (table, rows), size in zip(tables, sizes, strict=True):
        if not rows or not size:
            continue
        for cells in rows[:size]:
            table.add_row(*cells)
        if size < len(rows):
            table.title = Text.assemble(table.title or "", (f"   {size} of {len(rows)} shown", "dim"))
        yield table


def _shares(wanted: Sequence[int], room: int | None) -> list[int]:
    """Divide the room among tables of so many rows; the first have precedence where it is not enough for all."""
    if room is None:
        return list(wanted)
    left, given = room, [0] * len(wanted)
    served = []
    for index, want in enumerate(wanted):
        if want and left > TABLE_ROWS:
            served.append(index)
            given[index] = 1
            left -= TABLE_ROWS + 1
    while left > 0 and any(given[index] < wanted[index] for index in served):
        for index in served:
            if left > 0 and given[index] < wanted[index]:
                given[index] += 1
                left -= 1
    return given


# The head


def _heads(
    looks: Sequence[Look], answered: Sequence[tuple[Look, Status]], columns: int
) -> Iterable[RenderableType]:
    for look in looks:
        yield _title(look)
        if look.status is not None:
            yield from _pair(look.status.pair)
            yield from _learnt(look.status.budget)
            shown = look.status.reasons[:REASONS_SHOWN]
            left = len(look.status.reasons) - len(shown)
            mark = ("  ! ", "bold yellow") if look.status.ready else ("  ✗ ", "bold red")
            for reason in shown:
                yield _cut(Text.assemble(mark, _safe(reason)))
            if left:
                yield Text(f"    and {left} more", "red")
    if answered:
        yield _numbers([status for _, status in answered], columns)


def _pair(pair: PairStatus) -> Iterable[Text]:
    """Return a line about the other daemon, where there is one or should be one."""
    if pair.role == STANDBY:
        does = "catches up with" if pair.standby == REPLAYING else "follows"
        told = f"{does} process {pair.other_pid}" if pair.other_pid else "no active daemon answers"
        heard = [] if pair.heard_s is None else [f"heard {duration(pair.heard_s)} ago"]
        held = f"{'holds' if pair.holds_lock else 'waits for'} {_safe(pair.lock)}"
        parts = [told, *heard, f"{pair.behind_events:,} events not published yet", held]
    elif pair.other_pid is not None:
        parts = [
            f"standby {pair.standby}",
            f"process {pair.other_pid}",
            f"{pair.behind_events:,} events behind",
        ]
    elif pair.expected:
        parts = ["NO STANDBY"]
    else:
        return
    yield _cut(Text("  ⇄ " + "  ".join(parts), "" if pair.standby == READY else "yellow"))


def _learnt(budget: BudgetStatus) -> Iterable[Text]:
    """Return a line about the connections that the exchange was found to allow, where that is fewer."""
    caps = [
        f"{cap} {'in all' if scope == EVERY else f'of {_safe(scope)}'}"
        for scope, cap in budget.learnt.items()
    ]
    if caps:
        more = f" and {len(caps) - REASONS_SHOWN} more" if len(caps) > REASONS_SHOWN else ""
        text = f"  ! the exchange allows fewer connections: {', '.join(caps[:REASONS_SHOWN])}{more}"
        yield _cut(Text(text, "yellow"))


def _title(look: Look) -> Text:
    if look.status is None:
        return _cut(Text.assemble(("DOWN ", "bold white on red"), f" {look.url}  {look.failure}"))
    status = look.status
    ready = "READY" if status.ready else "NOT READY"
    words = f"STANDBY {ready}" if status.pair.role == STANDBY else ready
    word = (words, "bold black on green" if status.ready else "bold white on red")
    up = duration((status.now_ns - status.since_ns) / NS)
    return _cut(
        Text.assemble((f" {word[0]} ", word[1]), f"  {look.url}  feedhandler {status.version}  up {up}")
    )


def _numbers(all_of: Sequence[Status], columns: int) -> Text:
    """Return the numbers in one line; where it is cut, those that warn stand first."""
    feeds = [feed for status in all_of for feed in status.feeds]
    lines = [line for feed in feeds for line in feed.lines if line.name != OUTPUT]
    channels = [channel for feed in feeds for channel in feed.channels]
    up = sum(line.state in UP for line in lines)
    gaps = sum(channel.gaps for channel in channels)
    used = max((one.backlog.bytes / one.backlog.limit_bytes for one in all_of), default=0.0)
    behind = max((one.lag_events for status in all_of for one in status.consumers), default=0)
    ready = sum(feed.ready for feed in feeds)
    available = min(one.budget.available for one in all_of)
    token, held = _token(all_of)
    parts = [
        (f"feeds {ready}/{len(feeds)}", ready < len(feeds)),
        (f"lines {up}/{len(lines)}", up < len(lines)),
        (f"{sum(channel.rate for channel in channels):,.0f}/s", False),
        (f"gaps {gaps:,}", gaps > 0),
        (f"consumers {sum(status.consumers_total for status in all_of)}", False),
        *([(f"{behind:,} behind", True)] if behind else []),
        (f"backlog {used:.0%}", False),
        (f"budget {available}", not available),
        *([(f"token {token}", not held)] if token else []),
    ]
    if len("  ".join(text for text, _ in parts)) > columns:
        parts.sort(key=lambda part: not part[1])
    return _cut(Text("  ").join(Text(text, "bold yellow" if warns else "") for text, warns in parts))


def _token(all_of: Sequence[Status]) -> tuple[str, bool]:
    """Return the age of the oldest token, or what is wrong, and whether all is well; nothing if none is needed."""
    tokens = [one.token for one in all_of if one.token.state != UNNEEDED]
    bad = [token.state for token in tokens if token.state not in {FRESH, STALE}]
    ages = [token.age_s for token in tokens if token.age_s is not None]
    return bad[0] if bad else duration(max(ages)) if ages else "", not bad


# The tables


def _line_rows(answered: Sequence[tuple[Look, Status]], *, several: bool) -> Iterable[_LineRow]:
    for look, status in answered:
        for feed in status.feeds:
            for line in feed.lines:
                yield _LineRow(feed, _label(look, feed.name, several=several), line)


def _line_rank(row: _LineRow) -> tuple[bool, bool]:
    """Rank feeds with trouble first; the lines of a feed stay together, since sorting keeps order."""
    return row.feed.ready, all(line.state in UP for line in row.feed.lines)


def _lines_table(rows: Sequence[_LineRow], width: Width) -> tuple[Table, list[list[RenderableType]]]:
    table = _table("lines")
    table.add_column("feed", no_wrap=True, ratio=2, min_width=8)
    if not width.narrow:
        table.add_column("state", no_wrap=True)
    table.add_column("line", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in ("p99 ms", "lost") if width.narrow else ("led", "lag p50", "p99 ms", "lost"):
        table.add_column(name, justify="right", no_wrap=True)
    if width.wide:
        for name in ("for", "wins", "duplicates", "failovers"):
            table.add_column(name, justify="right", no_wrap=True)
    if not width.narrow:
        table.add_column("reason", no_wrap=True, ratio=1, min_width=8)
    return table, [_line_cells(row, width) for row in rows]


def _line_cells(row: _LineRow, width: Width) -> list[RenderableType]:
    feed, line = row.feed, row.line
    won = sum(one.wins for one in feed.lines)
    recent = sum(sum(one.led) for one in feed.lines)
    share = sum(line.led) / recent if recent else line.wins / won if won else 0.0
    name = Text(f"{'▶' if line.leads else ' '}{line.name}", "bold" if line.leads else "")
    state = Text(line.state, STYLES.get(line.state, ""))
    p99, lost = (
        f"{line.lag_p99_s * 1000:.1f}",
        Text(f"{line.reconnects}", "yellow" if line.reconnects else ""),
    )
    if width.narrow:
        return [Text(_safe(row.label), STYLES.get(feed.state, "")), name, state, p99, lost]
    cells: list[RenderableType] = [
        Text(_safe(row.label)),
        Text(feed.state, STYLES.get(feed.state, "")),
        name,
        state,
        f"{share:.0%}",
        f"{line.lag_p50_s * 1000:.1f}",
        p99,
        lost,
    ]
    if width.wide:
        cells += [duration(line.since_s), f"{line.wins:,}", f"{line.duplicates:,}", f"{feed.failovers}"]
    waits = "" if line.doing in {"", CONNECTED, line.state} else line.doing
    return [*cells, Text(_safe(waits or line.last_reason))]


def _channel_rows(
    answered: Sequence[tuple[Look, Status]], *, several: bool
) -> Iterable[tuple[str, ChannelStatus]]:
    for look, status in answered:
        for feed in status.feeds:
            for channel in feed.channels:
                yield _label(look, channel.name, several=several), channel


def _channel_rank(row: tuple[str, ChannelStatus]) -> tuple[bool, bool]:
    _, channel = row
    return channel.state in {LIVE, QUIET} and (
        channel.book is None or channel.book.synchronised
    ), not channel.gaps


def _channels_table(
    rows: Sequence[tuple[str, ChannelStatus]], now_ns: int, width: Width
) -> tuple[Table, list[list[RenderableType]]]:
    table = _table("channels")
    table.add_column("channel", no_wrap=True, ratio=2)
    table.add_column("state", no_wrap=True)
    for name in ("/s", "gaps") if width.narrow else ("seq", "/s", "gaps", "last"):
        table.add_column(name, justify="right", no_wrap=True)
    if width.wide:
        table.add_column("bid", justify="right", no_wrap=True)
        table.add_column("ask", no_wrap=True)
    return table, [_channel_cells(label, channel, now_ns, width) for label, channel in rows]


def _channel_cells(label: str, channel: ChannelStatus, now_ns: int, width: Width) -> list[RenderableType]:
    age = "-" if channel.last_event_ns is None else duration((now_ns - channel.last_event_ns) / NS)
    name, state = Text(_safe(label)), Text(channel.state, STYLES.get(channel.state, ""))
    rate = f"{channel.rate:,.1f}"
    gaps = Text(f"{channel.gaps}", "bold red" if channel.gaps else "")
    if width.narrow:
        return [name, state, rate, gaps]
    cells: list[RenderableType] = [name, state, f"{channel.seq:,}", rate, gaps, age]
    if width.wide:
        bid, ask = (None, None) if channel.book is None else (channel.book.bid, channel.book.ask)
        cells += [
            Text(_safe(f"{bid[1]} @ {bid[0]}") if bid else ""),
            Text(_safe(f"{ask[0]} @ {ask[1]}") if ask else ""),
        ]
    return cells


def _consumer_rows(
    answered: Sequence[tuple[Look, Status]], *, several: bool
) -> Iterable[tuple[str, ConsumerStatus, int]]:
    for look, status in answered:
        for consumer in status.consumers:
            yield _label(look, consumer.name or "(no name)", several=several), consumer, status.now_ns


def _consumers_table(
    rows: Sequence[tuple[str, ConsumerStatus, int]], width: Width
) -> tuple[Table, list[list[RenderableType]]]:
    table = _table("consumers")
    table.add_column("consumer", no_wrap=True, ratio=2)
    for name in ("pid", "uid", "events behind", *(("MiB behind", "for") if width.wide else ())):
        table.add_column(name, justify="right", no_wrap=True)
    return table, [
        [
            Text(_safe(label), "" if one.subscribed else "dim"),
            f"{one.pid}",
            f"{one.uid}",
            Text(f"{one.lag_events:,}", "yellow" if one.lag_events else ""),
            *((f"{one.lag_bytes / 2**20:.1f}", duration((now_ns - one.since_ns) / NS)) if width.wide else ()),
        ]
        for label, one, now_ns in rows
    ]


def _table(title: str) -> Table:
    return Table(
        title=Text(title, "bold"),
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        expand=True,
        pad_edge=False,
        show_edge=False,
    )


def _label(look: Look, name: str, *, several: bool) -> str:
    """Return a name, with the daemon's port or path before it where it is one of several."""
    address = look.url.partition("://")[2]
    host, colon, rest = address.partition(":")
    return f"{rest if colon else host} {name}" if several else name


def _cut(text: Text) -> Text:
    """Let a line be one line: what does not fit is cut."""
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _safe(text: str) -> str:
    """Return text that can do nothing to a terminal; names come from outside."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def duration(seconds: float) -> str:
    """Return a time in the two largest units that it fills.

    >>> duration(0.25), duration(59), duration(3700), duration(90000)
    ('0.2 s', '59 s', '1 h 1 m', '1 d 1 h')
    """
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    for size, unit, part, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {small}"
    return ""
