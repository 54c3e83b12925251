"""The bridge as users start it, with a real nats-server, a simulated exchange and the daemon."""

from collections.abc import Callable, Sequence
from typing import Any

import nats
import trustme

from tests.bridge.nats import Received, nats_server
from tests.bridge.running import (
    MARKETS,
    bridge,
    check,
    ended,
    exchange,
    is_contiguous,
    marks,
    payloads,
    sent_more,
)
from tests.support.processes import daemon, finished, read_truth, until, write_config


async def test_one_host(tmp_path):
    """What an ordinary consumer reads is what the exchange sent; each book begins with a snapshot."""
    async with (
        nats_server(tmp_path) as server,
        exchange(tmp_path, "--wait", 3, "--rate", 300) as running,
        daemon(write_config(tmp_path, running.url, markets=MARKETS)),
        bridge(server, tmp_path / "feed.sock") as forwarding,
    ):
        await forwarding.errors.wait_for('"bridge_led"')
        await sent_more(tmp_path, 1000)
        sent, found = await ended(tmp_path, running, server)
        assert await forwarding.stop() == 0
    check(sent, found)
    for market in MARKETS:
        first = next(one.record for one in found if one.record["channel"] == f"{market}/publicOrderBook")
        assert (first["type"], first["reason"]) == ("snapshot", "start")


async def test_a_bridge_goes_on_where_the_stream_ends(tmp_path):
    """A bridge that is killed at any time, and started again, neither repeats nor leaves out."""
    async with (
        nats_server(tmp_path) as server,
        exchange(tmp_path, "--wait", 3, "--rate", 300) as running,
        daemon(write_config(tmp_path, running.url, markets=MARKETS)),
    ):
        for _ in range(3):
            async with bridge(server, tmp_path / "feed.sock") as forwarding:
                await forwarding.errors.wait_for('"bridge_led"')
                await sent_more(tmp_path, 300)
                forwarding.process.kill()
                await forwarding.wait()
        async with bridge(server, tmp_path / "feed.sock"):
            sent, found = await ended(tmp_path, running, server)
    check(sent, found)


async def test_a_server_that_restarts(tmp_path):
    """With NATS away the bridge keeps what comes, and goes on where the stream ends; killed servers forget nothing."""
    async with (
        nats_server(tmp_path) as server,
        exchange(tmp_path, "--wait", 3, "--rate", 300) as running,
        daemon(write_config(tmp_path, running.url, markets=MARKETS)),
        bridge(server, tmp_path / "feed.sock") as forwarding,
    ):
        await forwarding.errors.wait_for('"bridge_led"')
        for kill in (False, True):
            await sent_more(tmp_path, 200)
            await server.stop(kill=kill)
            await sent_more(tmp_path, 200)
            await server.start()
        sent, found = await ended(tmp_path, running, server)
    check(sent, found)


async def test_a_daemon_that_restarts(tmp_path):
    """What nobody was there for is one gap record in each channel, and a book begins anew behind it."""
    async with (
        nats_server(tmp_path) as server,
        exchange(tmp_path, "--rate", 300) as running,
        bridge(server, tmp_path / "feed.sock") as forwarding,
    ):
        for _ in range(2):
            # one line: where several begin in the middle, what one of them has from before the anchor is late, rightly
            async with daemon(write_config(tmp_path, running.url, markets=MARKETS, lines=1)):
                await forwarding.errors.wait_for('"bridge_led"')
                await sent_more(tmp_path, 1500)
            await sent_more(tmp_path, 100)
        found = await server.messages()
    assert is_contiguous(found)
    channels = {one.record["channel"] for one in found}
    assert sorted(marks(found)) == sorted(f"{channel}: gap" for channel in channels)
    for channel in channels:
        records = [one.record for one in found if one.record["channel"] == channel]
        at = next(index for index, one in enumerate(records) if one["type"] == "gap")
        assert records[at]["reason"] == "unforwarded"
        assert records[at]["since"] < records[at]["until"]
        if channel.endswith("/publicOrderBook"):
            assert records[at + 1]["type"] == "snapshot"
        assert len(records) > at + 2


