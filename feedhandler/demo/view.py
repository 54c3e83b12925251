"""What the demo shows: who leads, who is down, and what redundancy has saved so far."""

import time
from collections import deque
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

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
    PROBATION: "up, on probation",
    WITNESS: "catching up",
    SUSPECT: "stalled",
    CONNECTING: "down, connecting",
    BACKOFF: "down",
    QUARANTINED: "in quarantine",
}
BAR_CHARS = 20
NEWS = 6
"""How many of the last faults are shown."""


@dataclass
class Scene:
    """What there is to show."""

    feeds: dict[str, Feed]
    started: float = field(default_factory=time.monotonic)
    received: int = 0
    news: deque[str] = field(default_factory=lambda: deque(maxlen=NEWS))
    faults: int = 0
    losses: int = 0

    def add_news(self, text: str) -> None:
        """Add a line to the latest events."""
        self.news.append(f"{self.elapsed:6.1f} s  {text}")

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


def savings(feeds: dict[str, Feed]) -> Savings:
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


def summary(scene: Scene) -> str:
    """Return one line about the moment."""
    lines = [line for feed in scene.feeds.values() for line in feed.arbiter.lines.values()]
    up = sum(line.up for line in lines)
    saved = savings(scene.feeds)
    return (
        f"{scene.elapsed:5.1f} s  {scene.received:,} events  {up} of {len(lines)} lines up  "
        f"{scene.losses} line failures  {saved.failovers} failovers  "
        f"{saved.copies:,} duplicates removed  saved {saved.worst_alone:,} events"
    )


def render(scene: Scene) -> RenderableType:
    """Return the whole picture."""
    saved = savings(scene.feeds)
    head = Text.assemble(
        ("feedhandler demo", "bold"),
        f"   {scene.elapsed:.0f} s   consumer has {scene.received:,} events   Ctrl-C ends it and checks the stream",
    )
    tables = [_feed_table(feed) for feed in scene.feeds.values()]
    news = Text("\n".join(scene.news) or "nothing has gone wrong yet")
    text = Text.assemble(
        "The consumer sees one stream. ",
        (f"{scene.losses} line failures, {saved.failovers} failovers so far", "bold"),
        ". With a single line instead it would have lost ",
        (f"{saved.best_alone:,} events (best line) to {saved.worst_alone:,} (worst)", "bold red"),
        f"; {saved.copies:,} duplicate copies were removed.",
    )
    return Group(
        head,
        *tables,
        Panel(text, title="what redundancy saves", title_align="left", border_style="green"),
        Panel(news, title="faults, injected while it runs", title_align="left", border_style="dim"),
    )


def _feed_table(feed: Feed) -> Table:
    arbiter = feed.arbiter
    table = Table(title=f"{feed.label}  {arbiter.state}", title_justify="left", expand=True)
    table.add_column("line", width=6)
    table.add_column("state", width=18)
    table.add_column("share of events it brought first", ratio=1)
    for heading in ("first", "duplicates", "never came", "usual lag"):
        table.add_column(heading, justify="right")
    total = arbiter.window.head
    for line in arbiter.lines.values():
        style = STYLES[line.health.state]
        share = line.wins / total if total else 0.0
        leads = line.name == arbiter.leader and line.up
        table.add_row(
            Text(f"{'▶' if leads else ' '} {line.name}", "bold" if leads else ""),
            Text(f"● {WORDS[line.health.state]}", style),
            Text(f"{'█' * round(share * BAR_CHARS):<{BAR_CHARS}} {share:4.0%}", style),
            f"{line.wins:,}",
            f"{line.duplicates:,}",
            f"{max(0, total - line.wins - line.duplicates):,}",
            f"{line.health.usual_lag() * 1000:.0f} ms",
        )
    return table


def console() -> Console:
    """Return the terminal."""
    return Console()
