# ruff: noqa: ARG001 - the clock works by being asked for
"""The metrics of a whole daemon: names, formats, values against what was played, and what is gone again."""

import dataclasses
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as text_families
from trio.testing import MockClock

from feedhandler.config import Bounds, Feed, Observe
from feedhandler.core.health import STATES
from feedhandler.core.histogram import LAG_S, Histogram
from feedhandler.core.notes import note
from feedhandler.observe import collecting, counts, exposition, metrics
from feedhandler.observe.bridging import FAMILIES as BRIDGE_FAMILIES
from feedhandler.observe.collecting import BOUNDS, CONSUMER_NAMES, FAMILIES, Collector
from feedhandler.observe.counts import Counts
from feedhandler.observe.exposition import labels, wants_openmetrics
from tests.support.stage import BTC, ETH, Stage, staged
from tests.support.web import Browser

BOOK, TRADES = f"{BTC}/publicOrderBook", f"{BTC}/publicTrades"
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
CONTRACT = (
    "line_state{feed,line,state} line_messages_total{feed,line} line_wins_total{feed,line} "
    "line_lag_seconds{feed,line} line_reconnects_total{feed,line,reason} duplicates_total{feed,line} "
    "events_total{channel} event_class_total{channel,class} gaps_total{channel,reason} failovers_total{feed} "
    "divergences_total{feed} resyncs_total{channel,reason} audits_total{channel,result} publish_latency_seconds "
    "exchange_clock_offset_seconds token_age_seconds connection_budget_available feed_state{feed,state} "
    "channel_last_event_timestamp_seconds{channel} book_synchronised{channel} backlog_bytes "
    "handshake_failures_total{status} config_last_reload_successful consumers consumer_lag_events{consumer} "
    "consumers_dropped_total{reason} build_info{version,python}"
)
"""As the contract has them, word for word; what it says of no labels is ours."""

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


@asynccontextmanager
async def scraped(folder: Path, **sections: Any) -> AsyncIterator[tuple[Stage, Browser]]:
    """Play with a daemon that serves its metrics."""
    async with staged(folder, observe=Observe(http="127.0.0.1:0"), **sections) as stage:
        server = stage.daemon.observation.server
        assert server is not None
        yield stage, Browser(server.addresses[0])


async def scrape(browser: Browser) -> Values:
    """Return all samples of a scrape."""
    reply = await browser.get("/metrics")
    assert reply.headers["content-type"] == exposition.TEXT_TYPE
    return values_of(reply.body.decode())


def values_of(text: str) -> Values:
    """Read the text format; no series may come twice."""
    samples = [sample for family in text_families(text) for sample in family.samples]
    values = {(one.name, frozenset(one.labels.items())): one.value for one in samples}
    assert len(values) == len(samples)
    return values


def value(values: Values, name: str, **wanted: str) -> float:
    """Return one sample."""
    return values["feedhandler_" + name, frozenset(wanted.items())]


def names(values: Values) -> set[str]:
    """Return the names of the samples without the prefix."""
    assert all(name.startswith("feedhandler_") for name, _ in values)
    return {name.removeprefix("feedhandler_") for name, _ in values}


# The families


@pytest.mark.parametrize("wanted", CONTRACT.split())
def test_every_metric_of_the_contract_is_there(wanted: str) -> None:
    """Name and labels are those that users rely on."""
    name, _, rest = wanted.partition("{")
    [family] = [family for family in FAMILIES if family.name == name]
    assert family.labels == (tuple(rest.rstrip("}").split(",")) if rest else ())


def test_families_are_named_once_and_well() -> None:
    """Names are unique, counters and only they end in _total, each has a sentence of help on one line."""
    everything = (*FAMILIES, *BRIDGE_FAMILIES)
    assert len({family.name for family in everything}) == len(everything)
    for family in everything:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", family.name), family
        assert family.name.endswith("_total") == (family.kind == "counter"), family
        assert family.help.endswith("."), family
        assert "\n" not in family.help, family
        assert "\\" not in family.help, family


def test_every_bound_that_fills_up_has_a_gauge() -> None:
    """(8) Each bound of a queue, window or hold has a gauge of its use; the others are of times, sizes and files."""
    gauges = {family.name for family in FAMILIES if family.kind == "gauge"}
    assert set(BOUNDS.values()) <= gauges
    payloads = {
        "message_mib",
        "snapshot_mib",
        "read_kib",
        "request_kib",
        "send_kib",
        "incident_files",
        "incident_events",
    }
    others = {name for name in Bounds.__struct_fields__ if name.endswith("_s")} | payloads
    assert set(BOUNDS) | others == set(Bounds.__struct_fields__)
    assert not set(BOUNDS) & others


