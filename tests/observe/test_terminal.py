# ruff: noqa: ARG001 - the clock works by being asked for
"""What `status` and `top` show: all of it, what is wrong first, as much as fits, and nothing that a terminal obeys."""

from io import StringIO
from pathlib import Path

import msgspec
import pytest
import trio
from rich.console import Console
from trio.testing import MockClock

from feedhandler.config import Observe
from feedhandler.errors import ConfigError
from feedhandler.observe.asking import DEFAULT_URL, Asker, Look
from feedhandler.observe.status import ChannelStatus, ConsumerStatus, Status
from feedhandler.observe.telling import StatusMaker
from feedhandler.observe.terminal import duration, picture
from tests.support.clock import jumping_clock
from tests.support.stage import BTC, ETH, staged

ONE, OTHER = "http://10.0.0.1:9464", "http://10.0.0.1:9465"


def shown(looks: list[Look], columns: int = 160, rows: int | None = None) -> list[str]:
    """Return the picture as a terminal of that size has it."""
    output = StringIO()
    console = Console(file=output, width=columns, force_terminal=False)
    console.print(picture(looks, columns=columns, rows=rows))
    return output.getvalue().splitlines()


@pytest.fixture(scope="module")
def status(tmp_path_factory: pytest.TempPathFactory) -> Status:
    """Give the state of a daemon of which one market is down."""

    async def scene() -> bytes:
        async with staged(tmp_path_factory.mktemp("scene"), lines=3, markets=(ETH, BTC)) as stage:
            stage.strike("outage", "all", duration_s=100)
            await stage.talk(5)
            down = stage.daemon.feeds[BTC].lines.values()
            await stage.until(lambda: all(line.doing == "backoff" for line in down))
            return await StatusMaker(stage.daemon.observation.sight).document()

    return msgspec.json.decode(trio.run(scene, clock=jumping_clock()), type=Status)


def test_everything_is_shown_and_trouble_first(status: Status) -> None:
    """Each line, channel and consumer has its row; the market that is down stands before the other."""
    lines = shown([Look(ONE, status)])
    text = "\n".join(lines)
    assert "NOT READY" in lines[0]
    assert lines[1].strip() == f"✗ {BTC}: no line is aligned"
    assert "feeds 1/2" in text
    assert "lines 3/6" in text
    rows = [line.split()[0] for line in lines if line.startswith((BTC, ETH))]
    assert rows == [BTC] * 3 + [ETH] * 3 + [f"{BTC}/publicTrades", f"{BTC}/publicOrderBook"] + [
        f"{ETH}/publicTrades",
        f"{ETH}/publicOrderBook",
    ]
    assert any(line.startswith("test ") for line in lines)


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (60, 10), (200, 50), (40, 6)])
def test_it_fits_the_terminal(status: Status, columns: int, rows: int) -> None:
    """However small the terminal is, nothing is wider or longer, and what is left out is counted."""
    lines = shown([Look(ONE, status)], columns, rows)
    assert len(lines) <= max(rows, 4)
    assert max(map(len, lines)) <= columns
    if rows == 10:
        assert any("of 6 shown" in line for line in lines)


@pytest.mark.parametrize("columns", [40, 60, 75, 76, 80, 119, 120])
def test_every_width_has_the_names_and_what_is_wrong(status: Status, columns: int) -> None:
    """However narrow it is, each row says whose it is and in what state that is, and why a line is away from 76 on."""
    lines = shown([Look(ONE, status)], columns)
    assert max(map(len, lines)) <= columns
    text = "\n".join(lines)
    for feed in (BTC, ETH):
        rows = [line for line in lines if line.startswith(f"{feed} ")]
        assert len(rows) == 3
        assert all(any(state in row for state in ("backoff", "good")) for row in rows)
        channels = [line for line in lines if line.startswith(f"{feed}/public")]
        assert len(channels) == 2
        assert all(("down" if feed == BTC else "live") in line for line in channels)
    [reason] = {line.last_reason for feed in status.feeds for line in feed.lines if line.last_reason}
    assert (f"  {reason[:7]}" in text) == (columns >= 76)
    assert ("lag p50" in text) == (columns >= 76)
    assert ("duplicates" in text) == (columns >= 120)
    assert "feeds 1/2" in text


