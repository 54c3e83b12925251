"""Consumers of the stream: those that the bridge creates, and the programs of nats.md, as users run them.

Server, bridge and clients are the real ones, and the server lets each user do what nats.md says and no more.
"""

import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

import pytest
import trio
from nats.js.api import AckPolicy, ConsumerConfig

from feedhandler.bridge.settings import ConsumerSettings
from feedhandler.bridge.subjects import channel_of, pattern_of, subject_of
from tests.bridge.nats import NatsServer, Received, nats_server
from tests.bridge.running import MARKETS, bridge, check, ended, exchange, sent_more
from tests.support.processes import PATIENCE_S, daemon, finished, until, write_config
from tests.support.references import Level, changes

DOCUMENT = Path(__file__).parents[2] / "deploy" / "nats.md"

RULES = """
authorization { users: [
  {user: "feed", password: "feed", permissions: {
    publish: ["feed.>", "$JS.API.STREAM.INFO.FEED", "$JS.API.STREAM.CREATE.FEED", "$JS.API.CONSUMER.CREATE.FEED",
              "$JS.API.CONSUMER.CREATE.FEED.>", "$JS.FC.>",
              "$JS.API.CONSUMER.INFO.FEED.*", "$JS.API.CONSUMER.DURABLE.CREATE.FEED.*"],
    subscribe: ["_INBOX.>"]
  }},
  {user: "desk", password: "desk", permissions: {
    publish: ["$JS.API.CONSUMER.INFO.FEED.desk", "$JS.API.CONSUMER.MSG.NEXT.FEED.desk", "$JS.ACK.FEED.desk.>"],
    subscribe: ["_INBOX.>"]
  }},
  {user: "root", password: "root"}
] }
"""
"""As nats.md has them; the last user is the test."""


def test_the_rules_are_those_of_the_document():
    """Every right that the server gives here is one that nats.md names."""
    text = DOCUMENT.read_text()
    rights = re.findall(r'"([$_f][^"]*[.>*][^"]*)"', RULES)
    assert len(rights) == 13
    assert all(f"`{right}`" in text for right in rights)


@pytest.mark.parametrize("channels", ["*", "*/publicTrades", "BTC-USD/*", "A.B/publicTrades", "*/*"])
def test_a_pattern_names_subjects(channels):
    """What a pattern means on the socket it means in the stream, with names that NATS keeps for itself, too."""
    pattern = re.escape(pattern_of("feed", channels)).replace(r"\*", "[^.]+").replace(">", ".+")
    for market in ("BTC-USD", "A.B", "AxB"):
        for stream in ("publicTrades", "publicOrderBook"):
            wanted = channels == "*" or all(
                part in {"*", name} for part, name in zip(channels.split("/"), (market, stream), strict=True)
            )
            subject = subject_of("feed", f"{market}/{stream}")
            assert channel_of("feed", subject) == f"{market}/{stream}"
            assert bool(re.fullmatch(pattern, subject)) == wanted


def test_what_the_server_leaves_out_is_compared():
    """A consumer without a limit, a filter or an inbox has them as nothing in the server's answer."""
    wanted = ConsumerSettings("desk").wanted("feed")
    assert list(ConsumerSettings("desk").differences("feed", wanted)) == []
    found = {**wanted, "filter_subject": None, "deliver_subject": "x", "ack_wait": 30 * 10**9}
    assert list(ConsumerSettings("desk").differences("feed", found)) == [
        "consumer desk: filter_subject: expected feed.>, found none (--consumer)",
        "consumer desk: ack_wait: expected 5 s, found 30 s",
        "consumer desk: deliver_subject: expected none, found x",
    ]


async def test_a_consumer_with_other_settings(tmp_path):
    """One that is there is compared and never changed; each difference is one line, and the exit code is 2."""
    async with nats_server(tmp_path) as server:
        await server.create("FEED", subjects=["feed.>"], max_bytes=16 * 2**30)
        other = ConsumerConfig(durable_name="desk", ack_policy=AckPolicy.ALL, max_deliver=3, ack_wait=5)
        await server.ask(lambda client: client.jetstream().add_consumer("FEED", other))
        command = ("bridge", "nats", "--socket", "x.sock", "--server", server.url, "--consumer", "desk")
        done = await finished(*command)
        assert done.process.returncode == 2
        assert [line for line in done.errors.lines if line.startswith("feedhandler:")] == [
            "feedhandler: consumer desk: filter_subject: expected feed.>, found none (--consumer)",
            "feedhandler: consumer desk: ack_policy: expected explicit, found all",
            "feedhandler: consumer desk: max_deliver: expected -1, found 3",
        ]
        info = await server.ask(lambda client: client.jetstream().consumer_info("FEED", "desk"))
        assert info.config.max_deliver == 3


# The programs of nats.md


def scripts() -> list[str]:
    """Return the programs of the document: the durable consumer, the reader of a book."""
    return re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


