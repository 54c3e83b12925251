"""The results as tables of plain text."""

from collections.abc import Iterator, Sequence
from typing import Any

from tests.benchmarks.experiments import FOLLOWED_KINDS, LOG_KINDS
from tests.benchmarks.results import Key, Results, Spread
from tests.benchmarks.stage import FEEDHANDLER, FORWARDER, Setting
from tests.benchmarks.targets import Verdict

Rows = list[list[str]]


def tables(results: Results, verdicts: Sequence[Verdict]) -> str:
    """Return everything that there is to say."""
    parts = [
        "Flat out: what an event costs. Medians of the rounds (least..most); ratios are medians of each round's.",
        _table(_FLAT_HEAD, list(_flat_rows(results))),
        "Paced: from the sending to the consumer's read, one event at a time.",
        _table(_PACED_HEAD, list(_paced_rows(results))),
        "Bursts: everything at once.",
        _table(_BURST_HEAD, list(_burst_rows(results))),
        "Others.",
        _table(["what", "figure", "measured"], list(_other_rows(results))),
        "Targets.",
        _table(["target", "limit", "measured", "spread", ""], [_target_row(one) for one in verdicts]),
    ]
    return "\n\n".join(parts)


def spread_text(spread: Spread | None, digits: int = 0) -> str:
    """Return a median with its extremes, the extremes only where they differ."""
    if spread is None:
        return "-"
    text = f"{spread.median:,.{digits}f}"
    least, most = f"{spread.least:,.{digits}f}", f"{spread.most:,.{digits}f}"
    return text if least == most else f"{text} ({least}..{most})"


def setting_text(setting: Setting) -> str:
    """Return what is particular about a setting."""
    words = [f"{setting.lines} line" + ("s" if setting.lines > 1 else "")]
    if setting.markets > 1:
        words.append(f"{setting.markets} markets")
    if setting.consumers > 1:
        words.append(f"{setting.consumers} consumers")
    if setting.processes > 1:
        words.append(f"{setting.processes} processes")
    if setting.tls:
        words.append("TLS")
    if setting.tape:
        words.append("tape")
    return ", ".join(words)


_FLAT_HEAD = [
    "contender",
    "setting",
    "events/CPU-s",
    "CPU us/event",
    "events/s",
    "feedhandler is",
    "peak MiB",
    "",
]
_PACED_HEAD = [
    "contender", "setting", "p50 us", "p99 us", "p99.9 us", "p50 / forwarder", "CPU us/event", "core %", "",
]  # fmt: skip
_BURST_HEAD = ["contender", "setting", "seconds", "CPU us/event", "peak MiB", "grown MiB", ""]


def _flat_rows(results: Results) -> Iterator[list[str]]:
    for key in results.measured("flat"):
        mine = Key(key.name, key.setting._replace(contender=FEEDHANDLER))
        ratio = results.ratio("events_per_cpu_s", mine, key)
        yield [
            key.setting.contender,
            setting_text(key.setting),
            spread_text(results.spread(key, "events_per_cpu_s")),
            spread_text(results.spread(key, "cpu_us"), 2),
            spread_text(results.spread(key, "events_per_s")),
            "" if key == mine or ratio is None else f"x {ratio.median:.2f}",
            spread_text(results.spread(key, "peak_mib")),
            _warning(results, key),
        ]


def _paced_rows(results: Results) -> Iterator[list[str]]:
    for name in ("paced", "consumed"):
        for key in results.measured(name):
            floor = Key(key.name, key.setting._replace(contender=FORWARDER, lines=1))
            ratio = results.ratio("p50_us", key, floor)
            core_share = results.spread(key, "core_share")
            yield [
                key.setting.contender,
                setting_text(key.setting) + (", 1,000/s" if name == "consumed" else ""),
                *(spread_text(results.spread(key, figure)) for figure in ("p50_us", "p99_us", "p999_us")),
                "" if key == floor or ratio is None else f"x {ratio.median:.2f}",
                spread_text(results.spread(key, "cpu_us"), 1),
                f"{core_share.median * 100:.0f}" if core_share else "-",
                _warning(results, key),
            ]


