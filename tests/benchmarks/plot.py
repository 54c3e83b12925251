"""The results as a picture: throughput and latency against the number of lines, markets and consumers.

The background stays transparent and all text and axes are of a middle grey, so that the picture can be read on light
and on dark pages.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator

from tests.benchmarks.results import Key, Results
from tests.benchmarks.stage import (
    AIOHTTP,
    FEEDHANDLER,
    FORWARDER,
    PICOWS,
    TRIO_WEBSOCKET,
    WEBSOCKETS,
    Setting,
)

GREY = "#808890"
COLOURS = {
    FEEDHANDLER: "#e8590c",
    PICOWS: "#1c8ed6",
    AIOHTTP: "#2f9e68",
    WEBSOCKETS: "#9c6ade",
    TRIO_WEBSOCKET: "#c2255c",
    FORWARDER: GREY,
}
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "feedhandler",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": GREY,
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.titlecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "grid.color": GREY,
    "grid.alpha": 0.25,
}


class Sweep(NamedTuple):
    """One column of the picture."""

    label: str
    throughput: str
    """The experiment and the figure of the upper row."""
    figure: str
    throughput_label: str
    latency: str
    count: Callable[[Setting], int]
    others: Callable[[Setting], bool]
    """Whether a setting differs from the usual one in nothing else."""


SWEEPS = (
    Sweep(
        "lines", "flat", "events_per_cpu_s", "events / CPU-s, flat out", "paced",
        lambda one: one.lines, lambda one: one.markets == 1,
    ),
    Sweep(
        "markets (3 lines each)", "flat", "events_per_cpu_s", "events / CPU-s, flat out", "paced",
        lambda one: one.markets, lambda one: one.lines == 3,
    ),
    Sweep(
        "consumers (3 lines)", "consumed", "deliveries_per_cpu_s", "deliveries / CPU-s, 1,000 events/s",
        "consumed", lambda one: one.consumers, lambda _: True,
    ),
)  # fmt: skip


def draw(results: Results, path: Path) -> None:
    """Draw everything that was measured."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 6), layout="constrained")
        axes = figure.subplots(2, len(SWEEPS))
        for column, sweep in enumerate(SWEEPS):
            _panel(axes[0][column], results, sweep, sweep.throughput, sweep.figure)
            axes[0][column].set_title(sweep.throughput_label)
            _panel(axes[1][column], results, sweep, sweep.latency, "p50_us", "p99_us")
            axes[1][column].set_title("latency, us: p50 (solid), p99 (dotted)")
            axes[1][column].set_xlabel(sweep.label)
        named = {
            line.get_label(): line
            for row in axes
            for ax in row
            for line in ax.get_lines()
            if line.get_label()[0] != "_"
        }
        figure.legend(
            named.values(), named.keys(), loc="outside lower center", ncols=len(named), frameon=False
        )
        figure.savefig(path, format="svg", transparent=True, metadata={"Date": None})


def _panel(axes: Axes, results: Results, sweep: Sweep, name: str, *figures: str) -> None:
    axes.set_yscale("log")
    axes.grid(visible=True)
    counts: set[int] = set()
    for contender, colour in COLOURS.items():
        for figure, style in zip(figures, ("-", ":"), strict=False):
            points = _points(results, sweep, name, figure, contender)
            if contender == FORWARDER and points and name != "consumed" and style == "-":
                axes.axhline(points[0][1], color=colour, linewidth=1.2, linestyle="--", label=contender)
            if len(points) > 1:
                counts.update(int(x) for x, *_ in points)
                x, middle, least, most = zip(*points, strict=True)
                label = contender if style == "-" else "_"
                axes.plot(
                    x, middle, style, color=colour, marker="o", markersize=4, linewidth=1.6, label=label
                )
                axes.fill_between(x, least, most, color=colour, alpha=0.15, linewidth=0)
    if max(counts, default=0) > 8:
        axes.set_xscale("log")
    axes.set_xticks(sorted(counts), [str(count) for count in sorted(counts)], minor=False)
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(EngFormatter(sep=" "))


def _points(
    results: Results, sweep: Sweep, name: str, figure: str, contender: str
) -> list[tuple[float, float, float, float]]:
    points = []
    for key in results.measured(name):
        one = key.setting
        usual = not (one.tls or one.tape or one.processes > 1) and sweep.others(one)
        spread = results.spread(Key(name, one), figure)
        if one.contender == contender and usual and spread:
            points.append((float(sweep.count(one)), *spread))
    return sorted(points)