@asynccontextmanager
async def running(
    script: str, server: NatsServer, user: str, *arguments: Path
) -> AsyncIterator[trio.Process]:
    """Run a program of the document as a user beside the body; it is killed behind that."""
    url = server.url.replace("nats://", f"nats://{user}:{user}@")
    command = [sys.executable, "-u", "-c", script.replace("nats://10.0.0.5:4222", url), *map(str, arguments)]
    process = await trio.lowlevel.open_process(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdout.aclose()
            await process.stderr.aclose()


async def test_a_durable_consumer_that_is_killed(tmp_path):
    """Killed with messages in its hands, and in the middle of a line, it does each event once, in order, none twice."""
    durable, _ = scripts()
    rules, done = tmp_path / "nats.conf", tmp_path / "done"
    rules.write_text(RULES)
    (tmp_path / "password").write_text("feed")
    access = ("--user", "feed", "--password-file", tmp_path / "password")
    handed = []
    async with (
        nats_server(tmp_path, "-c", rules) as server,
        exchange(tmp_path, "--wait", 3, "--rate", 600) as simulated,
        daemon(write_config(tmp_path, simulated.url, markets=MARKETS)),
        bridge(server, tmp_path / "feed.sock", *access, "--consumer", "desk=*/publicTrades") as forwarding,
    ):
        server.options = {"user": "root", "password": "root"}
        await forwarding.errors.wait_for('"bridge_led"')
        for _ in range(4):
            before = done.stat().st_size if done.exists() else 0
            await sent_more(tmp_path, 600)  # so much is there at once
            async with running(durable, server, "desk", done):
                await until(
                    lambda before=before: done.exists() and done.stat().st_size > before, poll_s=0.002
                )
            info = await server.ask(lambda client: client.jetstream().consumer_info("FEED", "desk"))
            handed.append(info.num_ack_pending)
            with done.open("ab") as file:
                file.write(b'{"type":"event","chann')
        async with running(durable, server, "desk", done):
            sent, found = await ended(tmp_path, simulated, server)
            trades = [one.data for one in found if one.record["channel"].endswith("/publicTrades")]
            await until(lambda: len(done.read_bytes().splitlines()) >= len(trades))
    check(sent, found)
    assert done.read_bytes().splitlines() == trades
    assert sum(map(bool, handed)) >= 2, handed


async def test_a_durable_consumer_that_comes_too_late(tmp_path):
    """What the limits of the stream have deleted before it was read is told, and not passed over."""
    durable, _ = scripts()
    rules, done = tmp_path / "nats.conf", tmp_path / "done"
    rules.write_text(RULES)
    async with (
        nats_server(tmp_path) as server,
        exchange(tmp_path, "--wait", 3, "--rate", 300) as simulated,
        daemon(write_config(tmp_path, simulated.url, markets=MARKETS)),
        bridge(server, tmp_path / "feed.sock", "--consumer", "desk=*/publicTrades"),
    ):
        await sent_more(tmp_path, 300)
        async with running(durable, server, "desk", done):
            await until(lambda: done.exists() and done.stat().st_size > 0)
        await sent_more(tmp_path, 600)
        await server.ask(lambda client: client.jetstream().purge_stream("FEED", keep=100))
        async with running(durable, server, "desk", done) as late:
            with trio.fail_after(PATIENCE_S):
                said = b"".join([part async for part in late.stderr])
                assert await late.wait() == 1
    assert re.fullmatch(rb"\w+-USD/publicTrades: the stream has lost what is before \d+\n", said)


async def test_a_book_from_its_newest_snapshot(tmp_path):
    """Who comes late has, behind each record, the book that the whole stream makes."""
    _, reader = scripts()
    async with (
        nats_server(tmp_path) as server,
        exchange(tmp_path, "--wait", 3, "--rate", 300) as simulated,
        daemon(write_config(tmp_path, simulated.url, markets=MARKETS)),
        bridge(server, tmp_path / "feed.sock", "--snapshot-every-s", 1) as forwarding,
    ):
        await forwarding.errors.wait_for('"bridge_led"')
        await sent_more(tmp_path, 1500)
        async with running(reader, server, "nobody") as process:
            said = b""
            with trio.fail_after(PATIENCE_S):
                while said.count(b"\n") < 200:
                    said += await process.stdout.receive_some()
        await simulated.child.stop()
        found = await server.messages()
    lines = said.decode().splitlines()[:200]
    first = int(lines[0].split()[0])
    assert first > 1
    assert (
        lines
        == [line for line in bids_of(found, "BTC-USD/publicOrderBook") if int(line.split()[0]) >= first][:200]
    )


def bids_of(found: list[Received], channel: str) -> list[str]:
    """Return what the reader of a book should say of each record of a channel, had it read all of them."""
    book: dict[Level, Decimal] = {}
    lines = []
    for one in found:
        if one.record["channel"] == channel:
            book = ({} if one.record["type"] == "snapshot" else book) | changes(one.payload)
            book = {level: size for level, size in book.items() if size}
            bids = [float(price) for side, price in book if side == "buy"]
            lines.append(f"{one.record['seq']} {len(bids)} {max(bids, default=None)}")
    return lines