# A scrape of a daemon


async def test_a_scrape_says_what_was_played(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Messages, wins, duplicates, events and latency are those of the play, exactly."""
    async with scraped(tmp_path, lines=3) as (stage, browser):
        await stage.talk(5)
        await stage.arrived()
        values = await scrape(browser)
        sent = {name: len(events) for name, events in stage.truth.items()}
    of_lines = [{"feed": BTC, "line": line} for line in "abc"]
    wins = [value(values, "line_wins_total", **one) for one in of_lines]
    duplicates = [value(values, "duplicates_total", **one) for one in of_lines]
    total = sum(sent.values())
    assert {name: value(values, "events_total", channel=name) for name in sent} == sent
    assert sum(wins) == total
    assert sum(wins) + sum(duplicates) == 3 * total
    assert all(value(values, "line_messages_total", **one) >= total for one in of_lines)
    assert value(values, "publish_latency_seconds_count") >= total
    assert value(values, "publish_latency_seconds_bucket", le="+Inf") == value(
        values, "publish_latency_seconds_count"
    )
    assert 0 < value(values, "publish_latency_seconds_sum") < 5
    assert sum(value(values, "line_lag_seconds_count", **one) for one in of_lines) > 0
    assert value(values, "book_synchronised", channel=BOOK) == 1
    assert value(values, "gaps_total", channel=TRADES, reason="outage") == 0
    assert value(values, "resyncs_total", channel=BOOK, reason="start") == 1
    assert value(values, "consumers") == 1
    assert value(values, "consumer_lag_events", consumer="test") == 0
    assert value(values, "feed_state", feed=BTC, state="live") == 1
    states = [value(values, "line_state", feed=BTC, line="a", state=state) for state in STATES]
    assert sorted(states) == [0] * (len(STATES) - 1) + [1]
    assert value(values, "bound", bound="window_events") == Bounds().window_events
    assert value(values, "window_events", feed=BTC) == total
    assert value(values, "config_last_reload_successful") == 1
    assert value(values, "http_connections") == 1


async def test_both_formats_say_the_same(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Plain text and OpenMetrics are valid and have the same samples; OpenMetrics comes only to who asks for it."""
    async with scraped(tmp_path) as (stage, browser):
        await stage.talk(1)
        await stage.arrived()
        text = await browser.get("/metrics")
        modern = await browser.get("/metrics", Accept=OPENMETRICS)
    assert modern.headers["content-type"] == exposition.OPENMETRICS_TYPE
    families = list(openmetrics_families(modern.body.decode()))
    samples = {(one.name, frozenset(one.labels.items())) for family in families for one in family.samples}
    assert samples == set(values_of(text.body.decode()))
    assert all(family.documentation for family in families)
    assert {family.type for family in families} == {"counter", "gauge", "histogram"}


async def test_promtool_has_nothing_to_say(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Prometheus's own checker finds nothing to complain about."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    async with scraped(tmp_path, lines=3) as (stage, browser):
        stage.strike("close", 0)
        await stage.talk(2)
        reply = await browser.get("/metrics")
        done = subprocess.run(
            [promtool, "check", "metrics"], input=reply.body, capture_output=True, check=False
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


async def test_faults_are_counted(tmp_path: Path, autojump_clock: MockClock) -> None:
    """(4) An outage of all lines: its connections, failures, gaps, repairs and classes are counted, each once."""
    async with scraped(tmp_path, markets=(BTC, ETH)) as (stage, browser):
        stage.strike("outage", "all", duration_s=5)
        await stage.talk(8)
        await stage.talk_until(stage.all_up)
        await stage.until(stage.all_synchronised)
        await stage.arrived()
        values = await scrape(browser)
        lost, failed = len(stage.named("line_lost")), len(stage.named("connect_failed"))
    reconnects = [
        amount for (name, _), amount in values.items() if name == "feedhandler_line_reconnects_total"
    ]
    failures = [
        amount for (name, _), amount in values.items() if name == "feedhandler_handshake_failures_total"
    ]
    assert (sum(reconnects), sum(failures)) == (lost, failed)
    assert lost == 2
    for channel in (BOOK, TRADES):
        assert value(values, "gaps_total", channel=channel, reason="outage") == 1
    assert value(values, "gaps_total", channel=f"{ETH}/publicTrades", reason="outage") == 0
    assert value(values, "resyncs_total", channel=BOOK, reason="gap") == 1
    marked = [one for one in stage.reading.of("event", TRADES) if one.get("class") == "backfilled"]
    assert value(values, "event_class_total", channel=TRADES, **{"class": "backfilled"}) == len(marked) > 0
    published = {name: len(events) for name, events in stage.reading.sequences.items()}
    assert {name: value(values, "events_total", channel=name) for name in published} == published


async def test_what_is_gone_has_no_series(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A feed that goes takes its series with it, its lines' and its channels', and what was counted of them."""
    async with scraped(tmp_path, markets=(BTC, ETH)) as (stage, browser):
        stage.strike("close", 0, market=ETH)
        await stage.talk(2)
        before = await scrape(browser)
        wanted = stage.daemon.fleet.running[ETH]
        assert stage.daemon.fleet.set_by_hand(ETH, None) == ""
        await trio.sleep(2)
        after = await scrape(browser)
        assert stage.daemon.fleet.set_by_hand(ETH, wanted) == ""
        await stage.until(stage.all_connected)
        again = await scrape(browser)
    assert any(ETH in dict(series).get("channel", "") for _, series in before)
    assert reconnects(before) == {ETH}
    for _, series in after:
        assert not any(ETH in text for _, text in series)
    assert any(ETH in dict(series).get("channel", "") for _, series in again)
    assert reconnects(again) == set()


def reconnects(values: Values) -> set[str]:
    """Return the feeds of which lost connections are counted."""
    return {dict(series)["feed"] for name, series in values if name == "feedhandler_line_reconnects_total"}


async def test_hostile_names_stay_names(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Quotes, backslashes and braces in the name of a market come back as they are, and nothing else with them."""
    market = 'x"} 1\\ {'
    async with scraped(tmp_path, feeds=(Feed(markets=(market,), lines=1),), markets=(market,)) as (
        stage,
        browser,
    ):
        await stage.talk(1)
        values = await scrape(browser)
    assert value(values, "feed_state", feed=market, state="live") == 1
    assert value(values, "book_synchronised", channel=f"{market}/publicOrderBook") == 1


async def test_a_large_scrape_is_made_in_slices(tmp_path: Path, autojump_clock: MockClock) -> None:
    """No piece of a scrape holds the series of more than one line or channel with all their buckets and states."""
    async with scraped(tmp_path, markets=tuple(f"M{number}" for number in range(20)), lines=3) as (stage, _):
        collector = Collector(stage.daemon.observation.sight, lambda: 0)
        pieces = list(collector.scrape(openmetrics=False))
    assert max(piece.count("\n") for piece in pieces) <= 2 + len(Bounds.__struct_fields__)
    assert sum(piece.count("\n") for piece in pieces) > 2000


class Log:
    """A log whose reader does not keep up."""

    waiting, lost = 7, 3


async def test_what_is_not_always_there_has_a_series_when_it_is(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The token's age and the clocks' difference have a series once there is a token and an event; the log likewise."""
    async with scraped(tmp_path, token=True) as (stage, browser):
        await stage.talk(1)
        with_token = await scrape(browser)
        sight = dataclasses.replace(stage.daemon.observation.sight, log=Log())
        logged = values_of("".join(Collector(sight, lambda: 0).scrape(openmetrics=False)))
        bare = dataclasses.replace(sight, tokens=None, feeds={})
        empty = values_of("".join(Collector(bare, lambda: 0).scrape(openmetrics=False)))
    assert 0 < value(with_token, "token_age_seconds") < 60
    assert value(with_token, "exchange_clock_offset_seconds") < 0
    assert value(with_token, "token_requests_total", result="renewed") == 1
    assert (value(logged, "log_lines_waiting"), value(logged, "log_lines_lost_total")) == (7, 3)
    assert not {"token_age_seconds", "exchange_clock_offset_seconds", "feed_state"} & names(empty)
    assert value(empty, "feeds") == 0


# What counts


def test_a_note_counts_once() -> None:
    """Every note of the catalogue adds one to one series of one family, the one that it names."""
    for name, kind in metrics_by_note().items():
        one = Counts(lambda: 1)
        one(
            note(
                name,
                feed="f",
                line="a",
                channel="f/s",
                reason="r",
                status=403,
                kind="late",
                result="x",
                code="c",
                state="s",
                whole=True,
            )
        )
        counted = {family.name: dict(one.of(family)) for family in metrics.COUNTERS if one.of(family)}
        assert list(counted) == [kind]
        assert list(counted[kind].values()) == [1]
        assert all("" not in key for key in counted[kind])


def metrics_by_note() -> dict[str, str]:
    """Return the metric of each note; what the log has lost it counts itself."""
    from feedhandler.observe.catalogue import CATALOGUE  # noqa: PLC0415 - the only use

    return {name: kind.metric.name for name, kind in CATALOGUE.items() if kind.metric in metrics.COUNTERS}


def test_series_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes beyond the bound of a family is counted together, and nothing is lost of the sum."""
    monkeypatch.setattr(counts, "SERIES", 3)
    one = Counts(lambda: 1)
    for number in range(10):
        one(note("gap_published", channel=f"c{number}", reason="outage"))
    counted = one.of(metrics.GAPS)
    assert len(counted) == 4
    assert counted["other", "other"] == 7


def test_news_have_a_bound() -> None:
    """The newest warnings are kept, the oldest go, and what is no warning is not among them."""
    one = Counts(lambda: 1)
    one(note("daemon_started"))
    for number in range(counts.NEWS + 5):
        one(note("accept_failed", error=str(number)))
    told = [str(number) for number in range(5, counts.NEWS + 5)]
    assert [item.note.fields["error"] for item in one.news] == told
    one(note("accept_failed", error="7", more=1))
    assert (one.news[-1].times, one.news[-1].note.fields["more"]) == (2, 1)
    assert len(one.news) == counts.NEWS


async def test_names_of_consumers_have_a_bound(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The first names become labels and keep them; those beyond share one, and who has no name is told so."""
    async with scraped(tmp_path) as (stage, browser):
        async with trio.open_nursery() as nursery:
            for number in range(CONSUMER_NAMES + 3):
                nursery.start_soon(consume, stage.reading.path, f"name-{number:02}")
            nursery.start_soon(consume, stage.reading.path, "")
            await stage.until(lambda: len(stage.daemon.publisher.connected()) == CONSUMER_NAMES + 5)
            await trio.sleep(1)
            seen = consumers(await scrape(browser))
            nursery.cancel_scope.cancel()
        await trio.sleep(1)
        late = consumers(await scrape(browser))
    assert len(seen) == CONSUMER_NAMES + 1
    assert collecting.OTHER_CONSUMERS in seen
    assert late == {"test"}


def consumers(values: Values) -> set[str]:
    """Return the labels of consumers."""
    return {dict(series)["consumer"] for name, series in values if name == "feedhandler_consumer_lag_events"}


async def consume(path: Path, name: str) -> None:
    """Read the stream under a name."""
    async with await trio.open_unix_socket(str(path)) as stream:
        await stream.send_all(b'{"op":"subscribe","channels":["*"],"name":"%b"}\n' % name.encode())
        async for _ in stream:
            pass


# Small things


def test_labels_are_escaped_and_bounded() -> None:
    """What has a meaning in the format is escaped; a long value is cut."""
    assert labels(a='\\"\n') == r'a="\\\"\n"'
    assert labels(a="x" * 100, b="y") == f'a="{"x" * 64}",b="y"'


def test_a_histogram_counts_up_to_and_including_its_bounds() -> None:
    """A value at a bound belongs to it; what is above all bounds is counted, too; weights are counts."""
    one = Histogram((1.0, 2.0))
    for number in (0.5, 1.0, 1.5, 5.0):
        one.observe(number)
    one.observe(2.0, 3)
    assert (one.counts, one.sum, one.count) == ([2, 4, 1], 14.0, 7)
    assert sorted(LAG_S) == list(LAG_S)


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        (OPENMETRICS, True),
        ("application/openmetrics-text;q=0.2,text/plain;q=0.5", False),
        ("application/openmetrics-text;q=wrong", False),
        ("APPLICATION/OpenMetrics-Text", True),
        ("application/openmetrics-text;version=0.0.1;q=0.75,text/plain;q=0.5", True),
    ],
)
def test_the_format_is_negotiated(accept: str, wanted: bool) -> None:
    """OpenMetrics goes to who names it and does not want plain text more."""
    assert wants_openmetrics(accept) == wanted
