"""Writes what follows from the code: the Grafana dashboard, and the tables of RUNBOOK.md.

    .venv/bin/python deploy/generate.py
    .venv/bin/python deploy/generate.py --runbook https://wiki.example.org/feedhandler/RUNBOOK.md

The second form also lets the link of each alert lead to where your RUNBOOK.md is served; it stays so until another is
given. A test fails where the files are not what this makes of the present code.
"""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from feedhandler.observe.reference import reference

DEPLOY: Final = Path(__file__).parent
RUNBOOK: Final = DEPLOY / "RUNBOOK.md"
DASHBOARD: Final = DEPLOY / "prometheus" / "dashboard.json"
RULES: Final = tuple(DEPLOY / "prometheus" / f"feedhandler.{what}.yml" for what in ("rules", "tests"))

COLUMNS: Final = 24
"""Of Grafana's grid."""

HEIGHT: Final = 8

SELECT: Final = 'job="$job", instance=~"$instance"'


class Panel(NamedTuple):
    """One panel; in ``expr`` the word ``@`` stands for the choice of daemons, ``@feed`` for that of feeds, too."""

    title: str
    expr: str
    legend: str = ""
    unit: str = "short"
    kind: str = "timeseries"
    red: int | None = None
    """From here on it is red."""
    stacked: bool = False


ROWS: Final[tuple[tuple[str, tuple[Panel, ...]], ...]] = (
    (
        "At a glance",
        (
            Panel("Feeds live or quiet", 'sum(feedhandler_feed_state{@, state=~"live|quiet"})', kind="stat"),
            Panel(
                "Feeds down or syncing",
                'sum(feedhandler_feed_state{@, state=~"down|syncing"})',
                kind="stat",
                red=1,
            ),
            Panel("Lines up", "sum(feedhandler:lines_up:count{@})", kind="stat"),
            Panel(
                "Gaps in the last hour", "sum(increase(feedhandler_gaps_total{@}[1h]))", kind="stat", red=1
            ),
            Panel("Consumers", "sum(feedhandler_consumers{@})", kind="stat"),
            Panel(
                "Alerts firing",
                'count(ALERTS{alertname=~"Feedhandler.*", alertstate="firing"}) or vector(0)',
                kind="stat",
                red=1,
            ),
        ),
    ),
    (
        "Stream",
        (
            Panel("Events published", "feedhandler:events:rate1m{@}", "{{instance}}", unit="cps"),
            Panel(
                "Events by channel",
                "topk(20, rate(feedhandler_events_total{@}[1m]))",
                "{{channel}}",
                unit="cps",
            ),
            Panel("Gaps", "increase(feedhandler_gaps_total{@}[5m]) > 0", "{{channel}} {{reason}}"),
            Panel(
                "Publish latency, p99",
                "feedhandler:publish_latency_seconds:p99_5m{@}",
                "{{instance}}",
                unit="s",
            ),
        ),
    ),
    (
        "Lines",
        (
            Panel(
                "Who leads (share of first copies)",
                "feedhandler:line_wins:ratio_rate5m{@feed}",
                "{{feed}} {{line}}",
                unit="percentunit",
                stacked=True,
            ),
            Panel(
                "Lag behind the winner, p99",
                "feedhandler:line_lag_seconds:p99_5m{@feed}",
                "{{feed}} {{line}}",
                unit="s",
            ),
            Panel("Lines up", "feedhandler:lines_up:count{@feed}", "{{feed}}"),
            Panel(
                "Lost connections",
                "sum by (feed, line, reason) (increase(feedhandler_line_reconnects_total{@feed}[5m])) > 0",
                "{{feed}} {{line}} {{reason}}",
            ),
            Panel(
                "Failovers and divergences",
                "increase(feedhandler_failovers_total{@feed}[5m]) > 0 or "
                "increase(feedhandler_divergences_total{@feed}[5m]) > 0",
                "{{__name__}} {{feed}}",
            ),
            Panel(
                "Attempts to connect: left, and waiting",
                "feedhandler_connection_budget_available{@} or feedhandler_connection_attempts_waiting{@}",
                "{{__name__}} {{instance}}",
            ),
        ),
    ),
    (
        "Books",
        (
            Panel("Not synchronised", "feedhandler_book_synchronised{@} == 0", "{{channel}}"),
            Panel("Audits", "sum by (result) (increase(feedhandler_audits_total{@}[5m]))", "{{result}}"),
            Panel("Levels", "topk(20, feedhandler_book_levels{@})", "{{channel}}"),
        ),
    ),
    (
        "Consumers",
        (
            Panel("Behind by", "feedhandler_consumer_lag_events{@}", "{{consumer}}"),
            Panel(
                "Dropped and conflated",
                "increase(feedhandler_consumers_dropped_total{@}[5m]) or "
                "increase(feedhandler_consumers_conflated_total{@}[5m])",
                "{{__name__}} {{reason}}",
            ),
            Panel("Backlog", "feedhandler_backlog_bytes{@}", "{{instance}}", unit="bytes"),
        ),
    ),
    (
        "Two daemons",
        (
            Panel("State of the standby", "feedhandler_standby_state{@} == 1", "{{instance}} {{state}}"),
            Panel(
                "Who is active, and takeovers",
                'feedhandler_role{@, role="active"} or increase(feedhandler_takeovers_total{@}[5m])',
                "{{__name__}} {{instance}} {{whole}}",
            ),
            Panel("Standby behind by", "feedhandler_standby_behind_events{@}", "{{instance}}"),
        ),
    ),
    (
        "Bridge",
        (
            Panel("Into the stream", "feedhandler:bridge_stored:rate1m{@}", "{{instance}}", unit="cps"),
            Panel(
                "Longest wait for the stream", "feedhandler_bridge_lag_seconds{@}", "{{instance}}", unit="s"
            ),
            Panel(
                "Who writes, and who cannot",
                "feedhandler_bridge_leads{@} == 1 or feedhandler_bridge_linked{@} == 0 "
                "or feedhandler_bridge_socket_connected{@} == 0",
                "{{__name__}} {{instance}}",
            ),
            Panel(
                "Waiting in memory (share of --pending-mib)",
                "feedhandler_bridge_pending_bytes{@} / feedhandler_bridge_pending_limit_bytes{@}",
                "{{instance}}",
                unit="percentunit",
            ),
            Panel(
                "Gaps, refusals, lost links",
                "increase(feedhandler_bridge_gaps_total{@}[5m]) > 0 or "
                "increase(feedhandler_bridge_refusals_total{@}[5m]) > 0 or "
                "increase(feedhandler_bridge_links_lost_total{@}[5m]) > 0",
                "{{__name__}} {{instance}} {{channel}} {{reason}} {{code}}",
            ),
            Panel(
                "Channels without a place in the stream",
                "feedhandler_bridge_unplaced_channels{@}",
                "{{instance}}",
            ),
        ),
    ),
    (
        "Process",
        (
            Panel("CPU", "feedhandler:cpu_seconds:rate5m{@}", "{{instance}}", unit="percentunit"),
            Panel("Memory", "feedhandler_memory_bytes{@}", "{{instance}}", unit="bytes"),
            Panel("Age of the token", "feedhandler_token_age_seconds{@}", "{{instance}}", unit="s"),
            Panel(
                "The exchange's clock minus ours",
                "feedhandler_exchange_clock_offset_seconds{@}",
                "{{instance}}",
                unit="s",
            ),
        ),
    ),
)
"""What is shown, row by row."""

DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


def dashboard() -> str:
    """Return the dashboard as JSON."""
    board = {
        "uid": "feedhandler",
        "title": "feedhandler",
        "tags": ["feedhandler"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "label": "Source", "type": "datasource", "query": "prometheus"},
                _variable("job", "label_values(feedhandler_build_info, job)"),
                _variable(
                    "instance", 'label_values(feedhandler_build_info{job="$job"}, instance)', many=True
                ),
                _variable("feed", f"label_values(feedhandler_feed_state{{{SELECT}}}, feed)", many=True),
            ]
        },
        "panels": list(_panels()),
    }
    return json.dumps(board, indent=1, ensure_ascii=False) + "\n"


def _variable(name: str, query: str, *, many: bool = False) -> dict[str, Any]:
    choice = {"multi": True, "includeAll": True, "allValue": ".*"} if many else {}
    return {"name": name, "type": "query", "datasource": DATASOURCE, "query": query, "refresh": 2, **choice}


def _panels() -> Iterator[dict[str, Any]]:
    """Yield rows and their panels, from the top to the bottom of the grid."""
    number, top = 0, 0
    for title, panels in ROWS:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "gridPos": _place(0, top, COLUMNS, 1),
            "panels": [],
        }
        top += 1
        width, height = (COLUMNS // 6, 4) if panels[0].kind == "stat" else (COLUMNS // 2, HEIGHT)
        columns = COLUMNS // width
        for index, panel in enumerate(panels):
            number += 1
            place = _place(index % columns * width, top + index // columns * height, width, height)
            yield _panel(number, panel, place)
        top += -(-len(panels) // columns) * height


def _place(left: int, top: int, width: int, height: int) -> dict[str, int]:
    return {"x": left, "y": top, "w": width, "h": height}


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.red is not None:
        steps.append({"color": "red", "value": panel.red})
    defaults: dict[str, Any] = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.stacked:
        defaults["custom"] = {"stacking": {"mode": "normal"}, "fillOpacity": 40}
    expr = panel.expr.replace("@feed", f'{SELECT}, feed=~"$feed"').replace("@", SELECT)
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [{"refId": "A", "expr": expr, "legendFormat": panel.legend}],
    }


def runbook(text: str) -> str:
    """Return the runbook with its tables as they have to be."""
    pattern = r"(<!-- reference -->\n).*?(<!-- end of reference -->)"
    return re.sub(pattern, lambda found: f"{found[1]}{reference()}{found[2]}", text, flags=re.DOTALL)


def linked(text: str, url: str) -> str:
    """Return rules, or their tests, in which each alert's link leads to its section of the runbook at a URL."""
    return re.sub(r"(runbook_url: )[^\s#]+#", lambda found: f"{found[1]}{url}#", text)


def _url(text: str) -> str:
    """Read a URL that can stand in a rule as it is."""
    if not re.fullmatch(r"https?://[^\s#\"'{}]+", text):
        message = f"expected an http or https URL without a fragment, got {text}"
        raise argparse.ArgumentTypeError(message)
    return text


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description="Write what follows from the code.")
    parser.add_argument(
        "--runbook", type=_url, metavar="URL", help="where RUNBOOK.md is served: the alerts' links"
    )
    url = parser.parse_args().runbook
    for path in RULES if url else ():
        path.write_text(linked(path.read_text(encoding="utf-8"), url), encoding="utf-8")
    DASHBOARD.write_text(dashboard(), encoding="utf-8")
    RUNBOOK.write_text(runbook(RUNBOOK.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