def _burst_rows(results: Results) -> Iterator[list[str]]:
    for key in results.measured("burst"):
        disordered = 0.0 in results.all(key, "in_order")
        yield [
            key.setting.contender,
            setting_text(key.setting),
            spread_text(results.spread(key, "seconds"), 2),
            spread_text(results.spread(key, "cpu_us"), 2),
            spread_text(results.spread(key, "peak_mib")),
            spread_text(results.spread(key, "growth_mib")),
            _warning(results, key) or ("OUT OF ORDER" if disordered else "all out, in order"),
        ]


def _other_rows(results: Results) -> Iterator[list[str]]:
    for name, figures in _OTHERS.items():
        for key in results.measured(name):
            for figure, digits in figures:
                spread = results.spread(key, figure)
                if spread is not None:
                    yield [f"{name}: {setting_text(key.setting)}", figure, spread_text(spread, digits)]


_OTHERS: dict[str, list[tuple[str, int]]] = {
    "idle": [("core_share", 4), ("rss_mib", 0)],
    "load": [("events", 0), ("rss_first_mib", 0), ("rss_last_mib", 0)],
    "scrape": [("took_ms", 1), ("max_us", 0), ("max_without_us", 0)],
    "watched": [
        (f"{name}_{figure}", 2)
        for figure in ("flat_cpu_us", "paced_cpu_us", "p50_us", "p99_us")
        for name in ("alone", "watched")
    ],
    "followed": [
        ("whole", 0),
        *(
            (f"{name}_{figure}", 2)
            for figure in ("paced_cpu_us", "p50_us", "p99_us")
            for name in FOLLOWED_KINDS
        ),
    ],
    "logs": [
        ("whole", 0),
        *(
            (f"{name}_{figure}", 2)
            for figure in ("flat_cpu_us", "paced_cpu_us", "p50_us", "p99_us")
            for name in LOG_KINDS
        ),
        ("told_lines", 0),
        ("blocked_waiting", 0),
    ],
}


def _warning(results: Results, key: Key) -> str:
    """Say what was wrong with what came out, in any round."""
    rounds = results.rounds(key).values()
    if any(one["received"] > one["events"] for one in rounds):
        return "DUPLICATES CAME OUT"
    return "NOT ALL CAME OUT" if any(not one["whole"] for one in rounds) else ""


def _target_row(verdict: Verdict) -> list[str]:
    target, measured = verdict
    bound = f"{'>=' if target.at_least else '<='} {target.limit:g} {target.unit}"
    if measured is None:
        return [target.what, bound, "-", "", verdict.word]
    least, most = f"{measured.least:.3g}", f"{measured.most:.3g}"
    spread = "" if least == most else f"{least}..{most}"
    return [target.what, bound, f"{measured.median:.3g}", spread, verdict.word]


def _table(head: Sequence[str], rows: Rows) -> str:
    if not rows:
        return "  (not measured)"
    widths = [max(len(row[column]) for row in [list(head), *rows]) for column in range(len(head))]
    lines = [list(head), ["-" * width for width in widths], *rows]
    return "\n".join(_line(cells, widths) for cells in lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def document(results: Results, verdicts: Sequence[Verdict], **about: Any) -> dict[str, Any]:
    """Return everything that was measured, as values for JSON."""
    return {
        **about,
        "measurements": [
            {"name": key.name, **key.setting._asdict(), "rounds": list(results.rounds(key).values())}
            for key in results.measured()
        ],
        "targets": [
            {
                "what": target.what,
                "limit": target.limit,
                "at_least": target.at_least,
                "unit": target.unit,
                "measured": measured and measured._asdict(),
                "verdict": verdict.word,
            }
            for verdict in verdicts
            for target, measured in [verdict]
        ],
    }