async def test_a_full_stream(tmp_path):
    """A stream that takes no more (`discard` new) loses nothing: the bridge says so, and goes on when there is room."""
    async with (
        nats_server(tmp_path) as server,
        exchange(tmp_path, "--wait", 3, "--rate", 300) as running,
        daemon(write_config(tmp_path, running.url, markets=MARKETS)),
        bridge(server, tmp_path / "feed.sock", "--discard", "new", "--max-msgs", 300) as forwarding,
    ):
        refused = await forwarding.errors.wait_for('"bridge_refused"')
        assert "maximum messages exceeded" in refused
        first = await server.messages()
        assert len(first) == 300
        await sent_more(tmp_path, 300)
        await server.ask(_purge)
        await running.child.stop()
        sent = read_truth(tmp_path / "truth")
        rest: list[Received] = []
        while sum(map(len, sent.values())) > sum(map(len, payloads(first + rest).values())):
            rest += await server.messages()
            await server.ask(_purge_up_to(len(first) + len(rest)))
    check(sent, first + rest)


def _purge_up_to(count: int) -> Callable[[nats.NATS], Any]:
    async def purge(client: nats.NATS) -> None:
        await client.jetstream().purge_stream("FEED", seq=count + 1)

    return purge


async def _purge(client: nats.NATS) -> None:
    await client.jetstream().purge_stream("FEED")


async def test_a_server_that_is_away_too_long(tmp_path):
    """What neither the bridge nor the backlog could keep is a gap record, and whole is what stands between them."""
    # the exchange waits for all lines: one that brings what was before the anchor makes that late, rightly
    async with nats_server(tmp_path) as server, exchange(tmp_path, "--wait", 3, "--rate", 1500) as running:
        config = write_config(tmp_path, running.url, markets=MARKETS)
        async with (
            daemon(config, "--set", "publish.backlog_mib=1"),
            bridge(server, tmp_path / "feed.sock", "--pending-mib", 0.5) as forwarding,
        ):
            await forwarding.errors.wait_for('"bridge_led"')
            await sent_more(tmp_path, 500)
            await server.stop()
            await sent_more(tmp_path, 12_000)
            await server.start()
            await forwarding.errors.wait_for('"bridge_gap_declared"')
            await sent_more(tmp_path, 1000)
            await running.child.stop()
            await until(
                lambda: len({note["channel"] for note in forwarding.notes("bridge_gap_declared")}) == 4
            )
            assert await forwarding.stop() == 0
        found = await server.messages()
    sent = read_truth(tmp_path / "truth")
    assert is_contiguous(found)
    assert set(marks(found)) == {f"{channel}: gap" for channel in sent}
    assert {one.record["reason"] for one in found if one.record["type"] == "gap"} == {"unforwarded"}
    for channel, whole in sent.items():
        end = 0
        for part in parts(found, channel):
            begin = whole.index(part[0], end)
            end = begin + len(part)
            assert part == whole[begin:end]


def parts(found: Sequence[Received], channel: str) -> list[list[bytes]]:
    """Return the exchange's messages of a channel, cut at its gap records."""
    cut: list[list[bytes]] = [[]]
    for one in found:
        if one.record["channel"] != channel:
            continue
        if one.record["type"] == "gap":
            cut.append([])
        elif one.record["type"] == "event":
            cut[-1].append(one.payload)
    return [part for part in cut if part]