def test_a_doubt_is_shown_although_all_is_ready(status: Status) -> None:
    """What is no reason yet stands below the word READY, marked otherwise than a reason."""
    lines = shown(
        [Look(ONE, msgspec.structs.replace(status, ready=True, reasons=["the key is not accepted"]))]
    )
    assert lines[0].startswith(" READY ")
    assert lines[1].strip() == "! the key is not accepted"


def test_learnt_limits_are_shown(status: Status) -> None:
    """Where the exchange was found to allow fewer connections, a line says how many, of the first scopes by name."""
    budget = msgspec.structs.replace(status.budget, learnt={BTC: 2, "*": 7, "\x1b[2J": 1, "d": 1})
    lines = shown([Look(ONE, msgspec.structs.replace(status, budget=budget))])
    told = f"! the exchange allows fewer connections: 2 of {BTC}, 7 in all, 1 of \\x1b[2J and 1 more"
    assert [line.strip() for line in lines if "fewer" in line] == [told]
    assert not any("fewer" in line for line in shown([Look(ONE, status)]))


def test_several_daemons_are_one_whole(status: Status) -> None:
    """Rows of all daemons stand in the same tables, with their ports; one that does not answer is named."""
    lines = shown(
        [Look(ONE, status), Look(OTHER, status), Look("http://b:1", None, failure="no daemon answers")]
    )
    text = "\n".join(lines)
    assert "feeds 2/4" in text
    assert "DOWN  http://b:1  no daemon answers" in text
    assert sum(line.startswith(f"9464 {BTC} ") for line in lines) == 3
    assert sum(line.startswith(f"9465 {BTC} ") for line in lines) == 3
    assert text.count("consumers\n") <= 1


def test_names_do_nothing_to_a_terminal(status: Status) -> None:
    """Control characters and markup in names are shown as what they are."""
    name = "\x1b[31m[bold]evil\r"
    feed = msgspec.structs.replace(status.feeds[0], name=name)
    channel = ChannelStatus(f"{name}/x", "live", 1, 0.0, 0, None, 0, None)
    feed = msgspec.structs.replace(feed, channels=[channel], reasons=[name])
    consumer = ConsumerStatus(name, 1, 1, True, 0, 0, 0)
    hostile = msgspec.structs.replace(status, feeds=[feed], consumers=[consumer], reasons=[name])
    text = "\n".join(shown([Look(ONE, hostile)]))
    assert "\x1b[31m" not in text
    assert "\r" not in text
    assert text.count(r"\x1b[31m[bold]evil\r") >= 4


def test_nobody_answering_is_shown_without_tables() -> None:
    """There is a line for each that does not answer and nothing else."""
    assert shown([Look(ONE, None, failure="x"), Look(OTHER, None, failure="y")]) == [
        f"DOWN  {ONE}  x",
        f"DOWN  {OTHER}  y",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0 s"),
        (9.94, "9.9 s"),
        (10, "10 s"),
        (60, "1 m 0 s"),
        (3599, "59 m 59 s"),
        (86400 * 3 + 3600, "3 d 1 h"),
    ],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    """A time is told in the two units that matter."""
    assert duration(seconds) == text


# Asking


async def test_daemons_are_asked_and_failures_told(tmp_path: Path, autojump_clock: MockClock) -> None:
    """One that answers, one that does not, one that is something else: each has its own outcome."""
    async with staged(tmp_path, observe=Observe(http="127.0.0.1:0")) as stage:
        server = stage.daemon.observation.server
        assert server is not None
        url = f"http://127.0.0.1:{server.addresses[0][1]}"
        looks = await Asker([url + "/", "http://127.0.0.1:9", f"{url}/metrics?x=", url]).look(history=True)
    good, nobody, wrong = looks
    assert good.status is not None
    assert good.status.ready
    assert nobody.failure.startswith("no daemon answers")
    assert (wrong.status, wrong.failure) == (None, "the answer is no status of a feedhandler of this version")


def test_urls_are_checked() -> None:
    """What is no URL is a mistake with its option; without any the default is asked."""
    with pytest.raises(ConfigError, match="--url: expected a URL"):
        Asker(["localhost:9464"])
    assert Asker([])._urls == (DEFAULT_URL,)
