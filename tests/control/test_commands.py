# ruff: noqa: ARG001 - the clock works by being asked for
"""The commands of an operator, carried out on a daemon that runs over loopback; and each mistake's one line."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from feedhandler.config import Feed, Limits
from feedhandler.control.requests import Request
from feedhandler.errors import ConfigError
from feedhandler.observe.status import Status
from tests.support.stage import BTC, ETH, Stage, staged

SOL = "SOL-USD"
TWO = (
    Feed(markets=(BTC,), streams=("publicTrades",)),
    Feed(name="books", markets=(BTC, ETH), streams=("publicOrderBook",)),
)


async def ask(stage: Stage, op: Any, **names: str) -> dict[str, Any]:
    """Ask over the control socket."""
    path = stage.config.publish.socket.parent / "control.sock"
    async with await trio.open_unix_socket(os.fspath(path)) as stream:
        await stream.send_all(msgspec.json.encode(Request(op, **names)) + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            answer += await stream.receive_some()
        return json.loads(answer)


async def test_lines_are_listed_replaced_paused_and_resumed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What is steered shows in the list, and costs the stream nothing."""
    async with staged(tmp_path) as stage:
        (listed,) = (await ask(stage, "list"))["result"]["feeds"]
        assert (listed["name"], listed["state"]) == (BTC, "live")
        assert [line["name"] for line in listed["lines"]] == ["a", "b"]
        assert {one["name"] for one in listed["channels"]} == {
            f"{BTC}/publicTrades",
            f"{BTC}/publicOrderBook",
        }
        assert (await ask(stage, "restart", feed=BTC, line="a"))["ok"]
        await stage.talk_until(lambda: bool(stage.named("line_replaced")))
        await stage.talk_until(stage.all_up)
        before = set(stage.daemon.feeds[BTC].lines)
        assert (await ask(stage, "rotate", feed=BTC))["ok"]
        await stage.talk_until(lambda: len(stage.named("line_replaced")) == 3)
        assert {one["line"] for one in stage.named("line_replaced")[1:]} == before
        await stage.talk_until(stage.all_up)
        name, other = stage.daemon.feeds[BTC].lines
        assert (await ask(stage, "pause", feed=BTC, line=name))["ok"]
        await stage.talk(2)
        assert len(stage.exchange.connections(BTC)) == 1
        refused = await ask(stage, "pause", feed=BTC, line=other)
        assert refused["code"] == "line_needed"
        assert refused["error"] == f"line {other} is the last aligned one of feed {BTC}"
        assert (await ask(stage, "resume", feed=BTC, line=name))["ok"]
        await stage.talk_until(stage.all_up)
        await stage.arrived()
        stage.assert_exact()