async def test_tls(tmp_path):
    """A server with a certificate is believed only with its authority's; without, the last line says why."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    options = ("--tlscert", tmp_path / "cert.pem", "--tlskey", tmp_path / "key.pem")
    async with nats_server(tmp_path, "--tls", *options) as server:
        url = server.url.replace("nats:", "tls:")
        refused = await finished("bridge", "nats", "--socket", "x", "--server", url)
        assert refused.process.returncode == 1
        assert refused.errors.lines[-1].startswith("feedhandler: the server's certificate is not accepted: ")
        async with bridge(
            server, tmp_path / "x.sock", "--tls-ca", tmp_path / "ca.pem", url=url
        ) as forwarding:
            await forwarding.errors.wait_for('"bridge_linked"')
        done = await finished(
            "bridge", "nats", "--socket", "x", "--server", url, "--tls-ca", tmp_path / "none.pem"
        )
    assert (done.process.returncode, done.errors.lines[-1]) == (
        2,
        f"feedhandler: --tls-ca: {tmp_path / 'none.pem'}: no such file or directory",
    )


async def test_odd_names(tmp_path):
    """Markets whose names hold what NATS keeps for itself have subjects of their own."""
    markets = ("A.B", "C D", "E>F", "BTC%2DUSD", "BTC-USD", "ÄÖ")
    async with (
        nats_server(tmp_path) as server,
        exchange(tmp_path, "--wait", 3, "--rate", 200, markets=markets) as running,
        daemon(write_config(tmp_path, running.url, markets=markets)),
        bridge(server, tmp_path / "feed.sock"),
    ):
        await sent_more(tmp_path, 500)
        sent, found = await ended(tmp_path, running, server)
    check(sent, found)
    assert {one.subject for one in found} >= {"feed.A%2EB.publicTrades", "feed.C%20D.publicTrades"}


RULES = """
authorization {
  users: [{user: "feed", password: "open sesame", permissions: {
    publish: ["feed.>", "$JS.API.STREAM.INFO.FEED", "$JS.API.STREAM.CREATE.FEED", "$JS.API.CONSUMER.CREATE.FEED",
              "$JS.API.CONSUMER.CREATE.FEED.>", "$JS.FC.>"],
    subscribe: ["_INBOX.>"]
  }}]
}
"""


async def test_a_server_that_refuses(tmp_path):
    """A wrong password ends the bridge with one line, which does not say what it was; the right one lets it in."""
    rules = tmp_path / "nats.conf"
    rules.write_text(RULES)
    password = tmp_path / "password"
    arguments = ("--user", "feed", "--password-file", password)
    async with nats_server(tmp_path, "-c", rules) as server:
        password.write_text("swordfish\n")
        for given in ((), arguments):
            refused = await finished("bridge", "nats", "--socket", "x.sock", "--server", server.url, *given)
            assert refused.process.returncode == 1
            assert refused.errors.lines[-1] == "feedhandler: the server refuses the credentials"
            assert "swordfish" not in str(refused.errors)
        password.write_text("open sesame\n")
        async with bridge(server, tmp_path / "x.sock", *arguments) as forwarding:
            await forwarding.errors.wait_for('"bridge_linked"')
            assert "sesame" not in str(forwarding.errors)
            assert await forwarding.stop() == 0


async def test_a_stream_with_other_settings(tmp_path):
    """A stream that is there is compared and never changed; each difference is one line, and the exit code is 2."""
    async with nats_server(tmp_path) as server:
        await server.create("FEED", subjects=["feed.>"], max_age=3600, max_bytes=2**20)
        done = await finished("bridge", "nats", "--socket", "x.sock", "--server", server.url)
        assert done.process.returncode == 2
        assert [line for line in done.errors.lines if line.startswith("feedhandler:")] == [
            "feedhandler: stream FEED: max_bytes: expected 17179869184, found 1048576 (--max-gib)",
            "feedhandler: stream FEED: max_age: expected 0 s, found 3600 s (--max-age-h)",
        ]
        given = ("--max-age-h", 1, "--max-gib", 2**-10)
        async with bridge(server, tmp_path / "x.sock", *given) as forwarding:
            await forwarding.errors.wait_for('"bridge_linked"')


async def test_a_stream_that_is_replaced(tmp_path):
    """A bridge whose stream was deleted meanwhile ends with 1; the next run begins a new one."""
    async with (
        nats_server(tmp_path) as server,
        exchange(tmp_path, "--rate", 100) as running,
        daemon(write_config(tmp_path, running.url, markets=MARKETS)),
    ):
        async with bridge(server, tmp_path / "feed.sock") as forwarding:
            await forwarding.errors.wait_for('"bridge_led"')
            await sent_more(tmp_path, 100)
            await server.ask(lambda client: client.jetstream().delete_stream("FEED"))
            assert await forwarding.wait() == 1
            assert forwarding.errors.lines[-1].startswith("feedhandler: stream FEED ends before")
        async with bridge(server, tmp_path / "feed.sock") as forwarding:
            await forwarding.errors.wait_for('"bridge_led"')
            await sent_more(tmp_path, 100)
        assert is_contiguous(await server.messages())


async def test_subjects_that_belong_to_another_stream(tmp_path):
    """Where the subjects are another stream's, the server's own word is told and the bridge tries on."""
    async with nats_server(tmp_path) as server:
        await server.create("OTHERS", subjects=["feed.*.publicTrades"])
        async with bridge(server, tmp_path / "x.sock") as forwarding:
            line = await forwarding.errors.wait_for('"bridge_link_lost"')
            assert "subjects overlap" in line


async def test_bad_usage():
    """Every mistake of the command line is one line with its option."""
    done = await finished(
        "bridge",
        "nats",
        "--socket",
        "x",
        "--server",
        "http://a:b@c",
        "--prefix",
        "a b",
        "--stream",
        "a.b",
        "--user",
        "x",
        "--max-age-h",
        0.01,
    )
    assert done.process.returncode == 2
    assert done.errors.lines == [
        "feedhandler: --server: expected nats:// or tls://, without user or password",
        "feedhandler: --prefix: expected letters, digits, - and _, in parts with dots between them",
        "feedhandler: --stream: expected letters, digits, - and _",
        "feedhandler: --user: goes with --password-file",
        "feedhandler: --duplicate-window-s: longer than --max-age-h",
    ]
