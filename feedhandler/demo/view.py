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
from feedhandler.core.notes import Note
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

    beside: set[tuple[str, str]] = field(default_factory=set)
    """Lines that stand beside the one that they are to replace."""
    leaving: set[tuple[str, str]] = field(default_factory=set)
    """Lines that were replaced and say goodbye."""
    before: dict[tuple[str, str], int] = field(default_factory=dict)
    """What the lines had brought that a line has replaced, less what it had brought itself by then."""
    copies_gone: int = 0
    """Duplicates of the lines that were replaced."""

    def hear(self, one: Note) -> None:
        """Take a note about a line that is replaced: its successor goes on counting where it was."""
        if one.name not in {"replacement_begun", "line_replaced"} or one.fields["line"] == one.fields["by"]:
            return
        label, old, new = (str(one.fields[name]) for name in ("feed", "line", "by"))
        if one.name == "replacement_begun":
            self.leaving.discard((label, new))
            self.beside.add((label, new))
            return
        feed = self.feeds[label]
        brought = self.brought(feed, old) - self.brought(feed, new)
        self.copies_gone += feed.arbiter.lines[old].duplicates
        self.beside.discard((label, new))
        self.leaving.add((label, old))
        self.before.pop((label, old), None)
        self.before[label, new] = brought

    def brought(self, feed: Feed, name: str) -> int:
        """Return how many events a line and those before it have brought."""
        line = feed.arbiter.lines[name]
        return line.wins + line.duplicates + self.before.get((feed.label, name), 0)

    def missed(self, feed: Feed, name: str) -> int:
        """Return how many events never came on a line nor on those before it."""
        return max(0, feed.arbiter.window.head - self.brought(feed, name))

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

    copies: int
    best_alone: int
    """Events that the best single line of each feed has not brought."""
    worst_alone: int
    failovers: int


def savings(scene: Scene) -> Savings:
    """Count what each line alone would have missed: what was released and never came on it."""
    best = worst = failovers = 0
    copies = scene.copies_gone
    for feed in scene.feeds.values():
        lines = {
            name: line for name, line in feed.arbiter.lines.items() if (feed.label, name) not in scene.leaving
        }
        missed = [scene.missed(feed, name) for name in lines if (feed.label, name) not in scene.beside]
        copies += sum(line.duplicates for line in lines.values())
        best += min(missed)
        worst += max(missed)
        failovers += feed.arbiter.failovers
    return Savings(copies, best, worst, failovers)


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
    saved = savings(scene)
    return (
        f"{scene.elapsed:5.1f} s  {scene.received:,} events  {up} of {len(lines)} lines up  "
        f"{many(scene.losses, 'line failure')}  {many(saved.failovers, 'failover')}  "
        f"{saved.copies:,} duplicates removed  saved {saved.worst_alone:,} events"
    )


def render(scene: Scene, columns: int) -> RenderableType:
    """Return the whole picture for a terminal of so many columns."""
    saved = savings(scene)
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
    missed = scene.missed(feed, line.name)
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