async def test_the_list_is_the_state_that_everybody_sees(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The list is a whole status, with how fast the channels are, whether or not it is served over HTTP."""
    async with staged(tmp_path) as stage:
        await stage.talk(11)
        listed = msgspec.convert((await ask(stage, "list"))["result"], Status)
        assert listed.session == stage.daemon.publisher.session
        assert all(channel.rate > 0 for channel in listed.feeds[0].channels)


async def test_streams_and_markets_are_added_and_dropped(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Each is answered at once and carried out; what was changed by hand ends with the next reading of the file."""
    feeds = (Feed(markets=(BTC,), streams=("publicTrades",)),)
    async with staged(tmp_path, markets=(BTC, ETH), feeds=feeds) as stage:
        assert (await ask(stage, "add-stream", feed=BTC, stream="publicOrderBook"))["ok"]
        assert (await ask(stage, "add-market", market=ETH))["result"] == f"feed {ETH} is opened"
        await stage.until(stage.all_connected)
        await stage.talk_until(stage.all_up)
        await stage.talk(2)
        assert (await ask(stage, "drop-stream", feed=BTC, stream="publicTrades"))["ok"]
        await stage.talk(2)
        listed = (await ask(stage, "list"))["result"]["feeds"]
        streams = {one["name"]: one["streams"] for one in listed}
        assert streams == {BTC: ["publicOrderBook"], ETH: ["publicTrades"]}
        assert (await ask(stage, "drop-market", market=ETH))["ok"]
        assert set(stage.daemon.feeds) == {BTC}
        stage.load = lambda: stage.config
        assert (await ask(stage, "reload"))["result"] == "the configuration is in force"
        assert stage.daemon.feeds[BTC].streams == ("publicTrades",)
        assert set(stage.daemon.feeds) == {BTC}
        await stage.talk(1)


@pytest.mark.parametrize(
    ("op", "names", "error"),
    [
        ("rotate", {"feed": "XRP"}, f"there is no feed XRP; there are: {BTC}, books/{BTC}, books/{ETH}"),
        ("restart", {"feed": BTC, "line": "z"}, f"there is no line z of {BTC}; there are: a, b"),
        (
            "add-stream",
            {"feed": BTC, "stream": "news"},
            "there is no stream news; there are: publicTrades, publicOrderBook, orders, trades",
        ),
        ("add-stream", {"feed": BTC, "stream": "publicTrades"}, f"{BTC} has publicTrades already"),
        (
            "add-stream",
            {"feed": BTC, "stream": "publicOrderBook"},
            f"channel {BTC}/publicOrderBook is in feed books/{BTC} already",
        ),
        ("add-stream", {"feed": BTC, "stream": "orders"}, "account streams get their own feed"),
        ("drop-stream", {"feed": BTC, "stream": "orders"}, f"{BTC} has no orders; there are: publicTrades"),
        (
            "drop-stream",
            {"feed": BTC, "stream": "publicTrades"},
            f"publicTrades is the only stream of {BTC}: drop its market instead",
        ),
        ("add-market", {"market": "ALL"}, "expected the name of one market"),
        (
            "add-market",
            {"market": SOL},
            "name the section that the market is added to; there are: feed[0], books",
        ),
        ("add-market", {"market": SOL, "feed": "x"}, "there is no section x; there are: feed[0], books"),
        ("add-market", {"market": BTC, "feed": "feed[0]"}, f"there is a feed {BTC} already"),
        (
            "add-market",
            {"market": SOL, "feed": "books"},
            "8 lines of all markets together, limits.connections_total is 6",
        ),
        (
            "drop-market",
            {"market": SOL},
            f"no feed is over {SOL}; there are: {BTC}, books/{BTC}, books/{ETH}",
        ),
    ],
)
async def test_each_mistake_has_its_line(
    tmp_path: Path, autojump_clock: MockClock, op: str, names: dict[str, str], error: str
) -> None:
    """What cannot be done is refused with the reason and with what there is; nothing has changed."""
    limits = Limits(connections_per_minute=1000, connections_total=6)
    async with staged(tmp_path, markets=(BTC, ETH), feeds=TWO, limits=limits, wait=False) as stage:
        before = dict(stage.daemon.fleet.running)
        answer = await ask(stage, op, **names)
        assert (answer["ok"], answer["error"]) == (False, error)
        assert stage.daemon.fleet.running == before
        (noted,) = stage.named("command_received")
        assert noted["outcome"] == answer["code"]


async def test_lines_that_are_not_connected_are_told_apart(tmp_path: Path, autojump_clock: MockClock) -> None:
    """What is asked of a line without a connection is answered by what can be done about it."""
    async with staged(tmp_path) as stage:
        assert (await ask(stage, "pause", feed=BTC, line="a"))["ok"]
        await stage.talk(2)
        paused = await ask(stage, "restart", feed=BTC, line="a")
        assert (paused["code"], paused["error"]) == (
            "paused",
            f"line a of {BTC} is paused: resume it instead",
        )
        rotated = await ask(stage, "rotate", feed=BTC)
        assert rotated["result"] == (
            f"the lines of {BTC} are being replaced, one after the other; not connected, so left alone: a"
        )
        await stage.talk_until(lambda: bool(stage.named("line_replaced")))
        stage.strike("outage", "all", duration_s=30)
        await stage.talk(20)
        _, line = lines = stage.daemon.feeds[BTC].lines
        await stage.until(lambda: lines[line].doing == "backoff")
        assert (await ask(stage, "rotate", feed=BTC))["error"] == (
            f"no line of {BTC} is connected: there is nothing to replace"
        )
        assert (await ask(stage, "restart", feed=BTC, line=line))["result"] == (
            f"line {line} of {BTC} is not connected (backoff); it is tried as soon as the limits allow"
        )
        failed = len(stage.named("connect_failed"))
        await trio.sleep(0.1)
        assert len(stage.named("connect_failed")) > failed


async def test_a_market_of_two_feeds_is_dropped_by_label(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A label says which of a market's feeds goes; a feed without a name has the market's own."""
    async with staged(tmp_path, markets=(BTC, ETH), feeds=TWO, wait=False) as stage:
        assert (await ask(stage, "drop-market", market=f"books/{BTC}"))["ok"]
        assert (await ask(stage, "drop-market", market=ETH))["result"] == f"feed books/{ETH} is given up"
        assert set(stage.daemon.feeds) == {BTC}


async def test_a_file_with_a_mistake_is_refused_with_it(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The mistakes come back to who asked, and nothing has changed."""

    def broken() -> Any:
        raise ConfigError(["feed[0].lines: expected 1..8, got 0", "log.level: expected info"])

    async with staged(tmp_path) as stage:
        stage.load = broken
        answer = await ask(stage, "reload")
        assert answer["code"] == "bad_config"
        assert answer["error"] == "feed[0].lines: expected 1..8, got 0; log.level: expected info"
        assert len(stage.named("config_refused")) == 2
        await stage.talk(1)
        await stage.arrived()
        stage.assert_exact()


async def test_a_daemon_that_ends_is_not_changed_any_more(tmp_path: Path, autojump_clock: MockClock) -> None:
    """While a consumer is waited for, each command has its answer, and the end comes when it is due."""
    async with staged(tmp_path, markets=(BTC, ETH), feeds=(Feed(markets=(BTC,)),)) as stage:
        sock = socket.socket(socket.AF_UNIX)
        with sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(os.fspath(stage.config.publish.socket))
            sock.send(b'{"op":"subscribe","channels":["*"]}\n')
            stage.say(5000)
            await stage.arrived()
            assert (await ask(stage, "drain"))["ok"]
            begun_s = trio.current_time()
            await trio.sleep(1)
            for op, names in (
                ("list", {}), ("restart", {"feed": BTC, "line": "a"}), ("rotate", {"feed": BTC}),
                ("pause", {"feed": BTC, "line": "a"}), ("resume", {"feed": BTC, "line": "a"}),
                ("drop-stream", {"feed": BTC, "stream": "publicTrades"}),
                ("add-stream", {"feed": BTC, "stream": "publicTrades"}),
                ("add-market", {"market": ETH}), ("drop-market", {"market": BTC}), ("drain", {}),
            ):  # fmt: skip
                answer = await ask(stage, op, **names)
                assert answer["ok"] == (op in {"list", "drain"})
                assert answer.get("code", "draining") == "draining"
            await stage.until(lambda: bool(stage.named("daemon_stopped")))
            assert trio.current_time() - begun_s < stage.config.publish.drain_s + 1


async def test_drain_ends_the_daemon(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The answer comes first; consumers get what is pending and a last word."""
    async with staged(tmp_path) as stage:
        stage.say(100)
        assert (await ask(stage, "drain"))["ok"]
        await stage.until(lambda: bool(stage.named("daemon_stopped")))
        await trio.sleep(1)
        assert stage.reading.records[-1] == {"type": "bye", "reason": "shutdown"}
        assert not (tmp_path / "control.sock").exists()
