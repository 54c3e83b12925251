"""What the demo shows: who leads, who is down, and what redundancy has saved so far."""

import time
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from feedhandler.core.arbiter import Line
from feedhandler.core.health import BACKOFF, CONNECTING, GOOD, PROBATION, QUARANTINED, SUSPECT, WITNESS
from feedhandler.ingest.feed import Feed

STYLES = {
    GOOD: "green",
    PROBATION: "green",
    WITNESS: "cyan",
    SUSPECT: "yellow",
    CONNECTING: "red",
    BACKOFF: "red",
    QUARANTINED: "magenta",
}
WORDS = {
    GOOD: "up",
    PROBATION: "up, probation",
    WITNESS: "catching up",
    SUSPECT: "stalled",
    CONNECTING: "connecting",
    BACKOFF: "down",
    QUARANTINED: "in quarantine",
}
BAR_CHARS = 12
HISTORY_S = 30
NARROW_COLUMNS = 110
NEWS = 6
"""How many of the last faults are shown."""

FAULTS = {
    "close": "the exchange closes {}",
    "reset": "{} is reset",
    "half_frame": "{} breaks in the middle of a frame",
    "mute": "{} falls silent, but still answers pings",
    "delay": "{} is delayed",
    "throttle": "{} is throttled",
    "interleave": "{} mixes trades and book in another order",
    "garbage": "{} brings garbage",
    "ping": "{} is flooded with pings",
}


@dataclass
class Scene:
    """What there is to show."""

    feeds: Mapping[str, Feed]
    started: float = field(default_factory=time.monotonic)
    received: int = 0
    news: deque[str] = field(default_factory=lambda: deque(maxlen=NEWS))
    faults: int = 0
    losses: int = 0
    history: defaultdict[tuple[str, str], deque[str]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=HISTORY_S))
    )

    def add_news(self, text: str) -> None:
        """Add a line to the latest events."""
        self.news.append(f"{self.elapsed:6.1f} s  {text}")

    def add_fault(self, kind: str, market: str) -> None:
        """Add a fault that the exchange reports."""
        self.faults += 1
        self.add_news(FAULTS.get(kind, kind + " on {}").format(f"a connection of {market}"))

    def remember(self) -> None:
        """Remember the state of every line, once a second."""
        for feed in self.feeds.values():
            for line in feed.arbiter.lines.values():
                self.history[feed.label, line.name].append(line.health.state)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started


@dataclass(frozen=True)
class Savings:
    """What redundancy has saved, over all feeds."""

    released: int
    copies: int
    best_alone: int
    """Events that the best single line of each feed has not brought."""
    worst_alone: int
    failovers: int


def savings(feeds: Mapping[str, Feed]) -> Savings:
    """Count what each line alone would have missed: what was released and never came on it."""
    released = copies = best = worst = failovers = 0
    for feed in feeds.values():
        lines = feed.arbiter.lines.values()
        total = feed.arbiter.window.head
        missed = [max(0, total - line.wins - line.duplicates) for line in lines]
        released += total
        copies += sum(line.duplicates for line in lines)
        best += min(missed)
        worst += max(missed)
        failovers += feed.arbiter.failovers
    return Savings(released, copies, best, worst, failovers)


def many(count: int, thing: str) -> str:
    """Return a count with its noun.

    >>> many(1, "failover"), many(2, "failover")
    ('1 failover', '2 failovers')
    """
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def summary(scene: Scene) -> str:
    """Return one line about the moment."""
    lines = [line for feed in scene.feeds.values() for line in feed.arbiter.lines.values()]
    up = sum(line.up for line in lines)
    saved = savings(scene.feeds)
    return (
        f"{scene.elapsed:5.1f} s  {scene.received:,} events  {up} of {len(lines)} lines up  "
        f"{many(scene.losses, 'line failure')}  {many(saved.failovers, 'failover')}  "
        f"{saved.copies:,} duplicates removed  saved {saved.worst_alone:,} events"
    )


def render(scene: Scene, columns: int) -> RenderableType:
    """Return the whole picture for a terminal of so many columns."""
    saved = savings(scene.feeds)
    head = Text.assemble(
        ("feedhandler demo", "bold"),
        f"   {scene.elapsed:.0f} s   the consumer has ",
        (f"{scene.received:,} events", "bold"),
        "   Ctrl-C ends it and checks the stream",
    )
    text = Text.assemble(
        "The consumer sees one stream, whatever happens to the lines: ",
        (f"{many(scene.losses, 'line failure')} and {many(saved.failovers, 'failover')} so far", "bold"),
        ". With a single line instead it would have lost ",
        (
            f"{saved.best_alone:,} events (the best line of each feed) to {saved.worst_alone:,} (the worst)",
            "bold red",
        ),
        f". {saved.copies:,} duplicate copies were removed.",
    )
    news = Text("\n".join(scene.news) or "nothing has gone wrong yet")
    return Group(
        head,
        *(_feed_table(scene, feed, wide=columns >= NARROW_COLUMNS) for feed in scene.feeds.values()),
        Panel(text, title="what redundancy saves", title_align="left", border_style="green"),
        Panel(news, title="what goes wrong on purpose", title_align="left", border_style="dim"),
    )


def _feed_table(scene: Scene, feed: Feed, *, wide: bool) -> Table:
    arbiter = feed.arbiter
    table = Table(
        title=f"{feed.label}  {arbiter.state}",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        expand=True,
    )
    table.add_column("line", width=4)
    table.add_column("state", width=16)
    table.add_column("brought first", width=BAR_CHARS + 5)
    if wide:
        table.add_column(f"last {HISTORY_S} s", width=HISTORY_S)
        table.add_column("duplicates", justify="right")
        table.add_column("usual lag", justify="right")
    table.add_column("missed", justify="right")
    for line in arbiter.lines.values():
        table.add_row(*_cells(scene, feed, line, wide=wide))
    return table


def _cells(scene: Scene, feed: Feed, line: Line, *, wide: bool) -> list[RenderableType]:
    total = feed.arbiter.window.head
    style = STYLES[line.health.state]
    share = line.wins / total if total else 0.0
    leads = line.name == feed.arbiter.leader and line.up
    missed = max(0, total - line.wins - line.duplicates)
    cells: list[RenderableType] = [
        Text(f"{'▶' if leads else ' '} {line.name}", "bold" if leads else ""),
        Text(f"● {WORDS[line.health.state]}", style),
        Text(f"{'█' * round(share * BAR_CHARS):<{BAR_CHARS}} {share:4.0%}", style),
    ]
    if wide:
        past = scene.history[feed.label, line.name]
        cells.append(
            Text.assemble(*(("▇" if STYLES[state] != "red" else "▁", STYLES[state]) for state in past))
        )
        cells += [f"{line.duplicates:,}", f"{line.health.usual_lag() * 1000:.0f} ms"]
    cells.append(Text(f"{missed:,}", "red" if missed else ""))
    return cells


def console() -> Console:
    """Return the terminal."""
    return Console()
